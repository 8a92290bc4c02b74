"""State that replicas change apart and merge later: state-based CRDTs (Shapiro et al., 2011).

Every type has `merge`, which is commutative, associative and idempotent, so that states may come
late, twice and in any order; `includes`, the order in which states only grow; `value`; and
`to_bytes` and `from_bytes`. A replica is a number that is never given to two that live at the same
time, nor again to one that has lost its state: it would count below what others know of it, and
its new counts would be taken for old ones.

The set is an observed-remove set: an element may come back after it was removed, and an addition
that runs beside a removal wins. It needs no tombstones (Bieniusa et al., "An optimized
conflict-free replicated set", 2012).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import msgpack
import numpy as np

from testbed.vnf.state.arrays import Words

Replica: TypeAlias = int
Dot: TypeAlias = tuple[Replica, int]
"""The n-th addition of a replica."""

MAX_SKETCH_CELLS = 1 << 24
_MAX_COUNT = (1 << 63) - 1


def _frozen(counts: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(dict(sorted(counts.items())))


@dataclass(frozen=True, slots=True)
class GrowCounter:
    """A sum of what each replica has counted; counts never go down."""

    counts: Mapping[Replica, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep what says something; the same state has one form."""
        kept = {replica: count for replica, count in self.counts.items() if count}
        object.__setattr__(self, "counts", _frozen(kept))

    def add(self, replica: Replica, amount: int) -> GrowCounter:
        """The counter after `replica` has counted `amount` more; ValueError if that is negative."""
        if amount < 0:
            raise ValueError(f"amount = {amount}: expected >= 0")
        return GrowCounter({**self.counts, replica: self.counts.get(replica, 0) + amount})

    def merge(self, other: GrowCounter) -> GrowCounter:
        """What both know: the larger count of each replica."""
        merged = dict(self.counts)
        for replica, count in other.counts.items():
            merged[replica] = max(count, merged.get(replica, 0))
        return GrowCounter(merged)

    def includes(self, other: GrowCounter) -> bool:
        """True if this counter knows all that the other knows."""
        return all(self.counts.get(replica, 0) >= n for replica, n in other.counts.items())

    @property
    def value(self) -> int:
        """The sum."""
        return sum(self.counts.values())

    def to_bytes(self) -> bytes:
        """The counter as bytes, equal for equal counters."""
        return _packed("grow-counter", list(self.counts.items()))

    @staticmethod
    def from_bytes(data: bytes) -> GrowCounter:
        """Undo `to_bytes`; raises ValueError for what it did not write."""
        (pairs,) = _unpacked("grow-counter", data, 1)
        return GrowCounter(_counts(pairs))


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter that goes up and down: what was added less what was taken (PN-counter)."""

    added: GrowCounter = GrowCounter()
    taken: GrowCounter = GrowCounter()

    def add(self, replica: Replica, amount: int) -> Counter:
        """The counter after `replica` has added `amount`, which may be negative."""
        if amount < 0:
            return Counter(self.added, self.taken.add(replica, -amount))
        return Counter(self.added.add(replica, amount), self.taken)

    def merge(self, other: Counter) -> Counter:
        """What both know."""
        return Counter(self.added.merge(other.added), self.taken.merge(other.taken))

    def includes(self, other: Counter) -> bool:
        """True if this counter knows all that the other knows."""
        return self.added.includes(other.added) and self.taken.includes(other.taken)

    @property
    def value(self) -> int:
        """The sum."""
        return self.added.value - self.taken.value

    def to_bytes(self) -> bytes:
        """The counter as bytes, equal for equal counters."""
        return _packed("counter", self.added.to_bytes(), self.taken.to_bytes())

    @staticmethod
    def from_bytes(data: bytes) -> Counter:
        """Undo `to_bytes`; raises ValueError for what it did not write."""
        added, taken = _unpacked("counter", data, 2)
        return Counter(GrowCounter.from_bytes(added), GrowCounter.from_bytes(taken))


@dataclass(frozen=True, slots=True)
class ObservedRemoveSet:
    """A set of byte strings. `dots` are the additions that hold; `seen` counts all of them."""

    dots: Mapping[bytes, frozenset[Dot]] = field(default_factory=dict)
    seen: Mapping[Replica, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep what says something; the same state has one form."""
        object.__setattr__(self, "dots", _frozen({e: d for e, d in self.dots.items() if d}))
        object.__setattr__(self, "seen", _frozen({r: n for r, n in self.seen.items() if n}))

    def add(self, replica: Replica, element: bytes) -> ObservedRemoveSet:
        """The set after `replica` has added an element; this addition replaces those it saw."""
        number = self.seen.get(replica, 0) + 1
        return ObservedRemoveSet(
            {**self.dots, element: frozenset({(replica, number)})}, {**self.seen, replica: number}
        )

    def remove(self, element: bytes) -> ObservedRemoveSet:
        """The set without an element: the additions seen here end, others hold."""
        return ObservedRemoveSet({e: d for e, d in self.dots.items() if e != element}, self.seen)

    def merge(self, other: ObservedRemoveSet) -> ObservedRemoveSet:
        """What both know: an addition that one has seen and no longer holds was removed."""
        merged = {
            element: self._kept(element, other) | other._kept(element, self)
            for element in {*self.dots, *other.dots}
        }
        replicas = {*self.seen, *other.seen}
        seen = {r: max(self.seen.get(r, 0), other.seen.get(r, 0)) for r in replicas}
        return ObservedRemoveSet(merged, seen)

    def _kept(self, element: bytes, other: ObservedRemoveSet) -> frozenset[Dot]:
        there = other.dots.get(element, frozenset())
        here = self.dots.get(element, frozenset())
        return frozenset(dot for dot in here if dot in there or dot[1] > other.seen.get(dot[0], 0))

    def includes(self, other: ObservedRemoveSet) -> bool:
        """True if this set knows all additions and removals that the other knows."""
        return self.merge(other) == self

    @property
    def value(self) -> frozenset[bytes]:
        """The elements."""
        return frozenset(self.dots)

    def to_bytes(self) -> bytes:
        """The set as bytes, equal for equal sets."""
        rows = [[element, sorted(dots)] for element, dots in self.dots.items()]
        return _packed("set", rows, list(self.seen.items()))

    @staticmethod
    def from_bytes(data: bytes) -> ObservedRemoveSet:
        """Undo `to_bytes`; raises ValueError for what it did not write."""
        rows, pairs = _unpacked("set", data, 2)
        seen = _counts(pairs)
        dots = {}
        for element, additions in _pairs(rows, bytes, tuple):
            dots[element] = frozenset(_pairs(additions, int, int))
            if any(not 0 < number <= seen.get(replica, 0) for replica, number in dots[element]):
                raise ValueError("set: an addition that its replica has not counted")
        return ObservedRemoveSet(dots, seen)


