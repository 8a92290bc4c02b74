"""Flow keys of IPv4 and IPv6 packets, against packets that scapy builds."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_RS,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet

from testbed.vnf.edge.flow_keys import (
    MAX_EXTENSIONS,
    destination_of,
    error_key,
    flow_key,
    is_icmp_error,
    reversed_key,
    take_apart,
    transport_key,
)

A4, B4, A6, B6 = "10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2"
IP4, IP6 = IP(src=A4, dst=B4), IPv6(src=A6, dst=B6)
BACK4, BACK6 = IP(src=B4, dst=A4), IPv6(src=B6, dst=A6)
UDPS, TCPS = UDP(sport=4000, dport=5000), TCP(sport=4000, dport=5000)


def key(protocol: int, source: str, destination: str, ports: tuple[int, int]) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    ends = b"".join(socket.inet_pton(family, end) for end in (source, destination))
    return bytes([protocol]) + ends + struct.pack("!HH", *ports)


WALKED = [
    IPv6ExtHdrHopByHop(),
    IPv6ExtHdrDestOpt(),
    IPv6ExtHdrRouting(addresses=[B6]),
    IPv6ExtHdrFragment(id=9),  # an atomic fragment (RFC 6946) is whole
    IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / IPv6ExtHdrFragment(),
]


@pytest.mark.parametrize("extensions", [None, *WALKED])
@pytest.mark.parametrize(("transport", "protocol"), [(UDPS, 17), (TCPS, 6)])
def test_ipv6_ports_are_found_behind_extension_headers(
    extensions: Packet | None, transport: Packet, protocol: int
) -> None:
    packet = IP6 / transport if extensions is None else IP6 / extensions / transport
    assert flow_key(bytes(packet)) == key(protocol, A6, B6, (4000, 5000))


def test_the_walk_has_a_bound() -> None:
    most, beyond = IP6, IP6
    for _ in range(MAX_EXTENSIONS):
        most, beyond = most / IPv6ExtHdrDestOpt(), beyond / IPv6ExtHdrDestOpt()
    assert flow_key(bytes(most / UDPS)) == key(17, A6, B6, (4000, 5000))
    assert take_apart(bytes(beyond / IPv6ExtHdrDestOpt() / UDPS)) is None
    assert take_apart(bytes(IP6 / IPv6ExtHdrFragment() / IPv6ExtHdrFragment() / UDPS)) is None


def test_an_extension_header_that_is_longer_than_the_packet() -> None:
    packet = bytearray(bytes(IP6 / IPv6ExtHdrDestOpt() / UDPS))
    packet[41] = 255
    assert flow_key(bytes(packet)) is None


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (IP4 / UDPS, key(17, A4, B4, (4000, 5000))),
        (IP4 / TCPS, key(6, A4, B4, (4000, 5000))),
        (IP(src=A4, dst=B4, flags="DF") / UDPS, key(17, A4, B4, (4000, 5000))),
        (IP(src=A4, dst=B4, options=IPOption_RR()) / UDPS, key(17, A4, B4, (4000, 5000))),
        (IP4 / ICMP(type=8, id=77), key(1, A4, B4, (77, 77))),
        (IP6 / ICMPv6EchoRequest(id=77), key(58, A6, B6, (77, 77))),
    ],
)
def test_keys(packet: Packet, expected: bytes) -> None:
    assert flow_key(bytes(packet)) == expected


@pytest.mark.parametrize(
    ("query", "reply"),
    [
        (IP4 / ICMP(type=8, id=7), BACK4 / ICMP(type=0, id=7)),
        (IP4 / ICMP(type=13, id=7), BACK4 / ICMP(type=14, id=7)),
        (IP6 / ICMPv6EchoRequest(id=7), BACK6 / ICMPv6EchoReply(id=7)),
        (IP4 / UDPS, BACK4 / UDP(sport=5000, dport=4000)),
        (IP6 / UDPS, BACK6 / UDP(sport=5000, dport=4000)),
    ],
)
def test_answers_have_the_reversed_key(query: Packet, reply: Packet) -> None:
    there, back = flow_key(bytes(query)), flow_key(bytes(reply))
    assert there is not None and back is not None and there != back
    assert reversed_key(there) == back
    family, end = (socket.AF_INET, B4) if len(there) == 13 else (socket.AF_INET6, B6)
    assert destination_of(there) == socket.inet_pton(family, end)


@pytest.mark.parametrize(
    ("packet", "refusal"),
    [
        (IP(src=A4, dst=B4, proto=47) / bytes(20), "unclassified"),
        (IP(src=A4, dst=B4, proto=58) / bytes([128, *range(19)]), "unclassified"),
        (IPv6(src=A6, dst=B6, nh=1) / bytes([8, *range(19)]), "unclassified"),
        (IPv6(src=A6, dst=B6, nh=59), "unclassified"),
        (IP6 / ICMPv6ND_RS(), "unclassified"),
        (IP4 / ICMP(type=3) / bytes(28), "unclassified"),
        (IPv6(src=A6, dst=B6, nh=17) / bytes(7), "malformed"),
        (IPv6(src=A6, dst=B6, nh=58) / b"", "malformed"),
        (IP(src=A4, dst=B4, proto=6) / bytes(7), "malformed"),
    ],
)
def test_what_has_no_ports_says_why(packet: Packet, refusal: str) -> None:
    raw = bytes(packet)
    datagram = take_apart(raw)
    assert datagram is not None
    assert transport_key(raw, datagram) == refusal
    assert flow_key(raw) is None


FORWARD4, FORWARD6 = key(17, A4, B4, (4000, 5000)), key(17, A6, B6, (4000, 5000))
SHORT4, SHORT6 = bytes(IP4 / UDPS / bytes(99))[:28], bytes(IP6 / UDPS / bytes(99))[:48]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((BACK4 / ICMP(type=kind) / SHORT4, FORWARD4) for kind in (3, 4, 5, 11, 12)),
        (BACK4 / ICMP(type=3) / bytes(IP4 / ICMP(type=8, id=7)), key(1, A4, B4, (7, 7))),
        (BACK6 / ICMPv6DestUnreach() / SHORT6, FORWARD6),
        (BACK6 / ICMPv6PacketTooBig() / SHORT6, FORWARD6),
        (BACK6 / ICMPv6TimeExceeded() / SHORT6, FORWARD6),
        (BACK6 / ICMPv6ParamProblem() / SHORT6, FORWARD6),
        (BACK6 / ICMPv6DestUnreach() / bytes(IP6 / IPv6ExtHdrDestOpt() / UDPS), FORWARD6),
        (BACK6 / ICMPv6DestUnreach() / bytes(IP6 / IPv6ExtHdrFragment(m=1) / UDPS), FORWARD6),
        (BACK6 / ICMPv6PacketTooBig() / bytes(IP6 / ICMPv6EchoRequest(id=7)),
         key(58, A6, B6, (7, 7))),
        # From a router on the way: who complains does not matter, only to whom.
        (IP(src="10.9.9.9", dst=A4) / ICMP(type=11) / SHORT4, FORWARD4),
    ],
)  # fmt: skip
def test_an_error_travels_against_the_packet_that_it_quotes(error: Packet, expected: bytes) -> None:
    raw = bytes(error)
    datagram = take_apart(raw)
    assert datagram is not None and is_icmp_error(raw, datagram)
    assert error_key(raw, datagram) == reversed_key(expected)


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (BACK4 / ICMP(type=3) / SHORT4[:27], "malformed"),
        (BACK4 / ICMP(type=3) / b"", "malformed"),
        (BACK6 / ICMPv6DestUnreach() / SHORT6[:47], "malformed"),
        # To another host than the one that sent what is quoted.
        (IP(src=B4, dst="10.77.0.9") / ICMP(type=3) / SHORT4, "unclassified"),
        (
            BACK4 / ICMP(type=3) / bytes(IP(src=A4, dst=B4, frag=1, proto=17) / bytes(28)),
            "unclassified",
        ),
        (BACK4 / ICMP(type=3) / bytes(IP4 / ICMP(type=3) / SHORT4), "unclassified"),
        (BACK4 / ICMP(type=3) / SHORT6, "unclassified"),
        (BACK6 / ICMPv6DestUnreach() / SHORT4, "unclassified"),
    ],
)
def test_an_error_that_names_no_flow(error: Packet, refusal: str) -> None:
    raw = bytes(error)
    datagram = take_apart(raw)
    assert datagram is not None and is_icmp_error(raw, datagram)
    assert error_key(raw, datagram) == refusal


def test_echoes_and_later_fragments_are_no_errors() -> None:
    for packet in (
        IP4 / ICMP(type=8),
        IP6 / ICMPv6EchoRequest(),
        IP(src=A4, dst=B4, proto=1, frag=2) / bytes([3] * 40),
        IP4 / UDP(sport=0x0300),
    ):
        datagram = take_apart(bytes(packet))
        assert datagram is not None and not is_icmp_error(bytes(packet), datagram)


@given(st.binary(max_size=80), st.sampled_from([b"", b"\x45", b"\x4f", b"\x60"]))
def test_random_bytes_never_raise(data: bytes, first: bytes) -> None:
    found = flow_key(first + data)
    assert found is None or len(found) in (13, 37)
    if found is not None:
        assert reversed_key(reversed_key(found)) == found
    datagram = take_apart(first + data)
    if datagram is not None:
        error_key(first + data, datagram)
