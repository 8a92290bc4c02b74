"""Network address and port translation behind one public IPv4 address.

Behaviour follows RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP):

- Mapping is endpoint-independent (RFC 4787 REQ-1, RFC 5382 REQ-1); the pool has one address, so
  pooling is trivially "paired" (REQ-2). Port assignment keeps the port where it is free, never
  overloads one (REQ-3), keeps ports 1-1023 among themselves (REQ-3 a) and keeps parity (REQ-4).
- Filtering is `filtering`: "address-dependent" (the default), "endpoint-independent" or
  "address-and-port-dependent" (RFC 4787 REQ-8, RFC 5382 REQ-3).
- Timers: see `Timeouts`. Outbound packets refresh a UDP or ICMP mapping, inbound ones do not
  (RFC 4787 REQ-6); both refresh a TCP session. Expiry is lazy: what has expired counts as absent
  and is removed when its port is wanted again.
- ICMP queries are translated by identifier (RFC 5508 REQ-1), ICMP errors together with the packet
  that they quote, without touching the mapping (REQ-4, REQ-5, REQ-6).
- The forward direction rewrites the source, the reverse direction the destination.

Departures: all fragments are dropped as "fragment" (RFC 4787 REQ-14 asks for translation; only
packets over the inner MTU are fragmented here), and a packet to the NAT's own public address is
dropped as "hairpin" (RFC 4787 REQ-9: a chain has no way back from its middle). The NAT never
answers an inbound SYN (RFC 5382 REQ-4 holds). Protocols other than these are "unsupported".

State keys: see `nat_table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from testbed.scenario.errors import InputError
from testbed.scenario.types import FunctionName
from testbed.vnf.functions.base import (
    Result,
    check_keys,
    choice,
    drop,
    forward,
    integer,
    ipv4_address,
)
from testbed.vnf.functions.nat_table import Changes, NatTable, Timeouts
from testbed.vnf.functions.packet import (
    FRAGMENT,
    ICMP,
    ICMP_ERRORS,
    ICMP_QUERIES,
    ICMP_REPLIES,
    MALFORMED,
    UDP,
    UNSUPPORTED,
    Packet,
    Quoted,
    checksum,
    l4_checksum_at,
    parse,
    parse_quoted,
    put_adjusted,
)
from testbed.vnf.state import Key, Value

NO_MAPPING, NO_PORT, FILTERED, HAIRPIN = "no-mapping", "no-port", "filtered", "hairpin"
FILTERINGS = ("address-dependent", "endpoint-independent", "address-and-port-dependent")
_KEYS = (
    "public_address",
    "filtering",
    "first_port",
    "last_port",
    "udp_timeout_s",
    "tcp_established_timeout_s",
    "tcp_transitory_timeout_s",
    "icmp_timeout_s",
)
_NS_PER_S = 1_000_000_000
_A_WEEK_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Nat:
    """A NAT with the public address `public` (4 bytes)."""

    public: bytes
    filtering: str
    table: NatTable

    @property
    def name(self) -> FunctionName:
        """The function's name in scenarios."""
        return "nat"

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Nat:
        """Keys: `public_address` (required), `filtering`, `first_port`, `last_port`, `..._s`.

        The lower bounds of the timers are those of the RFCs. Raises InputError.
        """
        check_keys("nat", config, _KEYS)
        first = integer("nat", config, "first_port", 1024, 1024, 65_534)
        last = integer("nat", config, "last_port", 65_535, 1025, 65_535)
        if last <= first:
            raise InputError("nat.last_port", last, f"more than first_port = {first}")

        def seconds(key: str, default: int, low: int) -> int:
            return integer("nat", config, key, default, low, _A_WEEK_S) * _NS_PER_S

        timeouts = Timeouts(
            udp_ns=seconds("udp_timeout_s", 300, 120),
            tcp_established_ns=seconds("tcp_established_timeout_s", 7440, 7440),
            tcp_transitory_ns=seconds("tcp_transitory_timeout_s", 240, 240),
            icmp_ns=seconds("icmp_timeout_s", 60, 60),
        )
        return Nat(
            public=ipv4_address("nat", "public_address", config.get("public_address")),
            filtering=choice("nat", config, "filtering", FILTERINGS[0], FILTERINGS),
            table=NatTable(first, last, timeouts),
        )

    def process(
        self, packet: bytes, state: Mapping[Key, Value], reverse: bool, now_ns: int
    ) -> Result:
        """Translate one packet; see the module's text for the rules."""
        parsed = parse(packet)
        if isinstance(parsed, str):
            return drop(parsed)
        if parsed.fragment:
            return drop(FRAGMENT)
        if parsed.protocol == ICMP:
            kind = parsed.icmp_type
            if kind in ICMP_ERRORS:
                return self._error(parsed, state, reverse, now_ns)
            if kind not in (ICMP_REPLIES if reverse else ICMP_QUERIES):
                known = kind in ICMP_REPLIES or kind in ICMP_QUERIES
                return drop(NO_MAPPING if known else UNSUPPORTED)
        elif not parsed.has_ports:
            return drop(UNSUPPORTED)
        if reverse:
            return self._inbound(parsed, state, now_ns)
        return self._outbound(parsed, state, now_ns)

    def _outbound(self, packet: Packet, state: Mapping[Key, Value], now_ns: int) -> Result:
        if packet.destination == self.public:
            return drop(HAIRPIN)
        changes: Changes = []
        key = packet.key
        protocol, internal = key[:1], key[1:5] + key[9:11]
        found = self.table.by_internal(state, protocol, internal, now_ns)
        if found is None:
            found = self.table.allocate(state, changes, protocol, internal, now_ns)
            if found is None:
                return drop(NO_PORT, tuple(changes))
        remote = key[5:9] + (key[11:13] if packet.has_ports else b"\0\0")
        self.table.touch(state, changes, found, remote, packet.tcp_flags, False, now_ns)
        return forward(
            _rewritten(packet, internal, self.public + found.port, 12, 0), tuple(changes)
        )

    def _inbound(self, packet: Packet, state: Mapping[Key, Value], now_ns: int) -> Result:
        if packet.destination != self.public:
            return drop(NO_MAPPING)
        key = packet.key
        found = self.table.by_port(state, key[:1], key[11:13], now_ns)
        if found is None:
            return drop(NO_MAPPING)
        remote = key[1:5] + (key[9:11] if packet.has_ports else b"\0\0")
        if self.filtering != "endpoint-independent" and not self.table.admits(
            state, found, remote, self.filtering == "address-dependent", now_ns
        ):
            return drop(FILTERED)
        changes: Changes = []
        if packet.protocol not in (UDP, ICMP):
            self.table.touch(state, changes, found, remote, packet.tcp_flags, True, now_ns)
        old = self.public + key[11:13]
        return forward(_rewritten(packet, old, found.internal, 16, 2), tuple(changes))

    def _error(
        self, packet: Packet, state: Mapping[Key, Value], reverse: bool, now_ns: int
    ) -> Result:
        quoted = parse_quoted(packet)
        if quoted is None:
            return drop(MALFORMED)
        if reverse:
            # Quotes a packet that this NAT sent out (RFC 5508 REQ-4).
            if packet.destination != self.public or quoted.source != self.public:
                return drop(NO_MAPPING)
            found = self.table.by_port(state, quoted.key[:1], quoted.key[9:11], now_ns)
            if found is None:
                return drop(NO_MAPPING)
            return forward(_rewritten_error(packet, quoted, found.internal, "source"))
        # Quotes a packet that this NAT let in (RFC 5508 REQ-5).
        internal = quoted.destination + quoted.key[11:13]
        found = self.table.by_internal(state, quoted.key[:1], internal, now_ns)
        if found is None:
            return drop(NO_MAPPING)
        new = self.public + found.port
        return forward(_rewritten_error(packet, quoted, new, "destination"))


