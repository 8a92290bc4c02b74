"""What the tests of network functions share: a function with its state, and packets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.packet import Packet as ScapyPacket

from testbed.scenario.types import FunctionName
from testbed.vnf.functions.base import Result, Verdict
from testbed.vnf.functions.registry import make_function
from testbed.vnf.state import State, apply_delta, decode_delta, digest, encode_delta

S = 1_000_000_000
INSIDE, OTHER_INSIDE = "10.77.0.1", "10.77.0.9"
SERVER, OTHER_SERVER = "10.77.0.2", "10.77.0.3"
PUBLIC = "100.64.0.1"


class Runner:
    """Runs a function packet after packet, and a replica on what travels."""

    def __init__(self, name: FunctionName, config: Mapping[str, Any] | None = None) -> None:
        self.function = make_function(name, config or {})
        self.state: State = {}
        self.replica: State = {}

    def send(self, packet: ScapyPacket | bytes, reverse: bool = False, at_s: float = 0) -> Result:
        """The result for `packet` at `at_s`; checks purity and that the delta travels."""
        raw, now_ns = bytes(packet), 1_000 * S + round(at_s * S)
        view = MappingProxyType(self.state)
        before = digest(self.state)
        result = self.function.process(raw, view, reverse, now_ns)
        assert digest(self.state) == before
        assert self.function.process(raw, view, reverse, now_ns) == result
        assert (result.packet is None) == (result.verdict is Verdict.DROP)
        assert result.reason or result.verdict is Verdict.FORWARD
        apply_delta(self.state, result.delta)
        apply_delta(self.replica, decode_delta(encode_delta(result.delta)))
        assert self.replica == self.state
        assert digest(self.replica) == digest(self.state)
        return result

    def passes(
        self, packet: ScapyPacket | bytes, reverse: bool = False, at_s: float = 0
    ) -> ScapyPacket:
        """The packet that goes on, which must have right checksums."""
        result = self.send(packet, reverse, at_s)
        assert result.packet is not None, result.reason
        assert result.packet == rebuilt(result.packet)
        return IP(result.packet)

    def dropped(self, packet: ScapyPacket | bytes, reverse: bool = False, at_s: float = 0) -> str:
        """The reason of a drop."""
        result = self.send(packet, reverse, at_s)
        assert result.verdict is Verdict.DROP
        return result.reason


def rebuilt(raw: bytes) -> bytes:
    """The packet with every checksum computed anew by scapy.

    A UDP checksum of 0 stays, and so does what covers more than the packet has (fragments,
    and quoted packets that are cut short).
    """
    packet = IP(raw)
    layer: ScapyPacket = packet
    while layer:
        if isinstance(layer, IP) and (layer.flags.MF or layer.frag or layer.len > len(layer)):
            del layer.chksum
            break
        if isinstance(layer, IP | TCP | ICMP) or (isinstance(layer, UDP) and layer.chksum):
            del layer.chksum
        layer = layer.payload
    return bytes(packet)


def udp(
    source: str = INSIDE,
    sport: int = 5000,
    destination: str = SERVER,
    dport: int = 53,
    payload: bytes = b"payload",
) -> ScapyPacket:
    """A UDP packet."""
    return IP(src=source, dst=destination) / UDP(sport=sport, dport=dport) / payload


def tcp(
    flags: str,
    source: str = INSIDE,
    sport: int = 5000,
    destination: str = SERVER,
    dport: int = 80,
    payload: bytes = b"",
) -> ScapyPacket:
    """A TCP segment with scapy's flag letters."""
    return IP(src=source, dst=destination) / TCP(sport=sport, dport=dport, flags=flags) / payload


def echo(kind: str, source: str, destination: str, identifier: int = 7) -> ScapyPacket:
    """An ICMP echo-request or echo-reply."""
    return IP(src=source, dst=destination) / ICMP(type=kind, id=identifier, seq=1) / b"ping"


def fragments(packet: ScapyPacket) -> list[ScapyPacket]:
    """The fragments of an IP packet, 24 bytes of payload each."""
    pieces = fragment(packet, fragsize=24)
    return list(pieces)


def icmp_error(
    source: str, destination: str, quoted: ScapyPacket | bytes, kind: int = 3, code: int = 3
) -> ScapyPacket:
    """An ICMP error that quotes a packet."""
    return IP(src=source, dst=destination) / ICMP(type=kind, code=code) / bytes(quoted)
