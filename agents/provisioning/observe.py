"""What is seen at the data centre whose turn it is: the paper's three parts and the other centres.

Counts are log(1 + n) / 6 (1 stands for some 400), sizes are shares of the largest there can be,
so that all columns are about 0 to 1. "Here" is the data centre whose turn it is. Columns:

own [OWN]: free CPU / 120, CPU capacity / 120, free RAM, free storage, decisions left in the step,
    share of the turns that are still to come, chains there are; then for each VNF: idle instances,
    running ones, share of an instance's step that servable chains would fill (at most 1), servable
    chains, those of them that it would complete, those of them that are here, time left of the most
    urgent / 100 ms. Servable are, of each group, as many chains as an instance here could serve in
    this step if it served no other group (`servable` in chains.py).
underway [TYPES, UNDERWAY], chains of the type with a VNF behind them: how many, how many of them
    here, time left of the most urgent / bound, and how many need their second ... fifth VNF next.
pending [TYPES, PENDING], requests of the type without one: how many, how many here, time left of
    the most urgent / bound, their rate in links' rates, how many of them are servable here.
centres [D, CENTRE]: free CPU / 120, capacity / 120, delay from here / 5 ms, free rate of the link
    from here, whether it is here, whether its turn is still to come, chains there, idle instances
    of each VNF, chains there that need each VNF next.
"""

from __future__ import annotations

import numpy as np

from agents.provisioning.chains import (
    BOUND_TABLE,
    LENGTH_TABLE,
    PROCESSING_TABLE,
    next_vnf,
    servable,
    time_left_ms,
)
from agents.provisioning.kernel import valid_actions
from agents.provisioning.types import (
    ACTIONS,
    ACTIONS_A_STEP,
    LINK_MBPS,
    RAM_CAPACITY_GB,
    STORAGE_CAPACITY_GB,
    TYPES,
    VNFS,
    Observation,
    State,
)
from testbed.compiled import compiled

HEAD, EACH = 7, 7
OWN = HEAD + EACH * VNFS
UNDERWAY = 7
PENDING = 5
CENTRE = 7 + 2 * VNFS
LARGEST_CPU = 120.0
LONGEST_WAY_MS = 5.0
LONGEST_BOUND_MS = 100.0
CUT = 4.0
"""No column is above it."""


def empty_observation(batch: int, centres: int) -> Observation:
    """Room for `batch` observations of at most `centres` data centres."""
    return Observation(
        np.zeros((batch, OWN), dtype=np.float32),
        np.zeros((batch, TYPES, UNDERWAY), dtype=np.float32),
        np.zeros((batch, TYPES, PENDING), dtype=np.float32),
        np.zeros((batch, centres, CENTRE), dtype=np.float32),
        np.zeros((batch, centres), dtype=np.bool_),
        np.zeros((batch, ACTIONS), dtype=np.bool_),
    )


@compiled
def observe_all(s: State, out: Observation) -> None:
    """Write the observation of each episode into its row of `out`; zeros where it is over."""
    for b in range(len(s.step)):
        out.own[b] = 0.0
        out.underway[b] = 0.0
        out.pending[b] = 0.0
        out.centres[b] = 0.0
        out.present[b] = False
        for position in range(s.centres[b]):  # whoever has a turn is there, whatever its number
            out.present[b, s.order[b, position]] = True
        valid_actions(s, b, out.mask[b])
        if not s.done[b]:
            _observe_own(s, b, out)
            _observe_chains(s, b, out)
            _observe_centres(s, b, out)


@compiled
def _count(n: float) -> float:
    return np.log1p(n) / 6.0


