"""The table of records against a dictionary; what `sound` refuses; digests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from testbed.vnf.functions.effect import (
    FILL,
    HEADER_WORDS,
    OVERFLOW,
    begin_put,
    erase,
    new_effect,
    put,
)
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import (
    COUNT,
    ERASE,
    KEY_WORDS,
    PUT,
    REFUSED,
    Key,
    Records,
    apply,
    contents,
    copy_records,
    digest,
    find,
    insert,
    new_records,
    remove,
    sound,
)

VALUE_WORDS = 3
words = st.sampled_from([0, 0, 1, 2, -1, 2**63 - 1, -(2**63)])
KEYS = (
    *[(number, 0, 0, 0, 0) for number in range(6)],
    *[(1, word, 0, 0, 0) for word in (1, -1, 2**63 - 1, -(2**63))],
    *[(1, 0, 0, 0, word) for word in (1, -(2**63))],
    *[(0, 0, word, 0, 5) for word in (1, -1)],
)
keys = st.sampled_from(KEYS)
"""Few, so that most operations meet a record."""


def key_of(row: Words) -> Key:
    """The key in a row."""
    k0, k1, k2, k3, k4 = row.tolist()
    return k0, k1, k2, k3, k4


def check_structure(records: Records) -> None:
    """Every record is found where it is, and every slot is of a record."""
    count = int(records.head[COUNT])
    for row in range(count):
        assert find(records, key_of(records.keys[row])) == row
    used = records.slots[records.slots != 0]
    assert sorted(used.tolist()) == list(range(1, count + 1))


class RecordsMachine(RuleBasedStateMachine):
    """Operations through effects, on a table and on a dictionary."""

    @initialize(capacity=st.integers(1, 12))
    def make(self, capacity: int) -> None:
        self.records = new_records(capacity, VALUE_WORDS)
        self.copy = new_records(capacity, VALUE_WORDS)
        self.capacity = capacity
        self.model: dict[Key, list[int]] = {}
        self.buckets: dict[Key, int] = {}
        self.refused = 0

    def carry_out(self, effect: Words, bucket: int) -> None:
        end = HEADER_WORDS + int(effect[FILL])
        assert sound(effect, HEADER_WORDS, end, VALUE_WORDS)
        apply(self.records, effect, HEADER_WORDS, end, bucket)

    def has_room(self, key: Key, bucket: int) -> bool:
        """Whether the model has the record after a put; counts what it refuses."""
        if key not in self.model:
            if len(self.model) >= self.capacity:
                self.refused += 1
                return False
            self.model[key], self.buckets[key] = [0] * VALUE_WORDS, bucket
        return True

    @rule(key=keys, first=st.integers(0, VALUE_WORDS - 1), value=words, bucket=st.integers(0, 9))
    def put_one(self, key: Key, first: int, value: int, bucket: int) -> None:
        effect = new_effect()
        put(effect, key, first, value)
        self.carry_out(effect, bucket)
        if self.has_room(key, bucket):
            self.model[key][first] = value

    @rule(key=keys, data=st.data(), bucket=st.integers(0, 9))
    def put_several(self, key: Key, data: st.DataObject, bucket: int) -> None:
        first = data.draw(st.integers(0, VALUE_WORDS))
        count = data.draw(st.integers(0, VALUE_WORDS - first))
        values = data.draw(st.lists(words, min_size=count, max_size=count))
        effect = new_effect()
        at = begin_put(effect, key, first, count)
        effect[at : at + count] = values
        self.carry_out(effect, bucket)
        if self.has_room(key, bucket):
            self.model[key][first : first + count] = values

    @rule(key=keys)
    def erase_one(self, key: Key) -> None:
        effect = new_effect()
        erase(effect, key)
        self.carry_out(effect, 0)
        self.model.pop(key, None)

    @rule(gone=keys, made=keys)
    def several_operations(self, gone: Key, made: Key) -> None:
        effect = new_effect()
        erase(effect, gone)
        put(effect, made, 0, 7)
        put(effect, made, 2, 8)
        self.carry_out(effect, 5)
        self.model.pop(gone, None)
        if self.has_room(made, 5) and self.has_room(made, 5):
            self.model[made][0], self.model[made][2] = 7, 8
        elif made not in self.model:
            self.refused += 1

    @rule(key=keys, bucket=st.integers(0, 9))
    def insert_directly(self, key: Key, bucket: int) -> None:
        row = insert(self.records, key, bucket)
        assert (row >= 0) == self.has_room(key, bucket)
        assert row < 0 or key_of(self.records.keys[row]) == key

    @rule(key=keys)
    def remove_directly(self, key: Key) -> None:
        remove(self.records, key)
        self.model.pop(key, None)

    @invariant()
    def equals_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        assert contents(self.records) == {key: tuple(v) for key, v in self.model.items()}
        count = int(self.records.head[COUNT])
        assert count == len(self.model)
        for row in range(count):
            key = key_of(self.records.keys[row])
            assert self.records.buckets[row] == self.buckets[key]
        assert self.records.head[REFUSED] == self.refused
        check_structure(self.records)

    @invariant()
    def copies_are_equal(self) -> None:
        if not hasattr(self, "model"):
            return
        copy_records(self.records, self.copy)
        check_structure(self.copy)
        assert contents(self.copy) == contents(self.records)
        assert digest(self.copy) == digest(self.records)
        assert self.copy.head.tolist() == self.records.head.tolist()


TestRecords = RecordsMachine.TestCase
TestRecords.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def test_many_records_under_churn() -> None:
    rng = np.random.default_rng(5)
    records = new_records(500, 1)
    model: dict[Key, int] = {}
    for step in range(20_000):
        key = (1, int(rng.integers(0, 900)) << 32, 0, 0, 0)
        if rng.random() < 0.45:
            remove(records, key)
            model.pop(key, None)
            continue
        row = insert(records, key, 0)
        assert (row >= 0) == (key in model or len(model) < 500)
        if row >= 0:
            records.values[row, 0] = model[key] = step
    assert contents(records) == {key: (value,) for key, value in model.items()}
    check_structure(records)


@pytest.mark.parametrize(
    "key",
    [
        lambda n: (1 << 56 | 17 << 32 | n, 0x0A4D0001_0A4D0002, 0, 0, 0),
        lambda n: (1 << 56 | 17 << 32 | n << 16 | 53, 0x0A4D0001_0A4D0002, 0, 0, 0),
        lambda n: (1 << 56, (0x0A4D0000 | n) << 32 | 0x0A4D0002, 0, 0, 0),
        lambda n: (1 << 56, 0x0A4D0002 << 32 | n, 0, 0, 0),
        lambda n: (2 << 56 | n, 0, 0, 0, 0),
        lambda n: (1 << 56, -(2**56), n, -(2**56), 1),
        lambda n: (1 << 56, -(2**56), 1, -(2**56), n),
    ],
    ids=["destination port", "source port", "source", "destination", "slot", "source6", "dest6"],
)
def test_searches_are_short_for_keys_that_count_up(key: object) -> None:
    assert callable(key)
    records = new_records(20_000, 1)
    for number in range(20_000):
        insert(records, key(number), 0)
    # A free slot is never far: runs of used ones are as short as random keys would make them.
    runs = np.diff(np.flatnonzero(np.concatenate(([0], records.slots, [0])) == 0)) - 1
    assert runs.max() < 64


def put_head(kind: int = PUT, key_words: int = 1, first: int = 0, count: int = 1) -> int:
    """The head of an operation."""
    return kind | key_words << 8 | first << 16 | count << 32


def is_sound(*operations: int) -> bool:
    """Whether these words are, for values of three words."""
    return bool(sound(np.array(operations, np.int64), 0, len(operations), VALUE_WORDS))


def test_sound_accepts_what_apply_can_do() -> None:
    assert is_sound()
    assert is_sound(put_head(), 1, 2)
    assert is_sound(put_head(key_words=0), 9)
    assert is_sound(put_head(key_words=5, count=3), 1, 2, 3, 4, 5, 7, 8, 9)
    assert is_sound(put_head(first=2), 1, 2, put_head(ERASE, 1, 0, 0), 1)
    assert is_sound(put_head(first=3, count=0), 1)


@pytest.mark.parametrize(
    "operations",
    [
        (0,),
        (put_head(),),
        (put_head(), 1),
        (put_head(), 1, 2, 3),
        (put_head(3), 1, 2),
        (put_head(0), 1, 2),
        (put_head(key_words=6), 1, 2, 3, 4, 5, 6, 7),
        (put_head(first=3), 1, 2),
        (put_head(count=4), 1, 2, 3, 4, 5),
        (put_head(first=0xFFFF, count=0xFFFF), 1, 2),
        (put_head(ERASE, 1, 0, 1), 1, 2),
        (put_head(ERASE, 1, 1, 0), 1),
        (put_head() | 1 << 48, 1, 2),
        (put_head() | 1 << 62, 1, 2),
        (-1,),
        (put_head() | -(2**63), 1, 2),
    ],
)
def test_sound_refuses_what_apply_cannot_do(operations: tuple[int, ...]) -> None:
    assert not is_sound(*operations)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(-(2**63), 2**63 - 1),
            st.integers(0, 8),
            st.builds(put_head, st.integers(0, 3), st.integers(0, 6), st.integers(0, 3),
                      st.integers(0, 4)),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_what_is_sound_can_be_applied(operations: list[int]) -> None:
    if not is_sound(*operations):
        return
    records = new_records(4, VALUE_WORDS)
    # Behind the operations lies what must not be read: it would show in the records.
    array = np.array([*operations, *[0x5A5A] * 40], np.int64)
    apply(records, array, 0, len(operations), 0)
    seen = {word for key, value in contents(records).items() for word in (*key, *value)}
    assert 0x5A5A not in seen or 0x5A5A in operations
    check_structure(records)


def test_an_effect_that_is_full_counts_what_it_leaves_out() -> None:
    effect = new_effect()
    room = len(effect) - HEADER_WORDS
    for number in range(room // 3 + 5):
        put(effect, (1 + number, 0, 0, 0, 0), 0, number)
    assert effect[OVERFLOW] == 5 and effect[FILL] == room // 3 * 3
    end = HEADER_WORDS + int(effect[FILL])
    assert sound(effect, HEADER_WORDS, end, VALUE_WORDS)
    assert begin_put(effect, (1, 0, 0, 0, 0), 0, 3) == -1


def test_a_full_table_refuses_alike_and_goes_on() -> None:
    records = new_records(2, 1)
    operations = np.array(
        [w for number in (1, 2, 3, 1) for w in (put_head(), number, 10 * number)], np.int64
    )
    apply(records, operations, 0, len(operations), 0)
    assert {key[0]: value for key, value in contents(records).items()} == {1: (10,), 2: (20,)}
    assert records.head.tolist() == [2, 1]
    remove(records, (1, 0, 0, 0, 0))
    assert insert(records, (3, 0, 0, 0, 0), 0) == 1
    assert records.keys[:2, 0].tolist() == [2, 3], "the last row moved into the free place"


@settings(deadline=None)
@given(st.dictionaries(keys, st.tuples(words, words), max_size=12))
def test_digests_are_of_the_contents(model: dict[Key, tuple[int, int]]) -> None:
    def filled(order: list[Key], detour: bool) -> Records:
        records = new_records(20, 2)
        for number, key in enumerate(order):
            if detour:
                insert(records, (9, number, 0, 0, 0), 0)
            records.values[insert(records, key, number)] = model[key]
            if detour:
                remove(records, (9, number, 0, 0, 0))
        return records

    order = list(model)
    one, other = filled(order, False), filled(order[::-1], True)
    assert digest(one) == digest(other) and len(digest(one)) == 16
    for row in range(len(order)):
        one.values[row, 1] ^= 1
        assert digest(one) != digest(other)
        one.values[row, 1] ^= 1
    if order:
        remove(one, order[0])
        assert digest(one) != digest(other)


def test_sizes_are_checked() -> None:
    for capacity, value_words in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(ValueError, match="expected >= 1"):
            new_records(capacity, value_words)
    assert new_records(3, 2).keys.shape == (3, KEY_WORDS)