@dataclass(frozen=True, slots=True)
class Latest:
    """What each replica said last: a version, which goes up, and bytes.

    A version that is said twice with different bytes is settled for all alike: the larger bytes.
    """

    said: Mapping[Replica, tuple[int, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The same state has one form."""
        object.__setattr__(self, "said", _frozen(self.said))

    def say(self, replica: Replica, version: int, content: bytes) -> Latest:
        """The state after `replica` has said something, unless a later version is known."""
        return self.merge(Latest({replica: (version, content)}))

    def merge(self, other: Latest) -> Latest:
        """What both know: the later version of each replica."""
        merged = dict(self.said)
        for replica, entry in other.said.items():
            merged[replica] = max(entry, merged.get(replica, entry))
        return Latest(merged)

    def includes(self, other: Latest) -> bool:
        """True if this state knows all that the other knows."""
        return self.merge(other) == self

    @property
    def value(self) -> dict[Replica, bytes]:
        """The bytes of each replica."""
        return {replica: content for replica, (_, content) in self.said.items()}

    def to_bytes(self) -> bytes:
        """The state as bytes, equal for equal states."""
        return _packed("latest", [[r, version, text] for r, (version, text) in self.said.items()])

    @staticmethod
    def from_bytes(data: bytes) -> Latest:
        """Undo `to_bytes`; raises ValueError for what it did not write."""
        (rows,) = _unpacked("latest", data, 1)
        if not isinstance(rows, tuple) or any(
            not isinstance(row, tuple) or [type(part) for part in row] != [int, int, bytes]
            for row in rows
        ):
            raise ValueError("latest: expected rows of replica, version and bytes")
        return Latest({replica: (version, text) for replica, version, text in rows})


@dataclass(frozen=True, slots=True, eq=False)
class CountMinSketch:
    """Sums by key in little space (Cormode and Muthukrishnan, 2005), an array for each replica.

    A key has a column in each of the `rows`; all replicas take the same one. Cells only grow, so
    the larger cell of a replica is the later one, and an estimate is never below the true sum.
    """

    rows: int
    width: int
    cells: Mapping[Replica, Words] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check sizes; the same state has one form. Arrays [rows, width] are copied."""
        if self.rows < 1 or self.width < 1 or self.rows * self.width > MAX_SKETCH_CELLS:
            raise ValueError(f"sketch of {self.rows} x {self.width}: expected 1 .. 2**24 cells")
        kept = {}
        for replica, array in self.cells.items():
            if array.shape != (self.rows, self.width) or (array < 0).any():
                raise ValueError(f"sketch of replica {replica}: expected counts, {self.rows} rows")
            if array.any():
                kept[replica] = np.array(array, np.int64)
                kept[replica].setflags(write=False)
        object.__setattr__(self, "cells", _frozen(kept))

    def __eq__(self, other: object) -> bool:
        """Equal shape and equal cells of every replica."""
        if not isinstance(other, CountMinSketch):
            return NotImplemented
        return (
            (self.rows, self.width, self.cells.keys())
            == (other.rows, other.width, other.cells.keys())
        ) and all(np.array_equal(array, other.cells[r]) for r, array in self.cells.items())

    def __hash__(self) -> int:
        """Equal for equal sketches."""
        return hash((self.rows, self.width, tuple(self.cells)))

    def add(self, replica: Replica, columns: Sequence[int], amount: int) -> CountMinSketch:
        """The sketch after `replica` has counted `amount` more for the key of these columns."""
        if amount < 0 or len(columns) != self.rows:
            raise ValueError(f"{amount} in {len(columns)} rows: expected >= 0, {self.rows} columns")
        array = self.cells.get(replica, np.zeros((self.rows, self.width), np.int64)).copy()
        array[np.arange(self.rows), list(columns)] += amount
        return CountMinSketch(self.rows, self.width, {**self.cells, replica: array})

    def merge(self, other: CountMinSketch) -> CountMinSketch:
        """What both know; ValueError for sketches of different shape."""
        self._check_shape(other)
        merged = dict(self.cells)
        for replica, array in other.cells.items():
            merged[replica] = np.maximum(array, merged.get(replica, array))
        return CountMinSketch(self.rows, self.width, merged)

    def includes(self, other: CountMinSketch) -> bool:
        """True if this sketch knows all that the other knows."""
        self._check_shape(other)
        return all(
            bool((self.cells[r] >= array).all()) if r in self.cells else False
            for r, array in other.cells.items()
        )

    @property
    def value(self) -> Words:
        """The sum of the replicas' arrays, [rows, width]."""
        total = np.zeros((self.rows, self.width), np.int64)
        for array in self.cells.values():
            total += array
        return total

    def estimate(self, columns: Sequence[int]) -> int:
        """The sum counted for the key of these columns, or somewhat more; never less."""
        return int(self.value[np.arange(self.rows), list(columns)].min())

    def _check_shape(self, other: CountMinSketch) -> None:
        if (self.rows, self.width) != (other.rows, other.width):
            raise ValueError(
                f"sketch of {other.rows} x {other.width}: expected {self.rows} x {self.width}"
            )

    def to_bytes(self) -> bytes:
        """The sketch as bytes, compressed."""
        arrays = [[r, zlib.compress(a.astype("<i8").tobytes(), 1)] for r, a in self.cells.items()]
        return _packed("sketch", self.rows, self.width, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> CountMinSketch:
        """Undo `to_bytes`; raises ValueError for what it did not write."""
        rows, width, arrays = _unpacked("sketch", data, 3)
        if type(rows) is not int or type(width) is not int:
            raise ValueError("sketch: expected integers for rows and width")
        empty = CountMinSketch(rows, width)
        cells = {r: _inflated(text, rows, width) for r, text in _pairs(arrays, int, bytes)}
        return CountMinSketch(empty.rows, empty.width, cells)


def _inflated(text: bytes, rows: int, width: int) -> Words:
    size = 8 * rows * width
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(text, size)
    except zlib.error as error:
        raise ValueError(f"sketch: {error}") from None
    if len(raw) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"sketch: expected {size} bytes of cells")
    return np.frombuffer(raw, "<i8").astype(np.int64).reshape(rows, width)


def _packed(kind: str, *parts: object) -> bytes:
    packed: bytes = msgpack.packb((kind, *parts), use_bin_type=True)
    return packed


def _unpacked(kind: str, data: bytes, parts: int) -> tuple[Any, ...]:
    try:
        unpacked = msgpack.unpackb(data, use_list=False, raw=False)
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        raise ValueError(f"{kind}: {error}") from None
    if not isinstance(unpacked, tuple) or len(unpacked) != parts + 1 or unpacked[0] != kind:
        raise ValueError(f"{kind}: expected its name and {parts} parts")
    return unpacked[1:]


def _pairs(rows: object, first: type, second: type) -> list[tuple[Any, Any]]:
    if not isinstance(rows, tuple):
        raise ValueError("expected an array of pairs")
    for row in rows:
        if not isinstance(row, tuple) or [type(part) for part in row] != [first, second]:
            raise ValueError(f"expected pairs of {first.__name__} and {second.__name__}")
    return list(rows)


def _counts(rows: object) -> dict[Replica, int]:
    counts = dict(_pairs(rows, int, int))
    if any(not 0 < count <= _MAX_COUNT for count in counts.values()):
        raise ValueError("expected counts from 1 to 2**63 - 1")
    return counts
