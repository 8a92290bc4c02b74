"""A stateful packet filter.

New connections begin in the forward direction, and only there; rules decide about the first
packet of each, first match first, else `default` ("allow" unless configured). The reverse
direction carries packets of known connections alone (RFC 6092 REC-11, REC-31: endpoints may rely on
simple stateful filtering, here with address-and-port-dependent filtering).

- TCP follows the connection's states (RFC 9293 3.3.2) by the flags that each side has sent. A
  packet that does not fit, or whose flags make no sense together, is dropped as "invalid-state".
  Sequence numbers are not tracked. Simultaneous open is not supported.
- UDP, ICMP queries and other protocols have a pseudo-state: asked, answered.
- ICMP errors pass if the packet that they quote belongs to a live connection and went the other
  way (RFC 6092 REC-10, RFC 5508 REQ-3 for their checksums); they change no state.
- Fragments: the first one carries the ports and is treated as a packet; the others pass if the
  first one has passed (same addresses, protocol, identification, within `FRAGMENT_NS`, RFC 1122
  3.3.2), else they are dropped as "fragment". Out-of-order fragments are so lost. A fragment that
  splits a TCP header is malformed (RFC 1858, RFC 3128).

The table holds `max_connections`; when it is full of live connections, new ones are dropped as
"table-full", and the old ones go on.

State keys: "k" + the 13 byte flow key of the initiator -> (state, expires_ns); "g" + protocol,
addresses, identification -> (expires_ns,); and the slots of both tables, see `table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from testbed.scenario.types import FunctionName
from testbed.vnf.functions.base import Result, check_keys, choice, drop, forward, integer
from testbed.vnf.functions.firewall_rules import Rule, read_rules
from testbed.vnf.functions.packet import (
    FRAGMENT,
    ICMP,
    ICMP_ERRORS,
    ICMP_QUERIES,
    ICMP_REPLIES,
    MALFORMED,
    TCP,
    UNSUPPORTED,
    Packet,
    parse,
    parse_quoted,
    reverse_of,
)
from testbed.vnf.functions.table import REFRESH_NS, admit
from testbed.vnf.functions.tcp_states import (
    ASKED,
    CLOSED,
    ESTABLISHED,
    FIN_BOTH,
    FIN_FORWARD,
    FIN_REVERSE,
    SYN_RECEIVED,
    SYN_SENT,
    is_opening,
    next_state,
)
from testbed.vnf.state import Delta, Key, Value

INVALID_STATE, NO_CONNECTION = "invalid-state", "no-connection"
DENIED, TABLE_FULL = "denied", "table-full"
ANSWERED = ASKED + 1
FRAGMENT_NS = 60_000_000_000
MAX_FRAGMENTED = 1024
_NS_PER_S = 1_000_000_000
_MINUTE_NS = 60 * _NS_PER_S
_TCP_TIMEOUT_NS = {
    SYN_SENT: 4 * _MINUTE_NS,
    SYN_RECEIVED: 4 * _MINUTE_NS,
    FIN_FORWARD: 4 * _MINUTE_NS,
    FIN_REVERSE: 4 * _MINUTE_NS,
    FIN_BOTH: 4 * _MINUTE_NS,
    CLOSED: 10 * _NS_PER_S,
}
"""Transitory states: no less than 4 minutes, which is 2 MSL (RFC 6092 REC-35, RFC 9293 3.4.2)."""
_KEYS = (
    "rules",
    "default",
    "max_connections",
    "tcp_established_timeout_s",
    "udp_timeout_s",
    "icmp_timeout_s",
)
_Record: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Firewall:
    """A firewall with its rules and timers."""

    rules: tuple[Rule, ...]
    allow_by_default: bool
    max_connections: int
    tcp_established_ns: int
    udp_ns: int
    icmp_ns: int

    @property
    def name(self) -> FunctionName:
        """The function's name in scenarios."""
        return "fw"

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Firewall:
        """Keys: `rules`, `default`, `max_connections`, `..._timeout_s`.

        A rule has `action` (allow, deny) and optionally `protocol` (any, icmp, tcp, udp),
        `source`, `destination` (networks) and `destination_port` or `destination_ports` (ports
        and [low, high]). Lower bounds of timers: RFC 6092 REC-14 (UDP 2 min), REC-35 (TCP
        2 h 4 min), RFC 5508 REQ-2 (ICMP 60 s). Raises InputError.
        """
        check_keys("fw", config, _KEYS)

        def timer(key: str, default: int, low: int) -> int:
            return integer("fw", config, key, default, low, 7 * 86_400) * _NS_PER_S

        return Firewall(
            rules=read_rules(config.get("rules", ())),
            allow_by_default=choice("fw", config, "default", "allow", ("allow", "deny")) == "allow",
            max_connections=integer("fw", config, "max_connections", 65_536, 1, 1 << 24),
            tcp_established_ns=timer("tcp_established_timeout_s", 7440, 7440),
            udp_ns=timer("udp_timeout_s", 300, 120),
            icmp_ns=timer("icmp_timeout_s", 60, 60),
        )

    def process(
        self, packet: bytes, state: Mapping[Key, Value], reverse: bool, now_ns: int
    ) -> Result:
        """Filter one packet; see the module's text for the rules."""
        parsed = parse(packet)
        if isinstance(parsed, str):
            return drop(parsed)
        if not parsed.first:
            record = cast("tuple[int] | None", state.get(_fragment_key(parsed)))
            live = record is not None and record[0] > now_ns
            return forward(parsed.raw) if live else drop(FRAGMENT)
        if parsed.protocol == ICMP:
            kind = parsed.icmp_type
            if kind in ICMP_ERRORS:
                return _related(parsed, state, reverse, now_ns)
            if kind not in ICMP_QUERIES and kind not in ICMP_REPLIES:
                return drop(UNSUPPORTED)
            if (kind in ICMP_REPLIES) != reverse:
                return drop(NO_CONNECTION if reverse else INVALID_STATE)
        result = self._connection(parsed, state, reverse, now_ns)
        if parsed.fragment and result.packet is not None:
            return forward(parsed.raw, result.delta + _expect_fragments(parsed, state, now_ns))
        return result

    def _connection(
        self, packet: Packet, state: Mapping[Key, Value], reverse: bool, now_ns: int
    ) -> Result:
        key = b"k" + (reverse_of(packet.key) if reverse else packet.key)
        record = cast("_Record | None", state.get(key))
        present = record is not None
        if record is not None and record[1] <= now_ns:
            record = None
        is_tcp = packet.protocol == TCP
        if record is not None:
            if not is_tcp:
                following = ANSWERED if reverse else record[0]
            else:
                following = next_state(record[0], packet.tcp_flags, reverse)
                if following == 0:
                    return drop(INVALID_STATE)
            # A SYN after the end begins anew; rules that let in its like still let it in.
            return forward(packet.raw, self._written(key, record, following, packet, now_ns))
        if reverse:
            return drop(NO_CONNECTION)
        if is_tcp and not is_opening(packet.tcp_flags):
            return drop(INVALID_STATE)
        if not self._allowed(packet):
            return drop(DENIED)
        following = SYN_SENT if is_tcp else ASKED
        written = self._written(key, None, following, packet, now_ns)
        if present:
            return forward(packet.raw, written)
        placed, changes = admit(
            state, b"K", key, self.max_connections, now_ns, _connection_timing, evict=False
        )
        return forward(packet.raw, changes + written) if placed else drop(TABLE_FULL, changes)

    def _allowed(self, packet: Packet) -> bool:
        for rule in self.rules:
            if rule.matches(packet):
                return rule.allow
        return self.allow_by_default

    def _written(
        self, key: Key, record: _Record | None, following: int, packet: Packet, now_ns: int
    ) -> Delta:
        protocol = packet.protocol
        if protocol == TCP:
            timeout_ns = (
                self.tcp_established_ns if following == ESTABLISHED else _TCP_TIMEOUT_NS[following]
            )
        elif protocol == ICMP:
            timeout_ns = self.icmp_ns
        else:
            timeout_ns = self.udp_ns
        expires_ns = now_ns + timeout_ns + REFRESH_NS
        if record is not None and record[0] == following and expires_ns - record[1] < REFRESH_NS:
            return ()
        return ((key, (following, expires_ns)),)


