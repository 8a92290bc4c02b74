"""Video optimisation controller: a meter and marker for each directed flow.

The two-rate meter of RFC 2698, colour-blind, over L3 bytes: the committed bucket fills with
`rate_bps` up to `burst_bytes`, the peak bucket with twice of both. A packet that fits both is
marked AF41; one that fits the peak bucket alone is marked AF43, the highest drop precedence of
the class (RFC 2597 6); one that fits neither is dropped as "policed", which RFC 2698 leaves to
policy. The ECN bits stay (RFC 3168 5). Refilling is exact integer arithmetic: buckets are kept in
bit nanoseconds per second, i.e. bytes x 8 x 10**9.

Fragments after the first and protocols without ports are metered by their addresses. At most
`max_flows` buckets are kept; beyond that the one idle longest among those looked at makes room,
and its flow starts with full buckets when it comes back.

State keys: "b" + the 13 byte flow key -> (committed, peak, updated_ns); and the slots, see
`table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from testbed.scenario.types import FunctionName
from testbed.vnf.functions.base import Result, check_keys, drop, forward, integer
from testbed.vnf.functions.packet import parse, with_tos
from testbed.vnf.functions.table import admit
from testbed.vnf.state import Delta, Key, Value

AF41, AF43 = 34, 38
"""Codepoints 100010 and 100110 (RFC 2597 6)."""
POLICED = "policed"
_BYTE = 8 * 1_000_000_000
_Bucket: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class VideoOptimisationController:
    """A meter of `rate_bps` (L3) with bursts of `burst_bytes`, for each flow."""

    rate_bps: int
    burst_bytes: int
    max_flows: int

    @property
    def name(self) -> FunctionName:
        """The function's name in scenarios."""
        return "voc"

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> VideoOptimisationController:
        """Keys: `rate_bps`, `burst_bytes` (1 Gb/s and 1 MB by default), `max_flows`.

        Raises InputError.
        """
        check_keys("voc", config, ("rate_bps", "burst_bytes", "max_flows"))
        return VideoOptimisationController(
            rate_bps=integer("voc", config, "rate_bps", 1_000_000_000, 1, 10**12),
            # A peak bucket of twice this must fit msgpack's 64 bits.
            burst_bytes=integer("voc", config, "burst_bytes", 1_000_000, 1, 10**9),
            max_flows=integer("voc", config, "max_flows", 65_536, 1, 1 << 24),
        )

    def process(
        self, packet: bytes, state: Mapping[Key, Value], reverse: bool, now_ns: int
    ) -> Result:
        """Meter and mark one packet; the direction does not matter, the flow key has it."""
        parsed = parse(packet)
        if isinstance(parsed, str):
            return drop(parsed)
        key = b"b" + parsed.key
        full = self.burst_bytes * _BYTE
        bucket = cast("_Bucket | None", state.get(key))
        changes: Delta = ()
        if bucket is None:
            _, changes = admit(state, b"B", key, self.max_flows, now_ns, _timing, evict=True)
            committed, peak = full, 2 * full
        else:
            refill = self.rate_bps * max(0, now_ns - bucket[2])
            committed = min(full, bucket[0] + refill)
            peak = min(2 * full, bucket[1] + 2 * refill)
        cost = len(parsed.raw) * _BYTE
        if peak < cost:
            return drop(POLICED, (*changes, (key, (committed, peak, now_ns))))
        dscp = AF43
        if committed >= cost:
            committed -= cost
            dscp = AF41
        tos = dscp << 2 | parsed.tos & 3
        raw = parsed.raw if tos == parsed.tos else with_tos(parsed.raw, tos)
        return forward(raw, (*changes, (key, (committed, peak - cost, now_ns))))


def _timing(record: Value) -> tuple[int, int]:
    updated_ns = cast(_Bucket, record)[2]
    return 1 << 63, updated_ns
