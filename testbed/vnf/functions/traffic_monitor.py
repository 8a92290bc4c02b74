"""A traffic monitor: what each directed flow, and all of them together, carried.

A flow is (protocol, source, destination, ports); ICMP queries count by identifier, fragments
after the first and protocols without ports by their addresses and protocol. At most `max_flows`
flows are kept: a new one then takes the place of the flow idle longest among the
`table.LOOKED_AT` that the table's hand points at; its counts leave the flow table and stay in the
totals. Packets go on unchanged.

The totals and a count-min sketch of bytes by flow (Cormode and Muthukrishnan, 2005) are mergeable:
they are this instance's own contribution and only grow. `traffic_view` merges those of several
instances and finds the flows that carry more than `heavy_share_ppm` of all bytes. The sketch is
updated plainly: conservative update is more exact, but sums of such sketches are not sketches of
the sum. All instances must have sketches of one shape; where a flow counts is no secret.

Records:

    tag        key               value
    FLOW_TAG   flow_key          last_ns + FOREVER_NS, packets, l3_bytes, first_ns
    SLOT_TAG   see `table`
    TOTALS_TAG                   packets, l3_bytes, flows that were admitted
    SKETCH_TAG number of a block CELLS of a row, see `cell_of`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.functions.config import check_keys, integer
from testbed.vnf.functions.effect import begin_put, drop, forward, put
from testbed.vnf.functions.function import Call, Function, compiled_process
from testbed.vnf.functions.packet import OK, REASONS, flow_key, parse
from testbed.vnf.functions.table import EXPIRES, admit, plain_key, table_records
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import KEY_WORDS, Key, Records, find

FLOW_TAG, SLOT_TAG = 0x01, 0x02
TOTALS_TAG, SKETCH_TAG = 0x40, 0x41

LAST, PACKETS, L3_BYTES, FIRST = EXPIRES, EXPIRES + 1, EXPIRES + 2, EXPIRES + 3
TOTAL_PACKETS, TOTAL_L3_BYTES, TOTAL_FLOWS = 0, 1, 2

FOREVER_NS = 1 << 62
"""Flows do not expire; they are evicted in the order of their last packets."""

CELLS = 4
"""Cells of the sketch in one record."""

MAX_ROWS = 8
MAX_FLOWS, ROWS, WIDTH, HEAVY_SHARE_PPM = 0, 1, 2, 3
"""Places in the configuration."""

_TAG_MASK = (1 << 56) - 1


@compiled
def mixed(key: Key) -> int:
    """64 bits that depend on all of a flow key but its tag."""
    words = (key[0] & _TAG_MASK) * 0x2545F4914F6CDD1D ^ key[1] * 0x9E3779B97F4A7C1
    words ^= (words >> 29) & 0x7FFFFFFFF
    words = words * 0x1B873593CC9E2D51 ^ key[2] * 0x38B34AE5A1E38B93
    words = words ^ key[3] * 0x52DCE729DA3ED2F5 ^ key[4] * 0x2127599BF4325C37
    words ^= (words >> 32) & 0xFFFFFFFF
    words *= 0x4CF5AD432745937F
    return words ^ ((words >> 31) & 0x1FFFFFFFF)


@compiled
def column_of(hashed: int, row: int, width: int) -> int:
    """Where a flow (`mixed`) counts in a row of the sketch: 0 .. width - 1."""
    spread = (hashed ^ (row + 1) * 0x3C6EF372FE94F82B) * (0x1D8E4E27C47D124F + 2 * row)
    spread ^= (spread >> 32) & 0xFFFFFFFF
    spread *= 0x5851F42D4C957F2D
    return ((spread >> 32) & 0x7FFFFFFF) * width >> 31


@compiled("UniTuple(int64, 2)(int64, int64, int64)")
def cell_of(row: int, column: int, width: int) -> tuple[int, int]:
    """(number of the block, word in it) of a cell of the sketch."""
    return row * ((width + CELLS - 1) // CELLS) + column // CELLS, column % CELLS


@compiled
def _count_in_sketch(records: Records, effect: Words, key: Key, amount: int, config: Words) -> None:
    hashed = mixed(key)
    for row in range(config[ROWS]):
        block, word = cell_of(row, column_of(hashed, row, config[WIDTH]), config[WIDTH])
        block_key = plain_key(SKETCH_TAG, block)
        at = find(records, block_key)
        put(effect, block_key, word, amount + (records.values[at, word] if at >= 0 else 0))


@compiled
def _count_in_totals(records: Records, effect: Words, amount: int, new: int) -> None:
    """The flows are written only when there is one more: most packets have nothing to say."""
    key = plain_key(TOTALS_TAG, 0)
    row = find(records, key)
    packets, l3_bytes, flows = 0, 0, 0
    if row >= 0:
        totals = records.values[row]
        packets, l3_bytes, flows = totals[0], totals[1], totals[2]
    at = begin_put(effect, key, TOTAL_PACKETS, 2 + new)
    if at >= 0:
        effect[at + TOTAL_PACKETS] = packets + 1
        effect[at + TOTAL_L3_BYTES] = l3_bytes + amount
        if new:
            effect[at + TOTAL_FLOWS] = flows + 1


@compiled_process
def _process(call: Call) -> int:
    """Count one packet; the direction does not matter, the flow key has it."""
    view = parse(call.packet, call.length)
    if view.status != OK:
        return drop(call.effect, view.status)
    key = flow_key(view, FLOW_TAG)
    row = find(call.records, key)
    new = int(row < 0)
    packets, l3_bytes = 0, 0
    if new:
        admit(call.records, call.effect, SLOT_TAG, key, call.config[MAX_FLOWS], call.now_ns, True)
    else:
        packets, l3_bytes = call.records.values[row, PACKETS], call.records.values[row, L3_BYTES]
    at = begin_put(call.effect, key, LAST, 3 + new)
    if at >= 0:
        call.effect[at + LAST] = call.now_ns + FOREVER_NS
        call.effect[at + PACKETS] = packets + 1
        call.effect[at + L3_BYTES] = l3_bytes + view.length
        if new:
            call.effect[at + FIRST] = call.now_ns
    _count_in_totals(call.records, call.effect, view.length, new)
    _count_in_sketch(call.records, call.effect, key, view.length, call.config)
    return forward(call.effect, view.length)


def make(config: Mapping[str, Any]) -> Function:
    """Keys: `max_flows`, `sketch_rows`, `sketch_width`, `heavy_share_ppm`; raises InputError."""
    known = ("max_flows", "sketch_rows", "sketch_width", "heavy_share_ppm")
    check_keys("tm", config, known)
    max_flows = integer("tm", config, "max_flows", 65_536, 1, 1 << 24)
    rows = integer("tm", config, "sketch_rows", 4, 1, MAX_ROWS)
    width = integer("tm", config, "sketch_width", 1024, 16, 1 << 16)
    heavy_ppm = integer("tm", config, "heavy_share_ppm", 10_000, 1, 1_000_000)
    blocks, _ = cell_of(rows, 0, width)
    return Function(
        name="tm",
        process=_process,
        config=np.array([max_flows, rows, width, heavy_ppm], np.int64),
        reasons=REASONS,
        capacity=max_flows + table_records(max_flows) + 1 + blocks,
        value_words=KEY_WORDS,
    )
