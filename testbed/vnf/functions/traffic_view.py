"""What the traffic monitors of several instances have seen together: merged contributions.

An instance's contribution follows from its state, so it survives when the instance fails over. It
is a CRDT: contributions may come late, twice and in any order.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import msgpack
import numba
import numpy as np

from testbed.compiled import compiled
from testbed.vnf.functions import share
from testbed.vnf.functions.function import Function
from testbed.vnf.functions.share import Share
from testbed.vnf.functions.traffic_monitor import (
    CELLS,
    FLOW_TAG,
    HEAVY_SHARE_PPM,
    ROWS,
    SKETCH_TAG,
    TOTAL_FLOWS,
    TOTAL_L3_BYTES,
    TOTAL_PACKETS,
    TOTALS_TAG,
    WIDTH,
    cell_of,
    column_of,
    mixed,
)
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.crdt import CountMinSketch, GrowCounter, Latest, Replica
from testbed.vnf.state.records import COUNT, KEY_WORDS, Records

Contents: TypeAlias = Mapping[tuple[int, ...], tuple[int, ...]]
"""A state, as `records.contents` gives it."""

FlowKey: TypeAlias = tuple[int, int, int, int, int]

_KEY_BYTES = 8 * KEY_WORDS
_TAG_SHIFT = 56
_PPM = 1_000_000
_ROWS = numba.typeof(np.zeros((1, 1), np.int64))
_COUNTS = numba.typeof(np.zeros(1, np.int64))
_SLICE = 4096
"""Rows of a state that are looked at in one go."""
MOST_CANDIDATES = 1000
"""Flows that a monitor names at most, the heaviest: all, if they carry a 1,000th or more."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What some instances have counted.

    candidates  for each instance the keys of the flows that are heavy in its own traffic. A flow
                that is heavy in all traffic is heavy in that of some instance at least
    """

    packets: GrowCounter
    l3_bytes: GrowCounter
    flows: GrowCounter
    sketch: CountMinSketch
    candidates: Latest

    def merge(self, other: Contribution) -> Contribution:
        """What both know; ValueError for sketches of different shape."""
        return Contribution(
            self.packets.merge(other.packets),
            self.l3_bytes.merge(other.l3_bytes),
            self.flows.merge(other.flows),
            self.sketch.merge(other.sketch),
            self.candidates.merge(other.candidates),
        )

    def to_bytes(self) -> bytes:
        """The contribution as bytes."""
        parts = (self.packets, self.l3_bytes, self.flows, self.sketch, self.candidates)
        packed: bytes = msgpack.packb([part.to_bytes() for part in parts])
        return packed

    @staticmethod
    def from_bytes(data: bytes) -> Contribution:
        """Undo `to_bytes`; raises ValueError for what it did not write."""
        try:
            parts = msgpack.unpackb(data, use_list=False)
        except (msgpack.UnpackException, ValueError) as error:
            raise ValueError(f"contribution: {error}") from None
        if not isinstance(parts, tuple) or [type(part) for part in parts] != [bytes] * 5:
            raise ValueError("contribution: expected five byte strings")
        candidates = Latest.from_bytes(parts[4])
        for keys in candidates.value.values():
            _keys_of(keys)
        return Contribution(
            GrowCounter.from_bytes(parts[0]),
            GrowCounter.from_bytes(parts[1]),
            GrowCounter.from_bytes(parts[2]),
            CountMinSketch.from_bytes(parts[3]),
            candidates,
        )


@dataclass(frozen=True, slots=True)
class HeavyFlow:
    """A directed flow and its bytes, as the sketch knows them: never less than there were."""

    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    l3_bytes: int


def contribution(function: Function, state: Contents, replica: Replica) -> Contribution:
    """What one instance of the monitor has counted; `replica` names it (see `crdt`)."""
    totals = state.get((TOTALS_TAG << _TAG_SHIFT, 0, 0, 0, 0), (0, 0, 0))
    rows, width = int(function.config[ROWS]), int(function.config[WIDTH])
    flows = _key_array([key for key in state if key[0] >> _TAG_SHIFT == FLOW_TAG])
    return _contribution(function, totals, _cells(state, rows, width), flows, replica)


def _contribution(
    function: Function, totals: Sequence[int], cells: Words, flows: Words, replica: Replica
) -> Contribution:
    """The same from the totals, the cells [rows, width] and the keys of flows [n, KEY_WORDS]."""
    rows, width = cells.shape
    sketch = CountMinSketch(rows, width, {replica: cells})
    least = _least_bytes(totals[TOTAL_L3_BYTES], int(function.config[HEAVY_SHARE_PPM]))
    heavy = flows[estimates(flows, sketch.value) >= least]
    heavy = heavy[np.lexsort(heavy.T[::-1])]  # equal states say the same
    return Contribution(
        packets=GrowCounter({replica: totals[TOTAL_PACKETS]}),
        l3_bytes=GrowCounter({replica: totals[TOTAL_L3_BYTES]}),
        flows=GrowCounter({replica: totals[TOTAL_FLOWS]}),
        sketch=sketch,
        # Every packet that changes the state is counted, so its number is a version.
        candidates=Latest().say(replica, totals[TOTAL_PACKETS], heavy.astype(">i8").tobytes()),
    )


def heavy_flows(view: Contribution, heavy_share_ppm: int) -> tuple[HeavyFlow, ...]:
    """The flows that carry at least a share of all bytes, in parts per million, heaviest first.

    None that an instance still keeps in its table is missing; one may be there by mistake, if
    other flows share all of its cells in the sketch.
    """
    least = _least_bytes(view.l3_bytes.value, heavy_share_ppm)
    keys = sorted({key for keys in view.candidates.value.values() for key in _keys_of(keys)})
    counted = estimates(_key_array(keys), view.sketch.value).tolist()
    heavy = [(n, key) for n, key in zip(counted, keys, strict=True) if n >= least]
    heavy.sort(key=lambda pair: (-pair[0], pair[1]))
    return tuple(_described(key, l3_bytes) for l3_bytes, key in heavy)


def described(function: Function, contributions: Sequence[Contribution]) -> dict[str, Any]:
    """What several instances have counted together, as JSON values; empty for none.

    packets, l3_bytes, flows; heavy: the fields of each `HeavyFlow`, heaviest first.
    """
    if not contributions:
        return {}
    view = functools.reduce(Contribution.merge, contributions)
    heavy = heavy_flows(view, int(function.config[HEAVY_SHARE_PPM]))
    return {
        "packets": view.packets.value,
        "l3_bytes": view.l3_bytes.value,
        "flows": view.flows.value,
        "heavy": [asdict(flow) for flow in heavy],
    }


def _mergeable_keys(function: Function) -> Words:
    """The totals, then the blocks of the sketch."""
    blocks, _ = cell_of(int(function.config[ROWS]), 0, int(function.config[WIDTH]))
    sketch = np.arange(blocks, dtype=np.int64) | SKETCH_TAG << _TAG_SHIFT
    return np.append(np.int64(TOTALS_TAG << _TAG_SHIFT), sketch)


def _candidates(
    function: Function, records: Records, values: Words
) -> Generator[None, None, bytes]:
    """The keys of the flows that are heavy by the totals and the sketch in `values`.

    From the last row to the first: a row that moves while packets are handled, moves ahead, so
    none is passed over. What comes meanwhile counts at the next time.
    """
    cells = _cells_in(function, values)
    least = _least_bytes(int(values[0, TOTAL_L3_BYTES]), int(function.config[HEAVY_SHARE_PPM]))
    heavy = np.zeros((0, 1 + KEY_WORDS), np.int64)  # bytes, key
    yield
    end = int(records.head[COUNT])
    while end > 0:
        begin = max(0, end - _SLICE)
        keys = records.keys[begin:end]
        flows = keys[keys[:, 0] >> _TAG_SHIFT == FLOW_TAG]
        counted = estimates(flows, cells)
        found = np.column_stack([counted, flows])[counted >= least]
        heavy = _heaviest(np.concatenate([heavy, found]))
        yield
        end = min(begin, int(records.head[COUNT]))
    return np.unique(heavy[:, 1:], axis=0).astype(">i8").tobytes()


def _heaviest(rows: Words) -> Words:
    """At most `MOST_CANDIDATES` of the rows (bytes, key): those with most bytes."""
    if len(rows) <= MOST_CANDIDATES:
        return rows
    order = np.lexsort([*rows[:, :0:-1].T, -rows[:, 0]])
    return rows[order[:MOST_CANDIDATES]]


def _cells_in(function: Function, values: Words) -> Words:
    """The cells [rows, width] in the values of `_mergeable_keys`."""
    rows, width = int(function.config[ROWS]), int(function.config[WIDTH])
    return np.ascontiguousarray(values[1:, :CELLS].reshape(rows, -1)[:, :width])


def _view(function: Function, told: Mapping[str, share.Contribution]) -> dict[str, Any]:
    contributions = [
        _contribution(
            function,
            each.values[0].tolist(),
            _cells_in(function, each.values),
            _key_array(_keys_of(each.note)),
            replica,
        )
        for replica, each in enumerate(told.values())
    ]
    return {"groups": list(told), **described(function, contributions)}


SHARE = Share(keys=_mergeable_keys, view=_view, note=_candidates)


@compiled(_COUNTS(_ROWS, _ROWS))
def estimates(keys: Words, cells: Words) -> Words:
    """The bytes of flows [n, KEY_WORDS] by the cells [rows, width] of a sketch: [n]."""
    found = np.zeros(len(keys), np.int64)
    rows, width = cells.shape
    for number in range(len(keys)):
        key = keys[number]
        hashed = mixed((key[0], key[1], key[2], key[3], key[4]))
        least = cells[0, column_of(hashed, 0, width)]
        for row in range(1, rows):
            least = min(least, cells[row, column_of(hashed, row, width)])
        found[number] = least
    return found


def _key_array(keys: Sequence[tuple[int, ...]]) -> Words:
    return np.array(keys, np.int64).reshape(-1, KEY_WORDS)


def _least_bytes(l3_bytes: int, share_ppm: int) -> int:
    return max(1, -(-l3_bytes * share_ppm // _PPM))


def _cells(state: Contents, rows: int, width: int) -> Words:
    blocks, _ = cell_of(1, 0, width)
    flat = np.zeros((rows * blocks, CELLS), np.int64)
    for key, value in state.items():
        if key[0] >> _TAG_SHIFT == SKETCH_TAG:
            flat[key[0] & (1 << _TAG_SHIFT) - 1] = value[:CELLS]
    return flat.reshape(rows, blocks * CELLS)[:, :width]


def _keys_of(data: bytes) -> list[FlowKey]:
    if len(data) % _KEY_BYTES:
        raise ValueError(f"candidates of {len(data)} bytes: expected keys of {_KEY_BYTES}")
    words = np.frombuffer(data, ">i8").reshape(-1, KEY_WORDS).tolist()
    return [(k0, k1, k2, k3, k4) for k0, k1, k2, k3, k4 in words]


def _described(key: FlowKey, l3_bytes: int) -> HeavyFlow:
    head = key[0]
    if head >> 48 & 0xFF == 4:
        source, destination = (
            str(ipaddress.IPv4Address(key[1] >> shift & 0xFFFFFFFF)) for shift in (32, 0)
        )
    else:
        raw = np.array(key[1:], ">i8").tobytes()
        source, destination = (str(ipaddress.IPv6Address(raw[at : at + 16])) for at in (0, 16))
    ports = head >> 16 & 0xFFFF, head & 0xFFFF
    return HeavyFlow(head >> 32 & 0xFF, source, ports[0], destination, ports[1], l3_bytes)
