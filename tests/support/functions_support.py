"""What the tests of compiled network functions share: a function with its state, and packets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.packet import Packet as ScapyPacket

from testbed.scenario.types import FunctionName
from testbed.vnf.functions.effect import (
    FILL,
    FORWARD,
    HEADER_WORDS,
    LENGTH,
    OVERFLOW,
    REASON,
    new_effect,
)
from testbed.vnf.functions.function import MAX_PACKET_BYTES, Call, Function
from testbed.vnf.functions.packet import OK, View, parse
from testbed.vnf.functions.registry import make_function
from testbed.vnf.state.arrays import Bytes
from testbed.vnf.state.records import COUNT, REFUSED, Records, apply, contents, sound

S = 1_000_000_000
INSIDE, OTHER_INSIDE = "10.77.0.1", "10.77.0.9"
SERVER, OTHER_SERVER = "10.77.0.2", "10.77.0.3"
INSIDE6, OTHER_INSIDE6 = "fd00:77::1", "fd00:77::9"
SERVER6, OTHER_SERVER6 = "fd00:77::2", "fd00:77::3"
ROUTER, ROUTER6 = "10.1.1.1", "fd00:1::1"
PUBLIC = "100.64.0.1"


@dataclass(frozen=True)
class Result:
    """What became of a packet; `packet` is None if it was dropped."""

    packet: bytes | None
    reason: str
    operations: tuple[int, ...]


class Runner:
    """Runs a function packet after packet, and a replica on the operations alone."""

    def __init__(
        self, function: FunctionName | Function, config: Mapping[str, Any] | None = None
    ) -> None:
        made = function if isinstance(function, Function) else make_function(function, config or {})
        self.function = made
        self.records = made.new_state()
        self.replica = made.new_state()

    @property
    def state(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        return contents(self.records)

    def tagged(self, tag: int) -> dict[tuple[int, ...], tuple[int, ...]]:
        """The records whose keys have this tag."""
        return {key: value for key, value in self.state.items() if key[0] >> 56 == tag}

    def send(
        self,
        packet: ScapyPacket | bytes,
        reverse: bool = False,
        at_s: float = 0,
        padding: bytes = b"",
        bucket: int = 0,
    ) -> Result:
        """The result for `packet` at `at_s`; checks purity and that the operations travel."""
        raw, now_ns = bytes(packet), 1_000 * S + round(at_s * S)
        before, config = _snapshot(self.records), self.function.config.copy()
        result = self._process(raw + padding, reverse, now_ns, garbage=0xA5)
        # What lies behind the packet in its buffer does not count.
        assert self._process(raw + padding, reverse, now_ns, garbage=0x5A) == result
        assert _snapshot(self.records) == before and np.array_equal(self.function.config, config)
        operations = np.array(result.operations, np.int64)
        assert sound(operations, 0, len(operations), self.function.value_words)
        for records in (self.records, self.replica):
            apply(records, operations, 0, len(operations), bucket)
        assert _snapshot(self.records) == _snapshot(self.replica)
        assert np.array_equal(self.records.slots, self.replica.slots)
        assert self.records.head[REFUSED] == 0
        return result

    def _process(self, raw: bytes, reverse: bool, now_ns: int, garbage: int) -> Result:
        buffer, effect = buffer_of(raw, garbage), new_effect()
        config = self.function.config
        verdict = self.function.process(
            Call(buffer, len(raw), int(reverse), now_ns, self.records, effect, config)
        )
        assert effect[OVERFLOW] == 0
        operations = tuple(effect[HEADER_WORDS : HEADER_WORDS + int(effect[FILL])].tolist())
        reason = self.function.reasons[int(effect[REASON])]
        if verdict == FORWARD:
            assert 0 < effect[LENGTH] <= MAX_PACKET_BYTES
            return Result(buffer[: int(effect[LENGTH])].tobytes(), reason, operations)
        assert effect[LENGTH] == 0 and reason
        return Result(None, reason, operations)

    def passes(
        self, packet: ScapyPacket | bytes, reverse: bool = False, at_s: float = 0
    ) -> ScapyPacket:
        """The packet that goes on, which must have right checksums."""
        result = self.send(packet, reverse, at_s)
        assert result.packet is not None, result.reason
        assert result.packet == rebuilt(result.packet)
        return decoded(result.packet)

    def dropped(self, packet: ScapyPacket | bytes, reverse: bool = False, at_s: float = 0) -> str:
        """The reason of a drop."""
        result = self.send(packet, reverse, at_s)
        assert result.packet is None
        return result.reason


def _snapshot(records: Records) -> tuple[bytes, ...]:
    """The rows of a state, in their order."""
    count = int(records.head[COUNT])
    rows = (records.keys[:count], records.values[:count], records.buckets[:count])
    return (records.head.tobytes(), *(part.tobytes() for part in rows))


def buffer_of(raw: bytes, garbage: int = 0xA5) -> Bytes:
    """A packet in a buffer as the functions get it, with garbage behind it."""
    buffer = np.full(max(MAX_PACKET_BYTES, len(raw)), garbage, np.uint8)
    buffer[: len(raw)] = np.frombuffer(raw, np.uint8)
    return buffer


def decoded(raw: bytes) -> ScapyPacket:
    """The packet as scapy understands it."""
    return IPv6(raw) if raw[0] >> 4 == 6 else IP(raw)


def rebuilt(raw: bytes) -> bytes:
    """The packet with every checksum computed anew by scapy.

    An IPv4 UDP checksum of 0 stays, and so does what covers more than the packet has (fragments,
    and quoted packets that are cut short).
    """
    packet = decoded(raw)
    layer: ScapyPacket = packet
    while layer:
        if isinstance(layer, IP) and (layer.flags.MF or layer.frag or layer.len > len(layer)):
            del layer.chksum
            break
        if isinstance(layer, IPv6) and layer.plen + 40 > len(layer):
            break
        if isinstance(layer, IPv6ExtHdrFragment) and (layer.offset or layer.m):
            break
        if hasattr(layer, "cksum"):
            del layer.cksum
        if isinstance(layer, IP | TCP | ICMP) or (isinstance(layer, UDP) and layer.chksum):
            del layer.chksum
        layer = layer.payload
    return bytes(packet)


def ip(source: str, destination: str, **fields: Any) -> ScapyPacket:
    """An IP header of the addresses' version."""
    return (IPv6 if ":" in source else IP)(src=source, dst=destination, **fields)


