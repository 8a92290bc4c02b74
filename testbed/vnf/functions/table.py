"""A table of bounded size inside a state: deterministic, O(1), no scan over the state.

Entries sit in numbered slots. A hand goes round; a new entry looks at the next few slots and takes
the first that is free or whose entry has expired. If there is none, either the entry among those
looked at that would expire first makes room (`evict`), or the table counts as full.

What an entry must be: a record of its own key (with another tag) whose value word `EXPIRES` is the
time in ns from which on it counts as absent. A function that keeps a time of last use instead
writes that time plus its timeout there. The function may erase an entry or renew an expired one
under the same key as it likes; it must not `admit` a key that has a record already.

A table has a tag of its own. Its records, besides those of its entries:

    key                      value
    (tag << 56,)             [hand]: the slot that the next new entry looks at first; a table of
                             linearizable records has none, since new entries of all instances would
                             wait for it: they look where their keys hash to, so
                             that some find no room when about nine tenths are taken
    (tag << 56 | slot + 1,)  the words of the entry's key

so the functions that have tables need `value_words >= KEY_WORDS` and `table_records(capacity)`
more records than entries. A slot and its entry are made by the same packet, always, so they are
of the same bucket and go together where buckets move.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.effect import begin_put, erase, put
from testbed.vnf.functions.sharing import FIRST_LINEARIZABLE
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import KEY_WORDS, Key, Records, find, home

EXPIRES = 0
"""The word of an entry's value that says when it expires."""
LOOKED_AT = 8
"""Slots that a new entry looks at."""
REFRESH_NS = 1_000_000_000
"""Idle timers are written at most this often, and run this much longer, so that a busy flow does
not replicate a new time for every packet and yet never expires early."""


def table_records(capacity: int) -> int:
    """How many records a table of `capacity` entries needs, without the entries."""
    return capacity + 1


@compiled
def plain_key(tag: int, word: int) -> Key:
    """A key of one word: the tag and 56 bits."""
    zero = word & 0
    return tag << 56 | word, zero, zero, zero, zero


@compiled(forceinline=True)
def expiry(records: Records, row: int) -> int:
    """When the entry in a row expires."""
    return int(records.values[row, EXPIRES])


@compiled
def find_live(records: Records, key: Key, now_ns: int) -> int:
    """The row of an entry that has not expired, or -1."""
    row = find(records, key)
    return row if row >= 0 and expiry(records, row) > now_ns else -1


@compiled(forceinline=True)
def refreshed(records: Records, row: int, expires_ns: int) -> bool:
    """Whether an idle timer is to be written: it would move by `REFRESH_NS` or more."""
    return expires_ns - expiry(records, row) >= REFRESH_NS


@compiled
def admit(
    records: Records, effect: Words, tag: int, key: Key, capacity: int, now_ns: int, evict: bool
) -> bool:
    """Give `key`, which has no record, a slot; False if the table is full.

    The changes, a victim's end among them, are added to `effect`, when the table is full too: the
    hand, if there is one, has moved on. The caller then puts its record. At most once per table for
    a packet, since `records` does not show what is in `effect` yet.
    """
    hand = _hand(records, tag, key) % capacity
    chosen, victim_row, taken, first_expiry = -1, -1, False, 0
    for step in range(min(LOOKED_AT, capacity)):
        slot = (hand + step) % capacity
        slot_row = find(records, plain_key(tag, slot + 1))
        holder_row = find(records, _holder(records, slot_row)) if slot_row >= 0 else -1
        expires_ns = expiry(records, holder_row) if holder_row >= 0 else now_ns
        if expires_ns <= now_ns:
            chosen, victim_row, taken = slot, holder_row, slot_row >= 0
            break
        if evict and (chosen < 0 or expires_ns < first_expiry):
            chosen, victim_row, taken, first_expiry = slot, holder_row, True, expires_ns
    if chosen < 0:
        _move_hand(effect, tag, (hand + LOOKED_AT) % capacity)
        return False
    slot_key = plain_key(tag, chosen + 1)
    if victim_row >= 0:
        erase(effect, _key_of(records, victim_row))
    if taken:
        erase(effect, slot_key)
    _put_holder(effect, slot_key, key)
    _move_hand(effect, tag, (chosen + 1) % capacity)
    return True


@compiled
def _hand(records: Records, tag: int, key: Key) -> int:
    """Where a new entry looks first, not yet bounded by the capacity; at least 0."""
    if tag >= FIRST_LINEARIZABLE:
        k0, k1, k2, k3, k4 = key
        return int(home(1 << 30, k0, k1, k2, k3, k4))
    row = find(records, plain_key(tag, 0))
    return int(records.values[row, 0]) if row >= 0 else 0


@compiled
def _move_hand(effect: Words, tag: int, hand: int) -> None:
    if tag < FIRST_LINEARIZABLE:
        put(effect, plain_key(tag, 0), 0, hand)


@compiled
def _holder(records: Records, row: int) -> Key:
    """The key that is the value of a slot."""
    values = records.values
    return values[row, 0], values[row, 1], values[row, 2], values[row, 3], values[row, 4]


@compiled
def _key_of(records: Records, row: int) -> Key:
    keys = records.keys
    return keys[row, 0], keys[row, 1], keys[row, 2], keys[row, 3], keys[row, 4]


@compiled
def _put_holder(effect: Words, slot_key: Key, key: Key) -> None:
    """Write the words of the holder's key; the slot was made of zeros, so its end may be left."""
    words = KEY_WORDS
    while words > 1 and key[words - 1] == 0:
        words -= 1
    at = begin_put(effect, slot_key, 0, words)
    if at >= 0:
        for word in range(words):
            effect[at + word] = key[word]
