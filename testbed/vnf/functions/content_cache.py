"""A bounded cache of payloads, each known by the flow that carried it and by its fingerprint.

A fingerprint finds a payload and never stands for it: who has the payload compares all of it. Of
two payloads of one flow with the same fingerprint, neither is kept. Payloads leave in the order in
which they came (round robin over `capacity` slots).

    tag          key                               value
    CONTENT_TAG  56 bits of a hash of the flow,    flow key (5 words), n bytes or 0 for two of the
                 fingerprint                       same fingerprint, slot, stored_ns, check, bytes
    RING_TAG     0                                 the slot that the next payload takes
    RING_TAG     1 + slot // RING_SLOTS            the two words of the key of each slot's payload

The ring belongs to no flow. Where a flow moves without its slots, or they without it, payloads are
forgotten or stay until the table is full: that costs savings and never correctness.
"""

from __future__ import annotations

from typing import NamedTuple

from testbed.compiled import compiled
from testbed.vnf.functions.checksums import be64, byte
from testbed.vnf.functions.effect import begin_put, erase, put
from testbed.vnf.functions.function import MAX_PACKET_BYTES
from testbed.vnf.functions.table import plain_key
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.records import KEY_WORDS, Key, Records, find

CONTENT_TAG, RING_TAG = 0x01, 0x02

MAX_CONTENT_BYTES = MAX_PACKET_BYTES - 28
"""The longest payload: of a UDP datagram over IPv4."""

BYTES, SLOT, STORED, CHECK, CONTENT = KEY_WORDS, KEY_WORDS + 1, KEY_WORDS + 2, KEY_WORDS + 3, 9
"""Words of a payload's record, behind the flow key."""

VALUE_WORDS = CONTENT + (MAX_CONTENT_BYTES + 7) // 8
RING_SLOTS = 64
MIXED = 0x9E3779B97F4A7C1
_TAG_MASK = (1 << 56) - 1


class Fingerprint(NamedTuple):
    """Two hashes of a payload: `key` names it, `check` confirms it (48 bits)."""

    key: int
    check: int


def cache_records(capacity: int) -> int:
    """How many records a cache of `capacity` payloads needs."""
    return capacity + (capacity + RING_SLOTS - 1) // RING_SLOTS + 1


@compiled
def word_at(packet: Bytes, at: int, end: int) -> int:
    """The 8 bytes at `at`; those from `end` on count as 0."""
    if at + 8 <= end:
        return be64(packet, at)
    word = 0
    for place in range(at, end):
        word = word << 8 | byte(packet, place)
    return word << 8 * (at + 8 - end)


@compiled
def fingerprint(packet: Bytes, begin: int, end: int) -> Fingerprint:
    """The hashes of `packet[begin:end]`."""
    one = (end - begin) * MIXED
    other = one ^ 0x2545F4914F6CDD1D
    for at in range(begin, end, 8):
        word = word_at(packet, at, end)
        one = (one ^ word) * 0x38B34AE5A1E38B93
        one ^= (one >> 32) & 0xFFFFFFFF
        other = (other + word) * 0x1B873593CC9E2D51
        other ^= (other >> 29) & 0x7FFFFFFFF
    return Fingerprint(one, other * MIXED >> 16 & 0xFFFFFFFFFFFF)


@compiled
def hash_of_flow(flow: Key) -> int:
    """64 bits for a flow key, of which the tag does not matter."""
    mixed = (flow[0] & _TAG_MASK) * MIXED ^ flow[1] * 0x2545F4914F6CDD1D
    mixed ^= (mixed >> 32) & 0xFFFFFFFF
    mixed = mixed * 0x1B873593CC9E2D51 ^ flow[2] * 0x38B34AE5A1E38B93
    mixed ^= flow[3] * 0x52DCE729DA3ED2F5 ^ flow[4] * 0x2127599BF4325C37
    mixed ^= (mixed >> 29) & 0x7FFFFFFFF
    mixed *= 0x4CF5AD432745937F
    return mixed ^ ((mixed >> 32) & 0xFFFFFFFF)


@compiled
def content_key(flow: Key, named: int) -> Key:
    """The key of a flow's payload with this fingerprint."""
    zero = named & 0
    return CONTENT_TAG << 56 | hash_of_flow(flow) & _TAG_MASK, named, zero, zero, zero


@compiled
def belongs(content: Words, flow: Key) -> bool:
    """Whether a record is of this flow, and not of one with the same hash."""
    return (
        content[0] == flow[0]
        and content[1] == flow[1]
        and content[2] == flow[2]
        and content[3] == flow[3]
        and content[4] == flow[4]
    )


@compiled
def equals(content: Words, packet: Bytes, begin: int, end: int) -> bool:
    """Whether a record holds exactly `packet[begin:end]`."""
    if content[BYTES] != end - begin:
        return False
    word = CONTENT
    for at in range(begin, end, 8):
        if content[word] != word_at(packet, at, end):
            return False
        word += 1
    return True


@compiled
def write_content(content: Words, packet: Bytes, begin: int) -> int:
    """Write a record's payload into the packet, which must have room; where it ends."""
    end = begin + content[BYTES]
    for at in range(begin, end):
        place = at - begin
        packet[at] = (content[CONTENT + (place >> 3)] >> (56 - 8 * (place & 7))) & 0xFF
    return int(end)


@compiled
def inserted_after(records: Records, content: Words, capacity: int) -> int:
    """How many payloads have been stored since this one; it leaves after `capacity`."""
    row = find(records, plain_key(RING_TAG, 0))
    hand = records.values[row, 0] if row >= 0 else 0
    return int((hand - content[SLOT] - 1) % capacity)


@compiled
def store(
    records: Records,
    effect: Words,
    flow: Key,
    hashes: Fingerprint,
    packet: Bytes,
    begin: int,
    end: int,
    now_ns: int,
    capacity: int,
) -> None:
    """Keep `packet[begin:end]`, which has no record, in the place of the oldest payload."""
    key = content_key(flow, hashes.key)
    slot = _take_slot(records, effect, key, capacity)
    at = begin_put(effect, key, 0, CONTENT + (end - begin + 7) // 8)
    if at < 0:
        return
    for word in range(KEY_WORDS):
        effect[at + word] = flow[word]
    effect[at + BYTES] = end - begin
    effect[at + SLOT] = slot
    effect[at + STORED] = now_ns
    effect[at + CHECK] = hashes.check
    word = at + CONTENT
    for place in range(begin, end, 8):
        effect[word] = word_at(packet, place, end)
        word += 1


@compiled
def _take_slot(records: Records, effect: Words, key: Key, capacity: int) -> int:
    """Free the oldest slot for the payload with this key; the number of the slot."""
    hand_key = plain_key(RING_TAG, 0)
    row = find(records, hand_key)
    slot = int(records.values[row, 0]) % capacity if row >= 0 else 0
    ring_key = plain_key(RING_TAG, 1 + slot // RING_SLOTS)
    word = 2 * (slot % RING_SLOTS)
    row = find(records, ring_key)
    if row >= 0:
        zero = slot & 0
        victim = (records.values[row, word], records.values[row, word + 1], zero, zero, zero)
        victim_row = find(records, victim) if victim[0] else -1
        if victim_row >= 0 and records.values[victim_row, SLOT] == slot:
            erase(effect, victim)
    at = begin_put(effect, ring_key, word, 2)
    if at >= 0:
        effect[at] = key[0]
        effect[at + 1] = key[1]
    put(effect, hand_key, 0, (slot + 1) % capacity)
    return slot
