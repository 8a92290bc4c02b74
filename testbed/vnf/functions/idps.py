"""Intrusion detection and prevention: payload signatures and a port-scan detector.

Signatures: all patterns are searched at once (Aho-Corasick) in what follows the transport header
(or the IP header, for protocols without one and for fragments after the first). A rule drops the
packet ("signature") or only counts it ("alert", noted as the reason of a packet that goes on).
Each packet is looked at alone: a pattern across two TCP segments or two fragments is not found.

Port scans: a source that asks for more than `scan_ports` different destination ports within
`scan_window_s` is blocked for `scan_block_s`; the packet that exceeds is dropped as "port-scan",
what comes from that source afterwards as "blocked". Asking is a TCP SYN (RFC 9293 3.5), or any
UDP packet in the forward direction: an answer goes to a port that its receiver chose, and must
not make a server a scanner. Windows begin with a source's first packet and do not slide. At most
`max_sources` sources are watched; beyond, the one whose window began first (or whose block ends
first) among those looked at makes room.

State keys: "r" + rule number (2 bytes) -> packets that matched it; "s" + source address ->
(window start_ns, blocked until_ns, ports); and the slots, see `table`. All of it belongs to one
instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import ahocorasick

from testbed.scenario.types import FunctionName
from testbed.vnf.functions.base import Result, check_keys, drop, forward, integer
from testbed.vnf.functions.packet import TCP, UDP, Packet, parse
from testbed.vnf.functions.signatures import DEFAULT_SIGNATURES, Signature, read_signatures
from testbed.vnf.functions.table import admit
from testbed.vnf.functions.tcp_states import is_opening
from testbed.vnf.state import Delta, Key, Value

SIGNATURE, ALERT, PORT_SCAN, BLOCKED = "signature", "alert", "port-scan", "blocked"
_NS_PER_S: Final = 1_000_000_000
_KEYS = ("patterns", "scan_ports", "scan_window_s", "scan_block_s", "max_sources")
_Source: TypeAlias = tuple[int, int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Idps:
    """An IDPS; `automaton` is built once from `signatures` and only read afterwards."""

    signatures: tuple[Signature, ...]
    automaton: ahocorasick.Automaton | None
    scan_ports: int
    scan_window_ns: int
    scan_block_ns: int
    max_sources: int

    @property
    def name(self) -> FunctionName:
        """The function's name in scenarios."""
        return "idps"

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Idps:
        """Keys: `patterns`, `scan_ports`, `scan_window_s`, `scan_block_s`, `max_sources`.

        A pattern is text, "hex:..." or {"name", "pattern", "action": "drop" | "alert"}; without
        `patterns` the built-in ones hold, and [] searches for nothing. The default of
        `scan_ports`, 100, is more than the flows of any request. Raises InputError.
        """
        check_keys("idps", config, _KEYS)
        signatures = DEFAULT_SIGNATURES
        if "patterns" in config:
            signatures = read_signatures(config["patterns"])
        return Idps(
            signatures=signatures,
            automaton=_automaton(signatures),
            scan_ports=integer("idps", config, "scan_ports", 100, 1, 10_000),
            scan_window_ns=integer("idps", config, "scan_window_s", 10, 1, 86_400) * _NS_PER_S,
            scan_block_ns=integer("idps", config, "scan_block_s", 60, 1, 86_400) * _NS_PER_S,
            max_sources=integer("idps", config, "max_sources", 65_536, 1, 1 << 24),
        )

    def process(
        self, packet: bytes, state: Mapping[Key, Value], reverse: bool, now_ns: int
    ) -> Result:
        """Inspect one packet; see the module's text for the rules."""
        parsed = parse(packet)
        if isinstance(parsed, str):
            return drop(parsed)
        key = b"s" + parsed.source
        source = cast("_Source | None", state.get(key))
        if source is not None and source[1] > now_ns:
            return drop(BLOCKED)
        delta: Delta = ()
        if _asks(parsed, reverse):
            scans, delta = self._ask(state, key, source, parsed, now_ns)
            if scans:
                return drop(PORT_SCAN, delta)
        matched = self._matched(parsed)
        if not matched:
            return forward(parsed.raw, delta)
        delta += tuple(_counted(state, number) for number in sorted(matched))
        if any(self.signatures[number].drop for number in matched):
            return drop(SIGNATURE, delta)
        return forward(parsed.raw, delta, ALERT)

    def _ask(
        self,
        state: Mapping[Key, Value],
        key: Key,
        source: _Source | None,
        packet: Packet,
        now_ns: int,
    ) -> tuple[bool, Delta]:
        """Whether this packet makes its source a scanner, and what to note about the source."""
        port = int.from_bytes(packet.key[11:13], "big")
        if source is None:
            _, placed = admit(state, b"S", key, self.max_sources, now_ns, _timing, evict=True)
            return False, (*placed, (key, (now_ns, 0, (port,))))
        start_ns, _, ports = source
        if now_ns - start_ns >= self.scan_window_ns:
            return False, ((key, (now_ns, 0, (port,))),)
        if port in ports:
            return False, ()
        if len(ports) >= self.scan_ports:
            return True, ((key, (now_ns, now_ns + self.scan_block_ns, ())),)
        return False, ((key, (start_ns, 0, (*ports, port))),)

    def _matched(self, packet: Packet) -> set[int]:
        if self.automaton is None or len(packet.raw) == packet.payload_at:
            return set()
        # Latin-1 maps bytes to the first 256 characters one to one.
        text = packet.raw.decode("latin-1")
        return {number for _, number in self.automaton.iter(text, packet.payload_at)}


def count_key(number: int) -> Key:
    """The state key of the count of rule `number` (its place in the configuration)."""
    return b"r" + number.to_bytes(2, "big")


def _counted(state: Mapping[Key, Value], number: int) -> tuple[Key, Value]:
    key = count_key(number)
    return key, cast(int, state.get(key, 0)) + 1


def _asks(packet: Packet, reverse: bool) -> bool:
    if not packet.has_ports:
        return False
    if packet.protocol == TCP:
        return is_opening(packet.tcp_flags)
    return packet.protocol == UDP and not reverse


def _automaton(signatures: tuple[Signature, ...]) -> ahocorasick.Automaton | None:
    if not signatures:
        return None
    automaton = ahocorasick.Automaton()
    for number, signature in enumerate(signatures):
        automaton.add_word(signature.pattern.decode("latin-1"), number)
    automaton.make_automaton()
    return automaton


def _timing(record: Value) -> tuple[int, int]:
    start_ns, blocked_until_ns, _ = cast(_Source, record)
    return 1 << 63, max(start_ns, blocked_until_ns)
