"""A network function with linearizable state, for the tests of it: each packet draws a ticket.

A ticket is the next number of a counter that all groups share. The packet says its ticket when it
goes on. Packets are named by their first three bytes (see `counting.write_input`) and the group's
number, which is the configuration.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.effect import forward, put
from testbed.vnf.functions.function import PROCESS_SIGNATURE
from testbed.vnf.functions.sharing import TAG_SHIFT
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.records import Records, find, new_records

COUNTER_TAG, TICKET_TAG, SEEN_TAG = 0x60, 0x61, 0x01
CAPACITY, VALUE_WORDS = 512, 2


def new_ticket_state() -> Records:
    """An empty state of the function."""
    return new_records(CAPACITY, VALUE_WORDS)


@compiled(PROCESS_SIGNATURE)
def draw_ticket(
    packet: Bytes,
    length: int,
    reverse: int,
    now_ns: int,
    records: Records,
    effect: Words,
    config: Words,
) -> int:
    """Draw a ticket, count in the group's own records, say both."""
    name = config[0] << 24 | packet[0] << 16 | packet[1] << 8 | packet[2]
    zero = name & 0
    row = find(records, (SEEN_TAG << TAG_SHIFT, zero, zero, zero, zero))
    seen = records.values[row, 0] + 1 if row >= 0 else 1
    put(effect, (SEEN_TAG << TAG_SHIFT, zero, zero, zero, zero), 0, seen)
    row = find(records, (TICKET_TAG << TAG_SHIFT | name, zero, zero, zero, zero))
    ticket = records.values[row, 1] if row >= 0 else 0
    if ticket == 0:
        row = find(records, (COUNTER_TAG << TAG_SHIFT, zero, zero, zero, zero))
        ticket = records.values[row, 0] + 1 if row >= 0 else 1
        put(effect, (COUNTER_TAG << TAG_SHIFT, zero, zero, zero, zero), 0, ticket)
        put(effect, (TICKET_TAG << TAG_SHIFT | name, zero, zero, zero, zero), 1, ticket)
    packet[length] = ticket >> 8
    packet[length + 1] = ticket & 0xFF
    packet[length + 2] = seen & 0xFF
    return forward(effect, length + 3)
