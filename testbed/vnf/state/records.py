"""The state of a network function: records in a hash table that compiled code reads and changes.

A record has a key of five 64 bit words (shorter keys end in zeros) and a value of as many words as
the function declares. Changes are written as operations, which the primary applies and logs and
the backups apply in the same order; nothing else changes a state. Rows are dense: the last row
moves into the place of an erased one, so the rows 0 .. count - 1 are the whole state.

An operation is a head word, the words of its key without trailing zeros, and value words:

    bits of the head   meaning
    0-7                1 put: set `count` words of the value from word `first` on; a record that
                       is not there yet is made, of zeros. 2 erase: forget the record.
    8-15               how many words of the key follow
    16-31, 32-47       first, count
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, TypeAlias

import numba
import numpy as np

from testbed.compiled import compiled
from testbed.vnf.state.arrays import Array, Indices, Words
from testbed.vnf.state.memory import prefetch

KEY_WORDS = 5
COUNT, REFUSED = 0, 1
"""Places in `Records.head`: how many records there are; puts that found the table full."""

PUT, ERASE = 1, 2

Key: TypeAlias = tuple[int, int, int, int, int]


class Records(NamedTuple):
    """A table of at most `len(keys)` records.

    slots    [slots], row + 1 by linear probing from the key's hash, 0 where a slot is free
    keys     [capacity, KEY_WORDS]
    values   [capacity, value words]
    buckets  [capacity], the bucket of the flow whose packet made the record
    """

    head: Words
    slots: Indices
    keys: Words
    values: Words
    buckets: Words


def new_records(capacity: int, value_words: int) -> Records:
    """An empty table; memory is taken as it fills. Raises ValueError for sizes below 1."""
    if capacity < 1 or value_words < 1:
        raise ValueError(f"capacity = {capacity}, value_words = {value_words}: expected >= 1")
    slots = 1 << (2 * capacity - 1).bit_length()
    return Records(
        head=np.zeros(2, np.int64),
        slots=np.zeros(slots, np.int32),
        keys=np.zeros((capacity, KEY_WORDS), np.int64),
        values=np.zeros((capacity, value_words), np.int64),
        buckets=np.zeros(capacity, np.int64),
    )


RECORDS = numba.typeof(new_records(1, 1))
"""The type of `Records` in signatures of compiled functions."""


@compiled
def home(slots: int, k0: int, k1: int, k2: int, k3: int, k4: int) -> int:
    """Where the search for a key begins, of so many slots (a power of two)."""
    mixed = k0 * 0x9E3779B97F4A7C1 ^ k1 * 0x2545F4914F6CDD1D
    if k2 | k3 | k4:
        mixed ^= k2 * 0x1B873593CC9E2D51 ^ k3 * 0x38B34AE5A1E38B93 ^ k4 * 0x52DCE729DA3ED2F5
    mixed = (mixed ^ (mixed >> 32)) * 0x2127599BF4325C37
    return (mixed ^ (mixed >> 29)) & (slots - 1)


@compiled
def _slot(records: Records, key: Key) -> int:
    """The slot that holds the key, or the free one where it belongs."""
    slots = len(records.slots)
    k0, k1, k2, k3, k4 = key
    at = home(slots, k0, k1, k2, k3, k4)
    while True:
        row = records.slots[at] - 1
        if row < 0:
            return at
        # Not `records.keys[row]`: an array that is made for a row costs more than the search.
        if (
            records.keys[row, 0] == k0
            and records.keys[row, 1] == k1
            and records.keys[row, 2] == k2
            and records.keys[row, 3] == k3
            and records.keys[row, 4] == k4
        ):
            return at
        at = (at + 1) & (slots - 1)


@compiled
def expect(records: Records, operations: Words, at: int) -> None:
    """The operation at `operations[at]` will be carried out soon: fetch where its search begins."""
    words = (operations[at] >> 8) & 0xFF
    slot = home(
        len(records.slots),
        operations[at + 1] if words > 0 else 0,
        operations[at + 2] if words > 1 else 0,
        operations[at + 3] if words > 2 else 0,
        operations[at + 4] if words > 3 else 0,
        operations[at + 5] if words > 4 else 0,
    )
    prefetch(records.slots, slot)


@compiled
def find(records: Records, key: Key) -> int:
    """The row of the record with this key, or -1. Rows move when records are erased."""
    return int(records.slots[_slot(records, key)]) - 1


@compiled
def insert(records: Records, key: Key, bucket: int) -> int:
    """The row of the record, made of zeros if it is not there; -1 if the table is full."""
    at = _slot(records, key)
    row = int(records.slots[at]) - 1
    if row >= 0:
        return row
    row = records.head[COUNT]
    if row >= len(records.keys):
        records.head[REFUSED] += 1
        return -1
    records.head[COUNT] = row + 1
    records.slots[at] = row + 1
    for word in range(KEY_WORDS):
        records.keys[row, word] = key[word]
    records.values[row, :] = 0
    records.buckets[row] = bucket
    return row


@compiled
def remove(records: Records, key: Key) -> None:
    """Forget the record with this key, if there is one."""
    at = _slot(records, key)
    row = int(records.slots[at]) - 1
    if row < 0:
        return
    _free_slot(records, at)
    last = records.head[COUNT] - 1
    records.head[COUNT] = last
    if row != last:
        records.slots[_slot(records, _key_at(records, last))] = row + 1
        records.keys[row, :] = records.keys[last, :]
        records.values[row, :] = records.values[last, :]
        records.buckets[row] = records.buckets[last]


@compiled
def _key_at(records: Records, row: int) -> Key:
    keys = records.keys
    return keys[row, 0], keys[row, 1], keys[row, 2], keys[row, 3], keys[row, 4]


@compiled
def _free_slot(records: Records, at: int) -> None:
    """Empty a slot and close the hole, so that no search ends too early (Knuth 6.4, R)."""
    slots = len(records.slots)
    hole = at
    while True:
        records.slots[hole] = 0
        ahead = hole
        while True:
            ahead = (ahead + 1) & (slots - 1)
            row = records.slots[ahead] - 1
            if row < 0:
                return
            k0, k1, k2, k3, k4 = _key_at(records, row)
            origin = home(slots, k0, k1, k2, k3, k4)
            # It may move into the hole if its home does not lie after the hole, on the circle.
            if (ahead - origin) & (slots - 1) >= (ahead - hole) & (slots - 1):
                break
        records.slots[hole] = records.slots[ahead]
        hole = ahead


@compiled
def apply(records: Records, operations: Words, begin: int, end: int, bucket: int) -> None:
    """Carry out the operations in `operations[begin:end]`, which `put` and `erase` wrote.

    A put that makes a record when the table is full is counted and ignored, by every replica alike.
    """
    at = begin
    while at < end:
        head = operations[at]
        words = (head >> 8) & 0xFF
        first = (head >> 16) & 0xFFFF
        count = (head >> 32) & 0xFFFF
        at += 1
        key = (
            operations[at] if words > 0 else 0,
            operations[at + 1] if words > 1 else 0,
            operations[at + 2] if words > 2 else 0,
            operations[at + 3] if words > 3 else 0,
            operations[at + 4] if words > 4 else 0,
        )
        at += words
        if head & 0xFF == PUT:
            row = insert(records, key, bucket)
            if row >= 0:
                for word in range(count):
                    records.values[row, first + word] = operations[at + word]
            at += count
        else:
            remove(records, key)


@compiled
def sound(operations: Words, begin: int, end: int, value_words: int) -> bool:
    """Whether `apply` can carry them out: what came over a network is checked before."""
    at = begin
    while at < end:
        head = operations[at]
        kind = head & 0xFF
        words = (head >> 8) & 0xFF
        first = (head >> 16) & 0xFFFF
        count = (head >> 32) & 0xFFFF
        if words > KEY_WORDS or head >> 48 or first + count > value_words:
            return False
        if kind != PUT and (kind != ERASE or first or count):
            return False
        at += 1 + words + count
    return at == end


@compiled
def copy_records(source: Records, target: Records) -> None:
    """Make `target`, of the same capacity, equal to `source`, row by row."""
    count = source.head[COUNT]
    target.head[:] = source.head
    target.slots[:] = source.slots
    target.keys[:count] = source.keys[:count]
    target.values[:count] = source.values[:count]
    target.buckets[:count] = source.buckets[:count]


def contents(records: Records) -> dict[tuple[int, ...], tuple[int, ...]]:
    """The state as a mapping from keys to values."""
    count = int(records.head[COUNT])
    keys, values = records.keys[:count].tolist(), records.values[:count].tolist()
    return {tuple(key): tuple(value) for key, value in zip(keys, values, strict=True)}


def digest(records: Records) -> bytes:
    """16 bytes that are equal for equal states, whatever the order in which they were made."""
    count = int(records.head[COUNT])
    rows: Array = np.concatenate([records.keys[:count], records.values[:count]], axis=1)
    order = np.lexsort(rows.T[::-1])
    return hashlib.blake2b(np.ascontiguousarray(rows[order]).tobytes(), digest_size=16).digest()
