"""A member takes memory as it uses it: a start that clears its tables would take milliseconds."""

from __future__ import annotations

import resource

import numpy as np

from testbed.vnf.replication.member import ReplicationConfig, new_member
from testbed.vnf.state.records import new_records

PAGE_BYTES = resource.getpagesize()
CONFIG = ReplicationConfig(
    mode="pipelined",
    batch_packets=80,
    batch_ns=0,
    gap_timeout_ns=1,
    retransmit_ns=1,
    lease_ns=1,
    buffer_packets=4096,
)


def test_a_new_member_touches_little_of_its_memory() -> None:
    new_member(CONFIG, new_records(1 << 16, 8), np.zeros(1, np.int64), 0)  # compiles
    records = new_records(1 << 16, 8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    member = new_member(CONFIG, records, np.zeros(1, np.int64), 0)
    touched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert member.words.nbytes > 10_000 * PAGE_BYTES
    assert touched < 100
