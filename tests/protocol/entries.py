"""The two entries of the simulation; compiled, or loaded from the cache, when this is imported.

The network function is a value for them, as it is for the runtime, so both share what is compiled
of the product.
"""

from __future__ import annotations

from numba import types

from testbed.compiled import compiled
from testbed.vnf.functions.function import PROCESS_TYPE, Process
from testbed.vnf.replication.member import Member
from testbed.vnf.state.arrays import Words
from tests.protocol.simulator import run_schedule
from tests.protocol.world import MEMBERS, WORDS

_INT = types.int64


@compiled(_INT(WORDS, MEMBERS, PROCESS_TYPE, _INT, _INT, _INT, _INT, WORDS))
def run_schedules(
    w: Words,
    members: tuple[Member, ...],
    process: Process,
    first: int,
    count: int,
    seeded: int,
    most: int,
    failed: Words,
) -> int:
    """Run the schedules of `count` seeds; how many failed, and the first `most` of them."""
    bad = 0
    for seed in range(first, first + count):
        if run_schedule(w, members, process, seed, seeded):
            if bad < most:
                failed[bad] = seed
            bad += 1
    return bad
