"""Replicated data types: the laws of merging, and that the order of merging never matters."""

from __future__ import annotations

import random
from collections import Counter as Multiset
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.vnf.state.crdt import (
    Counter,
    CountMinSketch,
    GrowCounter,
    Latest,
    ObservedRemoveSet,
)

REPLICAS = 3
ROWS, WIDTH = 2, 8
ELEMENTS = (b"a", b"b", b"c")

Step = tuple[int, int, int]
"""A replica, what it does, with what."""

steps = st.lists(
    st.tuples(st.integers(0, REPLICAS - 1), st.integers(0, 3), st.integers(0, 9)), max_size=25
)


def columns(number: int) -> list[int]:
    """Where a key counts, in each row."""
    return [number % WIDTH, number * 5 % 7]


def change_grow(state: GrowCounter, replica: int, step: int, number: int) -> GrowCounter:
    return state.add(replica, number)


def change_counter(state: Counter, replica: int, step: int, number: int) -> Counter:
    return state.add(replica, number if step < 2 else -number)


def change_set(state: ObservedRemoveSet, replica: int, step: int, number: int) -> ObservedRemoveSet:
    element = ELEMENTS[number % len(ELEMENTS)]
    return state.add(replica, element) if step < 2 else state.remove(element)


def change_latest(state: Latest, replica: int, step: int, number: int) -> Latest:
    version = state.said.get(replica, (0, b""))[0] + step
    return state.say(replica, version, b"%d" % number)


def change_sketch(state: CountMinSketch, replica: int, step: int, number: int) -> CountMinSketch:
    return state.add(replica, columns(number), step)


KINDS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "grow": (GrowCounter(), change_grow),
    "counter": (Counter(), change_counter),
    "set": (ObservedRemoveSet(), change_set),
    "latest": (Latest(), change_latest),
    "sketch": (CountMinSketch(ROWS, WIDTH), change_sketch),
}


def history(kind: str, made: list[Step]) -> tuple[list[Any], list[Any]]:
    """(every state that a replica ever had, its last one each); step 3 merges another's in."""
    empty, change = KINDS[kind]
    now = [empty] * REPLICAS
    ever = [empty]
    for replica, step, number in made:
        before = now[replica]
        if step == 3:
            now[replica] = before.merge(now[number % REPLICAS])
        else:
            now[replica] = change(before, replica, step, number)
        assert now[replica].includes(before), "states only grow"
        ever.append(now[replica])
    return ever, now


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(made=steps, data=st.data())
def test_merging_is_commutative_associative_idempotent_and_monotone(
    kind: str, made: list[Step], data: st.DataObject
) -> None:
    ever, _ = history(kind, made)
    a, b, c = (data.draw(st.sampled_from(ever)) for _ in range(3))
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(a) == a
    assert a.merge(b).includes(a) and a.merge(b).includes(b)
    assert a.includes(b) == (a.merge(b) == a)
    assert a.merge(b).to_bytes() == b.merge(a).to_bytes()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(made=steps, seed=st.integers(0, 1 << 20))
def test_any_order_with_duplicates_gives_the_same(kind: str, made: list[Step], seed: int) -> None:
    ever, now = history(kind, made)
    expected = now[0].merge(now[1]).merge(now[2])
    rng = random.Random(seed)
    arrived = [*now, *rng.choices(ever, k=len(ever))]
    rng.shuffle(arrived)
    merged = KINDS[kind][0]
    for state in arrived:
        merged = merged.merge(type(state).from_bytes(state.to_bytes()))
    assert merged == expected


@given(made=steps)
def test_counters_give_the_sequential_sum(made: list[Step]) -> None:
    _, grown = history("grow", made)
    added = [number for _, step, number in made if step != 3]
    assert grown[0].merge(grown[1]).merge(grown[2]).value == sum(added)
    _, counted = history("counter", made)
    signed = [number if step < 2 else -number for _, step, number in made if step != 3]
    assert counted[2].merge(counted[0]).merge(counted[1]).value == sum(signed)


