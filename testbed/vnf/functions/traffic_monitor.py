"""A traffic monitor: what each directed flow, and all of them together, carried.

A flow is (protocol, source, destination, ports); ICMP queries count by identifier, fragments
after the first and protocols without ports by their addresses. At most `max_flows` flows are
kept: a new one then takes the place of the flow idle longest among the `table.LOOKED_AT` that the
table's hand points at; its counts leave the flow table and stay in the totals, and the number of
flows that left is counted. Packets go on unchanged.

State keys: "f" + the 13 byte flow key -> (packets, l3_bytes, first_ns, last_ns);
"T" -> (packets, l3_bytes, flows that left), the totals; and the slots, see `table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from testbed.scenario.types import FunctionName
from testbed.vnf.functions.base import Result, check_keys, drop, forward, integer
from testbed.vnf.functions.packet import parse
from testbed.vnf.functions.table import admit
from testbed.vnf.state import Delta, Key, Value

TOTALS_KEY: Key = b"T"
_Flow: TypeAlias = tuple[int, int, int, int]
_NEVER_NS = 1 << 63


@dataclass(frozen=True, slots=True)
class TrafficMonitor:
    """A traffic monitor of at most `max_flows` flows."""

    max_flows: int

    @property
    def name(self) -> FunctionName:
        """The function's name in scenarios."""
        return "tm"

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> TrafficMonitor:
        """Key: `max_flows`. Raises InputError."""
        check_keys("tm", config, ("max_flows",))
        return TrafficMonitor(integer("tm", config, "max_flows", 65_536, 1, 1 << 24))

    def process(
        self, packet: bytes, state: Mapping[Key, Value], reverse: bool, now_ns: int
    ) -> Result:
        """Count one packet; the direction does not matter, the flow key has it."""
        parsed = parse(packet)
        if isinstance(parsed, str):
            return drop(parsed)
        raw = parsed.raw
        l3_bytes = len(raw)
        key = b"f" + parsed.key
        packets, total_bytes, left = cast("tuple[int, int, int]", state.get(TOTALS_KEY, (0, 0, 0)))
        flow = cast("_Flow | None", state.get(key))
        if flow is not None:
            record = (flow[0] + 1, flow[1] + l3_bytes, flow[2], now_ns)
            totals = (packets + 1, total_bytes + l3_bytes, left)
            return forward(raw, ((key, record), (TOTALS_KEY, totals)))
        _, changes = admit(state, b"F", key, self.max_flows, now_ns, _timing, evict=True)
        left += sum(value is None for _, value in changes)
        written: Delta = (
            (key, (1, l3_bytes, now_ns, now_ns)),
            (TOTALS_KEY, (packets + 1, total_bytes + l3_bytes, left)),
        )
        return forward(raw, changes + written)


def flow_key(packet_key: bytes) -> Key:
    """The state key of a flow's counters."""
    return b"f" + packet_key


def _timing(record: Value) -> tuple[int, int]:
    return _NEVER_NS, cast(_Flow, record)[3]
