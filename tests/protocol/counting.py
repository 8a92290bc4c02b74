"""The network function of the simulation: outputs, some verdicts and the state depend on the state.

It counts the packets of each flow and of all flows, remembers the last packet, and forgets a
record now and then. An input is made from its stamp alone.
"""

from __future__ import annotations

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.functions.effect import begin_put, drop, erase, forward, put
from testbed.vnf.functions.function import Call, compiled_process
from testbed.vnf.state.arrays import Bytes
from testbed.vnf.state.records import Records, find, new_records

CAPACITY, VALUE_WORDS = 16, 3
SMALLEST, LARGE = 12, 72
"""Bytes of inputs; a large one has no room in a member of the simulation."""

OF_FLOW, TOTAL, LAST, ODD = 1, 2, 3, 4
"""Kinds of records."""


def new_counting_state() -> Records:
    """An empty state of the function."""
    return new_records(CAPACITY, VALUE_WORDS)


@compiled
def write_input(packet: Bytes, flow: int, epoch: int, seq: int, length: int) -> None:
    """The input with this stamp."""
    for i in range(length):
        packet[i] = (flow * 31 + epoch * 17 + seq * 7 + i * 3) & 0xFF
    packet[0], packet[1], packet[2] = flow, epoch, seq


@compiled
def input_length(flow: int, epoch: int, seq: int, large: int) -> int:
    """Bytes of the input with this stamp; with `large`, some are too large."""
    if large and (flow + 3 * epoch + 5 * seq) % 11 == 7:
        return LARGE
    return SMALLEST + (flow * 5 + epoch * 3 + seq * 7) % 23


@compiled_process
def count_packets(call: Call) -> int:
    """Count, and say the counts behind the packet."""
    flow, epoch, seq = np.int64(call.packet[0]), np.int64(call.packet[1]), np.int64(call.packet[2])
    row = find(call.records, (OF_FLOW, flow, 0, 0, 0))
    of_flow = call.records.values[row, 0] + 1 if row >= 0 else 1
    row = find(call.records, (TOTAL, 0, 0, 0, 0))
    total = call.records.values[row, 1] + 1 if row >= 0 else 1
    put(call.effect, (OF_FLOW, flow, 0, 0, 0), 0, of_flow)
    put(call.effect, (TOTAL, 0, 0, 0, 0), 1, total)
    at = begin_put(call.effect, (LAST, 0, 0, 0, 7), 0, VALUE_WORDS)
    if at >= 0:
        call.effect[at], call.effect[at + 1], call.effect[at + 2] = flow, epoch, seq
    if total % 3 == 0:
        erase(call.effect, (ODD, flow, seq & 1, 0, 0))
    else:
        put(call.effect, (ODD, flow, seq & 1, 0, 0), 2, total)
    if total % 7 == 0 or (seq * 5 + of_flow) % 11 == 3:
        return drop(call.effect, 1 + (total & 1))
    call.packet[call.length] = of_flow & 0xFF
    call.packet[call.length + 1] = total & 0xFF
    call.packet[3] = call.reverse
    return forward(call.effect, call.length + 2)