def _rewritten(packet: Packet, old: bytes, new: bytes, address_at: int, port_at: int) -> bytes:
    """The packet with endpoint `old` (address and port) changed to `new`, checksums adjusted."""
    buffer = bytearray(packet.raw)
    buffer[address_at : address_at + 4] = new[:4]
    put_adjusted(buffer, 10, old[:4], new[:4])
    l4_at, protocol = packet.l4_at, packet.protocol
    if protocol == ICMP:  # no pseudo-header; the identifier is the port
        buffer[l4_at + 4 : l4_at + 6] = new[4:]
        put_adjusted(buffer, l4_at + 2, old[4:], new[4:])
    else:
        buffer[l4_at + port_at : l4_at + port_at + 2] = new[4:]
        put_adjusted(buffer, l4_at + l4_checksum_at(protocol), old, new, protocol == UDP)
    return bytes(buffer)


def _rewritten_error(
    packet: Packet, quoted: Quoted, new: bytes, which: Literal["source", "destination"]
) -> bytes:
    """The ICMP error with endpoint `which` of its quoted packet, and its own other one, `new`."""
    buffer = bytearray(packet.raw)
    inner_source = which == "source"
    outer_at = 16 if inner_source else 12
    put_adjusted(buffer, 10, bytes(buffer[outer_at : outer_at + 4]), new[:4])
    buffer[outer_at : outer_at + 4] = new[:4]

    at, l4_at, protocol = quoted.at, quoted.l4_at, quoted.protocol
    address_at = at + (12 if inner_source else 16)
    port_at = l4_at + (4 if protocol == ICMP else 0 if inner_source else 2)
    old = bytes(buffer[address_at : address_at + 4] + buffer[port_at : port_at + 2])
    put_adjusted(buffer, at + 10, old[:4], new[:4])
    buffer[address_at : address_at + 4] = new[:4]
    buffer[port_at : port_at + 2] = new[4:]
    checksum_at = l4_checksum_at(protocol)
    if quoted.l4_bytes >= checksum_at + 2:  # TCP's may be cut off
        skip = 4 if protocol == ICMP else 0
        put_adjusted(buffer, l4_at + checksum_at, old[skip:], new[skip:], protocol == UDP)

    icmp_at = packet.l4_at
    buffer[icmp_at + 2 : icmp_at + 4] = b"\0\0"
    buffer[icmp_at + 2 : icmp_at + 4] = checksum(bytes(buffer[icmp_at:])).to_bytes(2, "big")
    return bytes(buffer)