def _related(packet: Packet, state: Mapping[Key, Value], reverse: bool, now_ns: int) -> Result:
    quoted = parse_quoted(packet)
    if quoted is None:
        return drop(MALFORMED)
    # An error goes against the packet that it quotes.
    key = b"k" + (quoted.key if reverse else reverse_of(quoted.key))
    record = cast("_Record | None", state.get(key))
    if record is None or record[1] <= now_ns:
        return drop(NO_CONNECTION)
    return forward(packet.raw)


def _fragment_key(packet: Packet) -> Key:
    return b"g" + packet.key[:9] + packet.raw[4:6]


def _expect_fragments(packet: Packet, state: Mapping[Key, Value], now_ns: int) -> Delta:
    key = _fragment_key(packet)
    record: Delta = ((key, (now_ns + FRAGMENT_NS,)),)
    if key in state:
        return record
    return admit(state, b"G", key, MAX_FRAGMENTED, now_ns, _fragment_timing, evict=True)[1] + record


def _connection_timing(record: Value) -> tuple[int, int]:
    expires_ns = cast(_Record, record)[1]
    return expires_ns, expires_ns


def _fragment_timing(record: Value) -> tuple[int, int]:
    expires_ns = cast("tuple[int]", record)[0]
    return expires_ns, expires_ns
