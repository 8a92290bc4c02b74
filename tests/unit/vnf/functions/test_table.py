"""The bounded table: slots, the hand, expiry, eviction."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.vnf.functions.effect import FILL, HEADER_WORDS, new_effect, put
from testbed.vnf.functions.table import (
    EXPIRES,
    LOOKED_AT,
    REFRESH_NS,
    admit,
    find_live,
    plain_key,
    refreshed,
    table_records,
)
from testbed.vnf.state.records import Key, apply, contents, find, new_records

ENTRY, TABLE = 1, 2


class Table:
    """A table of its own in a state of its own."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.records = new_records(capacity + table_records(capacity), 5)

    def add(
        self, key: Key, expires_ns: int, now_ns: int, evict: bool = False, bucket: int = 0
    ) -> bool:
        effect = new_effect()
        placed = admit(self.records, effect, TABLE, key, self.capacity, now_ns, evict)
        if placed:
            put(effect, key, EXPIRES, expires_ns)
        apply(self.records, effect, HEADER_WORDS, HEADER_WORDS + int(effect[FILL]), bucket)
        return bool(placed)

    def forget(self, key: Key) -> None:
        operations = np.array([2 | 1 << 8, key[0]], np.int64)
        apply(self.records, operations, 0, 2, 0)

    def entries(self) -> set[int]:
        return {key[0] & 0xFFFF for key in contents(self.records) if key[0] >> 56 == ENTRY}


def key_of(number: int) -> Key:
    """The key of an entry."""
    key: Key = plain_key(ENTRY, number)
    return key


def test_expired_slots_are_taken_then_the_table_is_full_or_evicts() -> None:
    table = Table(4)
    for number in range(4):
        assert table.add(key_of(number), 100 if number != 2 else 50, number)
    assert not table.add(key_of(9), 100, 40)
    assert table.entries() == {0, 1, 2, 3}
    assert table.add(key_of(9), 110, 60)
    assert table.entries() == {0, 1, 3, 9}
    assert not table.add(key_of(10), 100, 61)
    assert table.add(key_of(10), 120, 61, evict=True)
    assert table.entries() == {0, 1, 9, 10}, "of equals, that which the hand meets first"
    for number in range(20, 120):
        assert table.add(key_of(number), 1000, 62, evict=True)
    assert len(table.entries()) == 4
    assert len(contents(table.records)) == 4 + table_records(4)


def test_what_expires_first_makes_room() -> None:
    table = Table(4)
    for number, expires_ns in enumerate((40, 20, 30, 50)):
        table.add(key_of(number), expires_ns, 0)
    for number in range(10, 13):
        assert table.add(key_of(number), 100, 10, evict=True)
    assert table.entries() == {3, 10, 11, 12}


def test_an_entry_expires_at_its_time() -> None:
    table = Table(1)
    table.add(key_of(1), 100, 0)
    assert find_live(table.records, key_of(1), 99) >= 0
    assert not table.add(key_of(2), 200, 99)
    assert find_live(table.records, key_of(1), 100) == -1
    assert find_live(table.records, key_of(2), 0) == -1
    assert table.add(key_of(2), 200, 100)
    assert table.entries() == {2}


def test_a_full_table_looks_elsewhere_next_time() -> None:
    capacity = 3 * LOOKED_AT
    table = Table(capacity)
    for number in range(capacity):
        assert table.add(key_of(number), 10 if number == capacity - 1 else 100, 0)
    assert [table.add(key_of(99), 100, 50) for _ in range(3)] == [False, False, True]


def test_the_slot_of_an_entry_that_the_function_erased_is_free() -> None:
    table = Table(2)
    table.add(key_of(1), 100, 0)
    table.add(key_of(2), 100, 0)
    assert not table.add(key_of(3), 100, 0)
    table.forget(key_of(1))
    assert table.add(key_of(3), 100, 0)
    assert table.entries() == {2, 3}
    assert len(contents(table.records)) == 2 + table_records(2)


def test_a_slot_and_its_entry_are_of_one_bucket() -> None:
    table = Table(3)
    rng = np.random.default_rng(1)
    for number in range(200):
        bucket = int(rng.integers(1, 9))
        table.add(key_of(number), number + 5, number, True, bucket)
        records = table.records
        for slot in range(1, 4):
            row = find(records, plain_key(TABLE, slot))
            if row >= 0:
                holder = find(records, tuple(records.values[row].tolist()))
                assert records.buckets[holder] == records.buckets[row]


long_keys = st.tuples(
    st.integers(ENTRY << 56, (ENTRY << 56) + 3),
    *[st.sampled_from([0, -1, 2**63 - 1])] * 4,
)


@settings(deadline=None)
@given(
    st.integers(1, 12),
    st.lists(st.tuples(long_keys, st.integers(0, 40), st.booleans(), st.integers(0, 9))),
)
def test_bounds_and_fairness(capacity: int, additions: list[tuple[Key, int, bool, int]]) -> None:
    table, now_ns, expiries = Table(capacity), 0, dict[Key, int]()
    for key, life_ns, evict, pause_ns in additions:
        now_ns += pause_ns
        if find(table.records, key) >= 0:
            continue
        before = {k: v for k, v in expiries.items() if v > now_ns}
        placed = table.add(key, now_ns + life_ns, now_ns, evict)
        assert placed or not evict
        assert placed or len(before) >= min(capacity, LOOKED_AT)
        left = {k for k in contents(table.records) if k[0] >> 56 == ENTRY}
        assert len(left) <= capacity and (key in left) == placed
        gone = before.keys() - left
        assert len(gone) <= (1 if evict else 0), "live entries stay"
        if placed:
            expiries[key] = now_ns + life_ns
        expiries = {k: v for k, v in expiries.items() if k in left}


def test_timers_are_written_once_a_second() -> None:
    table = Table(1)
    table.add(key_of(1), 100 * REFRESH_NS, 0)
    row = find(table.records, key_of(1))
    assert not refreshed(table.records, row, 101 * REFRESH_NS - 1)
    assert refreshed(table.records, row, 101 * REFRESH_NS)