@given(made=steps)
def test_sketch_is_never_below_the_sequential_sums_and_right_for_its_columns(
    made: list[Step],
) -> None:
    _, now = history("sketch", made)
    merged = now[1].merge(now[2]).merge(now[0])
    sums: Multiset[int] = Multiset()
    cells = np.zeros((ROWS, WIDTH), np.int64)
    for _, step, number in made:
        if step != 3:
            sums[number] += step
            cells[np.arange(ROWS), columns(number)] += step
    assert np.array_equal(merged.value, cells)
    for number in range(10):
        assert merged.estimate(columns(number)) >= sums[number]
        assert merged.estimate(columns(number)) == cells[np.arange(ROWS), columns(number)].min()


@given(made=steps)
def test_set_holds_what_was_added_and_not_removed_by_one_who_saw_it(made: list[Step]) -> None:
    """The definition, with every addition and every removal remembered for ever."""
    added: list[set[tuple[int, bytes]]] = [set() for _ in range(REPLICAS)]
    removed: list[set[tuple[int, bytes]]] = [set() for _ in range(REPLICAS)]
    for event, (replica, step, number) in enumerate(made):
        element = ELEMENTS[number % len(ELEMENTS)]
        if step == 3:
            added[replica] |= added[number % REPLICAS]
            removed[replica] |= removed[number % REPLICAS]
        elif step < 2:
            added[replica].add((event, element))
        else:
            removed[replica] |= {entry for entry in added[replica] if entry[1] == element}
    _, now = history("set", made)
    for replica in range(REPLICAS):
        assert now[replica].value == {e for _, e in added[replica] - removed[replica]}
    together = now[0].merge(now[1]).merge(now[2])
    ended = removed[0] | removed[1] | removed[2]
    assert together.value == {e for _, e in (added[0] | added[1] | added[2]) - ended}


def test_an_addition_beside_a_removal_wins_and_a_late_copy_does_not() -> None:
    first = ObservedRemoveSet().add(0, b"x")
    gone = first.remove(b"x")
    assert gone.merge(first).value == frozenset(), "an old state brings nothing back"
    again = first.add(1, b"x")
    assert gone.merge(again).value == again.merge(gone).value == {b"x"}
    assert gone.add(0, b"x").merge(first).value == {b"x"}


def test_latest_keeps_the_later_version_and_settles_ties_alike() -> None:
    state = Latest().say(1, 5, b"new").say(1, 4, b"old").say(2, 1, b"b")
    assert state.value == {1: b"new", 2: b"b"}
    one, other = Latest().say(1, 1, b"p"), Latest().say(1, 1, b"q")
    assert one.merge(other) == other.merge(one) == other


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="amount"):
        GrowCounter().add(0, -1)
    with pytest.raises(ValueError, match="cells"):
        CountMinSketch(1 << 20, 1 << 20)
    with pytest.raises(ValueError, match="rows"):
        CountMinSketch(2, 2, {0: np.zeros((2, 3), np.int64)})
    with pytest.raises(ValueError, match="expected 2 x 8"):
        CountMinSketch(2, 8).merge(CountMinSketch(2, 4))
    with pytest.raises(ValueError, match="columns"):
        CountMinSketch(2, 8).add(0, [1], 1)
    with pytest.raises(ValueError, match="not counted"):
        ObservedRemoveSet.from_bytes(
            ObservedRemoveSet({b"a": frozenset({(1, 2)})}, {1: 1}).to_bytes()
        )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(made=steps, at=st.integers(0, 400), byte=st.integers(0, 255), cut=st.booleans())
def test_decoding_gives_a_state_or_a_value_error(
    kind: str, made: list[Step], at: int, byte: int, cut: bool
) -> None:
    state = history(kind, made)[1][0]
    whole = state.to_bytes()
    assert type(state).from_bytes(whole) == state
    data = bytearray(whole)
    data[at % len(data)] = byte
    try:
        decoded = type(state).from_bytes(bytes(data[: at % len(data)] if cut else data))
    except ValueError:
        return
    assert decoded.merge(decoded) == decoded


def test_a_sketch_is_small_on_the_wire() -> None:
    sketch = CountMinSketch(4, 1024)
    for number in range(50):
        sketch = sketch.add(7, [number * k % 1024 for k in (3, 5, 7, 11)], 1500)
    assert len(sketch.to_bytes()) < 4 * 1024 * 8 / 10
