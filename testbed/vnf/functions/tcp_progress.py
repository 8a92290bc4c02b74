"""How far the TCP flows of an instance have come: which segments are sent for the first time.

A set of `WAYS` flows is one record, found by a hash of the flow key; the flow that came to it first
makes room for a new one. What is forgotten, or moves away with another flow, counts as new, and of
a new flow no segment counts as sent for the first time before the next.

    tag           key     value
    PROGRESS_TAG  set     for each way the flow's hash and the highest sequence number seen, plus
                          1; then the way that the next flow takes
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.effect import begin_put, put
from testbed.vnf.functions.table import plain_key
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import Records, find

PROGRESS_TAG = 0x03
WAYS = 8
_NEXT_WAY = 2 * WAYS
_32_BITS = 0xFFFFFFFF


@compiled
def advance(
    records: Records, effect: Words, hashed: int, sets: int, begin: int, end: int, opening: int
) -> bool:
    """Note a segment of the bytes `begin` .. `end` (sequence numbers, `end` not included).

    True if none of them was seen before, by a flow that is known. `opening` (SYN) begins anew.
    """
    begin &= _32_BITS
    end &= _32_BITS
    flow = hashed | 1  # 0 stands for no flow
    key = plain_key(PROGRESS_TAG, ((hashed >> 32) & 0x7FFFFFFF) % sets)
    row = find(records, key)
    way = _way_of(records, row, flow)
    if way < 0:
        way = records.values[row, _NEXT_WAY] % WAYS if row >= 0 else 0
        at = begin_put(effect, key, 2 * way, 2)
        if at >= 0:
            effect[at] = flow
            effect[at + 1] = end
        put(effect, key, _NEXT_WAY, (way + 1) % WAYS)
        return False
    highest = records.values[row, 2 * way + 1]
    if opening or _ahead(end, highest):
        put(effect, key, 2 * way + 1, end)
    return opening == 0 and not _ahead(highest, begin)


@compiled
def restart(records: Records, effect: Words, hashed: int, sets: int, sequence: int) -> None:
    """Note that a connection begins anew, if it is known."""
    key = plain_key(PROGRESS_TAG, ((hashed >> 32) & 0x7FFFFFFF) % sets)
    row = find(records, key)
    way = _way_of(records, row, hashed | 1)
    if way >= 0:
        put(effect, key, 2 * way + 1, sequence & _32_BITS)


@compiled
def _way_of(records: Records, row: int, flow: int) -> int:
    if row >= 0:
        for way in range(WAYS):
            if records.values[row, 2 * way] == flow:
                return way
    return -1


@compiled
def _ahead(one: int, other: int) -> bool:
    """Whether a sequence number is beyond another (RFC 9293 3.4)."""
    return 0 < (one - other) & _32_BITS < 0x80000000