def udp(
    source: str = INSIDE,
    sport: int = 5000,
    destination: str = SERVER,
    dport: int = 53,
    payload: bytes = b"payload",
) -> ScapyPacket:
    """A UDP packet."""
    return ip(source, destination) / UDP(sport=sport, dport=dport) / payload


def udp6(
    source: str = INSIDE6,
    sport: int = 5000,
    destination: str = SERVER6,
    dport: int = 53,
    payload: bytes = b"payload",
) -> ScapyPacket:
    """A UDP packet over IPv6."""
    return udp(source, sport, destination, dport, payload)


def tcp(
    flags: str,
    source: str = INSIDE,
    sport: int = 5000,
    destination: str = SERVER,
    dport: int = 80,
    payload: bytes = b"",
) -> ScapyPacket:
    """A TCP segment with scapy's flag letters."""
    return ip(source, destination) / TCP(sport=sport, dport=dport, flags=flags) / payload


def tcp6(
    flags: str,
    source: str = INSIDE6,
    sport: int = 5000,
    destination: str = SERVER6,
    dport: int = 80,
    payload: bytes = b"",
) -> ScapyPacket:
    """A TCP segment over IPv6."""
    return tcp(flags, source, sport, destination, dport, payload)


def echo(kind: str, source: str, destination: str, identifier: int = 7) -> ScapyPacket:
    """An ICMP echo-request or echo-reply."""
    if ":" in source:
        layer = ICMPv6EchoRequest if kind == "echo-request" else ICMPv6EchoReply
        return ip(source, destination) / layer(id=identifier, seq=1, data=b"ping")
    return ip(source, destination) / ICMP(type=kind, id=identifier, seq=1) / b"ping"


def fragments(packet: ScapyPacket, identification: int = 1) -> list[ScapyPacket]:
    """The fragments of an IP packet, 24 bytes of payload each."""
    if IPv6 in packet:
        # scapy counts the bytes of the whole fragment: 40 + 8 + 24.
        packet.payload = IPv6ExtHdrFragment(id=identification) / packet.payload
        packet = decoded(bytes(packet))
        return [decoded(bytes(piece)) for piece in fragment6(packet, 72)]
    return list(fragment(packet, fragsize=24))


def icmp_error(
    source: str, destination: str, quoted: ScapyPacket | bytes, kind: int = 3, code: int = 3
) -> ScapyPacket:
    """An ICMP error that quotes a packet; `kind` is 3 for "unreachable" of IPv6 too."""
    if ":" in source:
        layer = {2: ICMPv6PacketTooBig, 3: ICMPv6DestUnreach, 4: ICMPv6ParamProblem,
                 11: ICMPv6TimeExceeded}[kind]  # fmt: skip
        return ip(source, destination) / layer(code=0) / bytes(quoted)
    return ip(source, destination) / ICMP(type=kind, code=code) / bytes(quoted)


def view_of(packet: ScapyPacket | bytes) -> View:
    """The packet taken apart; it must be well formed."""
    raw = bytes(packet)
    view: View = parse(buffer_of(raw), len(raw))
    assert view.status == OK
    return view


def piece6(offset: int, more: int, payload: bytes, protocol: int = 17) -> bytes:
    """An IPv6 fragment."""
    return bytes(IPv6() / IPv6ExtHdrFragment(nh=protocol, offset=offset, m=more) / payload)


def forced6(packet: ScapyPacket, at: int, *values: int) -> bytes:
    """An IPv6 packet with bytes changed, whatever its checksum then says."""
    raw = bytearray(bytes(packet))
    raw[at : at + len(values)] = values
    return bytes(raw)