@compiled
def _observe_own(s: State, b: int, out: Observation) -> None:
    d = s.order[b, s.turn[b]]
    own = out.own[b]
    own[0] = s.cpu_free[b, d] / LARGEST_CPU
    own[1] = s.cpu[b, d] / LARGEST_CPU
    own[2] = s.ram_free[b, d] / RAM_CAPACITY_GB
    own[3] = s.storage_free[b, d] / STORAGE_CAPACITY_GB
    own[4] = 1.0 - s.actions[b] / ACTIONS_A_STEP
    own[5] = (s.centres[b] - 1 - s.turn[b]) / s.centres[b]
    for v in range(VNFS):
        own[HEAD + EACH * v] = _count(s.idle[b, d, v])
        own[HEAD + EACH * v + 1] = _count(s.installed[b, d, v] - s.idle[b, d, v])


@compiled
def _observe_chains(s: State, b: int, out: Observation) -> None:
    d = s.order[b, s.turn[b]]
    own, underway, pending = out.own[b], out.underway[b], out.pending[b]
    now_ms = s.step[b] * 1.0
    for g in range(s.groups[b]):
        r, stage, v = s.bundle[b, g], s.stage[b, g], next_vnf(s, b, g)
        kind, size = s.kind[b, r], s.size[b, g]
        is_here = s.place[b, g] == d
        left_ms = max(0.0, time_left_ms(s, b, g))
        can = servable(s, b, g, d, now_ms)
        if can > 0:
            at = HEAD + EACH * v
            if own[at + 3] == 0.0:  # the first is the most urgent
                own[at + 6] = left_ms / LONGEST_BOUND_MS
            own[at + 3] += can
            own[at + 4] += can * (stage + 1 == LENGTH_TABLE[kind])
            own[at + 5] += can * is_here
        row = pending[kind] if stage == 0 else underway[kind]
        if row[0] == 0.0:
            row[2] = left_ms / BOUND_TABLE[kind]
        row[0] += size
        row[1] += size * is_here
        if stage == 0:
            row[3] += size * s.rate_mbps[b, r] / LINK_MBPS
            row[4] += can
        else:
            row[2 + stage] += size
        own[6] += size
        out.centres[b, s.place[b, g], 7 + VNFS + v] += size
        out.centres[b, s.place[b, g], 6] += size
    _scale(s, b, out)


@compiled
def _scale(s: State, b: int, out: Observation) -> None:
    """Turn the counts into columns."""
    out.own[b, 6] = _count(out.own[b, 6])
    for v in range(VNFS):
        at = HEAD + EACH * v
        out.own[b, at + 2] = min(1.0, out.own[b, at + 3] * PROCESSING_TABLE[v])
        for i in range(3, 6):
            out.own[b, at + i] = _count(out.own[b, at + i])
    for kind in range(TYPES):
        for i in (0, 1, 3, 4, 5, 6):
            out.underway[b, kind, i] = _count(out.underway[b, kind, i])
        for i in (0, 1, 4):
            out.pending[b, kind, i] = _count(out.pending[b, kind, i])
        out.pending[b, kind, 3] = min(CUT, out.pending[b, kind, 3])
    for d in range(out.centres.shape[1]):
        out.centres[b, d, 6] = _count(out.centres[b, d, 6])
        for v in range(VNFS):
            out.centres[b, d, 7 + VNFS + v] = _count(out.centres[b, d, 7 + VNFS + v])


@compiled
def _observe_centres(s: State, b: int, out: Observation) -> None:
    here = s.order[b, s.turn[b]]
    for position in range(s.centres[b]):
        d = s.order[b, position]
        row = out.centres[b, d]
        row[0] = s.cpu_free[b, d] / LARGEST_CPU
        row[1] = s.cpu[b, d] / LARGEST_CPU
        row[2] = min(CUT, s.delay_ms[b, here, d] / LONGEST_WAY_MS)
        row[3] = max(0.0, s.link_free[b, here, d]) / LINK_MBPS  # sums of rates are rounded
        row[4] = d == here
        row[5] = position > s.turn[b]
        for v in range(VNFS):
            row[7 + v] = _count(s.idle[b, d, v])
