"""A network function with linearizable state, for the tests of it: each packet draws a ticket.

A ticket is the next number of a counter that all groups share. The packet says its ticket when it
goes on. Packets are named by their first three bytes (see `counting.write_input`) and the group's
number, which is the configuration.
"""

from __future__ import annotations

from testbed.vnf.functions.effect import forward, put
from testbed.vnf.functions.function import Call, compiled_process
from testbed.vnf.functions.sharing import TAG_SHIFT
from testbed.vnf.state.records import Records, find, new_records

COUNTER_TAG, TICKET_TAG, SEEN_TAG = 0x60, 0x61, 0x01
CAPACITY, VALUE_WORDS = 512, 2


def new_ticket_state() -> Records:
    """An empty state of the function."""
    return new_records(CAPACITY, VALUE_WORDS)


@compiled_process
def draw_ticket(call: Call) -> int:
    """Draw a ticket, count in the group's own records, say both."""
    name = call.config[0] << 24 | call.packet[0] << 16 | call.packet[1] << 8 | call.packet[2]
    zero = name & 0
    row = find(call.records, (SEEN_TAG << TAG_SHIFT, zero, zero, zero, zero))
    seen = call.records.values[row, 0] + 1 if row >= 0 else 1
    put(call.effect, (SEEN_TAG << TAG_SHIFT, zero, zero, zero, zero), 0, seen)
    row = find(call.records, (TICKET_TAG << TAG_SHIFT | name, zero, zero, zero, zero))
    ticket = call.records.values[row, 1] if row >= 0 else 0
    if ticket == 0:
        row = find(call.records, (COUNTER_TAG << TAG_SHIFT, zero, zero, zero, zero))
        ticket = call.records.values[row, 0] + 1 if row >= 0 else 1
        put(call.effect, (COUNTER_TAG << TAG_SHIFT, zero, zero, zero, zero), 0, ticket)
        put(call.effect, (TICKET_TAG << TAG_SHIFT | name, zero, zero, zero, zero), 1, ticket)
    call.packet[call.length] = ticket >> 8
    call.packet[call.length + 1] = ticket & 0xFF
    call.packet[call.length + 2] = seen & 0xFF
    return forward(call.effect, call.length + 3)
