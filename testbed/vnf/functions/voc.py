"""Video optimisation controller: a meter and marker for each directed flow.

The two-rate meter of RFC 2698, colour-blind, over L3 bytes: the committed bucket fills with
`rate_bps` up to `burst_bytes`, the peak bucket with twice of both. A packet that fits both is
marked AF41; one that fits the peak bucket alone is marked AF43, the highest drop precedence of
the class (RFC 2597 6); one that fits neither is dropped as "policed", which RFC 2698 leaves to
policy. The ECN bits stay (RFC 3168 5). IPv4 and IPv6 are treated alike.

Refilling is exact integer arithmetic: buckets are kept in bit nanoseconds per second, i.e. bytes
x 8 x 10**9. The peak bucket is kept as half of what it holds, which fills as fast and as far as the
committed one, and a packet takes half of its bytes from it: so the largest fits 64 bits.

Fragments after the first and protocols without ports are metered by their addresses and protocol.
At most `max_flows` buckets are kept; beyond that the one idle longest among those looked at makes
room, and its flow starts with full buckets when it comes back. A packet changes three words, the
time and both buckets: that is what a meter is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.functions.config import check_keys, integer
from testbed.vnf.functions.effect import begin_put, drop, forward
from testbed.vnf.functions.function import Call, Function, compiled_process
from testbed.vnf.functions.packet import OK, REASONS, flow_key, parse, set_tos
from testbed.vnf.functions.table import EXPIRES, admit, table_records
from testbed.vnf.state.records import KEY_WORDS, find

AF41, AF43 = 34, 38
"""Codepoints 100010 and 100110 (RFC 2597 6)."""

FLOW_TAG, SLOT_TAG = 0x01, 0x02
COMMITTED, HALF_PEAK = EXPIRES + 1, EXPIRES + 2
"""Words of a flow's value, after the time of its last packet plus `FOREVER_NS`."""

FOREVER_NS = 1 << 62
"""Buckets do not expire; they are evicted in the order of their last packets."""

POLICED = len(REASONS)

_BYTE = 8 * 1_000_000_000
_HALF_BYTE = _BYTE // 2
_RATE_BPS, _FULL, _MAX_FLOWS = 0, 1, 2


@compiled
def _refilled(level: int, full: int, rate_bps: int, elapsed_ns: int) -> int:
    """A bucket after some time; written so that nothing exceeds 64 bits."""
    if elapsed_ns <= 0:
        return level
    if elapsed_ns > full // rate_bps:
        return full
    gained = rate_bps * elapsed_ns
    return full if gained >= full - level else level + gained


@compiled_process
def _process(call: Call) -> int:
    """Meter and mark one packet; the direction does not matter, the flow key has it."""
    view = parse(call.packet, call.length)
    if view.status != OK:
        return drop(call.effect, view.status)
    full = call.config[_FULL]
    key = flow_key(view, FLOW_TAG)
    row = find(call.records, key)
    committed, half_peak = full, full
    if row >= 0:
        bucket = call.records.values[row]
        elapsed_ns = call.now_ns - (bucket[EXPIRES] - FOREVER_NS)
        committed = _refilled(bucket[COMMITTED], full, call.config[_RATE_BPS], elapsed_ns)
        half_peak = _refilled(bucket[HALF_PEAK], full, call.config[_RATE_BPS], elapsed_ns)
    else:
        admit(call.records, call.effect, SLOT_TAG, key, call.config[_MAX_FLOWS], call.now_ns, True)
    red = half_peak < view.length * _HALF_BYTE
    green = not red and committed >= view.length * _BYTE
    if not red:
        half_peak -= view.length * _HALF_BYTE
    if green:
        committed -= view.length * _BYTE
    at = begin_put(call.effect, key, EXPIRES, 3)
    if at >= 0:
        call.effect[at] = call.now_ns + FOREVER_NS
        call.effect[at + COMMITTED] = committed
        call.effect[at + HALF_PEAK] = half_peak
    if red:
        return drop(call.effect, POLICED)
    tos = (AF41 if green else AF43) << 2 | view.tos & 3
    if tos != view.tos:
        set_tos(call.packet, view, tos)
    return forward(call.effect, view.length)


def make(config: Mapping[str, Any]) -> Function:
    """Keys: `rate_bps`, `burst_bytes` (1 Gb/s and 1 MB by default), `max_flows`.

    Raises InputError.
    """
    check_keys("voc", config, ("rate_bps", "burst_bytes", "max_flows"))
    rate_bps = integer("voc", config, "rate_bps", 1_000_000_000, 1, 10**12)
    burst_bytes = integer("voc", config, "burst_bytes", 1_000_000, 1, 10**9)
    max_flows = integer("voc", config, "max_flows", 65_536, 1, 1 << 24)
    return Function(
        name="voc",
        process=_process,
        config=np.array([rate_bps, burst_bytes * _BYTE, max_flows], np.int64),
        reasons=(*REASONS, "policed"),
        capacity=max_flows + table_records(max_flows),
        value_words=KEY_WORDS,
    )
