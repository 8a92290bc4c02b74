"""Parsing of packets, against scapy."""

from __future__ import annotations

import ipaddress
import random
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Packet as ScapyPacket

from testbed.vnf.functions import packet as packets
from testbed.vnf.functions.checksums import checksum, difference16, put_adjusted, put_be16
from testbed.vnf.functions.packet import (
    ERROR,
    MALFORMED,
    OK,
    QUERY,
    REPLY,
    UNSUPPORTED,
    View,
    flow_key,
    fragment_key,
    l4_checksum_at,
    parse,
    pseudo_sum,
    reverse_key,
    set_tos,
)
from testbed.vnf.functions.quoted import parse_quoted
from tests.support.functions_support import (
    INSIDE,
    INSIDE6,
    SERVER,
    SERVER6,
    buffer_of,
    decoded,
    echo,
    forced6,
    fragments,
    piece6,
    rebuilt,
    tcp,
    tcp6,
    udp,
    udp6,
    view_of,
)


def status(packet: ScapyPacket | bytes) -> int:
    """What `parse` says about a packet."""
    raw = bytes(packet)
    return parse(buffer_of(raw), len(raw)).status


def addresses(view: View) -> tuple[str, str]:
    """Source and destination in text."""
    words = (view.source_high, view.source_low), (view.destination_high, view.destination_low)
    make = ipaddress.IPv4Address if view.version == 4 else ipaddress.IPv6Address
    first, second = (make((high % 2**64) << 64 | low % 2**64) for high, low in words)
    return str(first), str(second)


def random_packet(rng: random.Random) -> ScapyPacket:
    """A well formed UDP, TCP or ICMP packet with random fields, of either version."""
    ports: dict[str, Any] = {"sport": rng.randrange(65_536), "dport": rng.randrange(65_536)}
    if rng.random() < 0.5:
        header = IP(
            src=socket.inet_ntop(socket.AF_INET, rng.randbytes(4)),
            dst=socket.inet_ntop(socket.AF_INET, rng.randbytes(4)),
            tos=rng.randrange(256),
            id=rng.randrange(65_536),
            ttl=rng.randrange(256),
            options=b"\x01" * (4 * rng.randrange(3)),
        )
        echo_request = ICMP(type=8, id=ports["sport"])
    else:
        header = IPv6(
            src=socket.inet_ntop(socket.AF_INET6, rng.randbytes(16)),
            dst=socket.inet_ntop(socket.AF_INET6, rng.randbytes(16)),
            tc=rng.randrange(256),
            fl=rng.randrange(1 << 20),
            hlim=rng.randrange(256),
        )
        if rng.random() < 0.4:
            header /= IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * rng.randrange(30))])
        if rng.random() < 0.4:
            header /= IPv6ExtHdrRouting(addresses=["fd00::5"] * rng.randrange(3), segleft=0)
        if rng.random() < 0.4:
            header /= IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * rng.randrange(9))])
        echo_request = ICMPv6EchoRequest(id=ports["sport"])
    layer = rng.choice(
        [
            UDP(**ports),
            TCP(**ports, flags=rng.randrange(256), seq=rng.randrange(1 << 32)),
            echo_request,
        ]
    )
    return header / layer / rng.randbytes(rng.randrange(40))


def test_fields_are_those_that_scapy_finds() -> None:
    rng = random.Random(791)
    seen = set()
    for _ in range(2000):
        raw = bytes(random_packet(rng))
        view, packet = view_of(raw + b"\0" * rng.randrange(9)), decoded(raw)
        seen.add((view.version, view.protocol, view.l4_at))
        is_ip6 = IPv6 in packet
        assert view.at == 0 and view.length == len(raw) and view.version == packet.version
        assert view.tos == (packet.tc if is_ip6 else packet.tos)
        assert addresses(view) == (packet.src, packet.dst)
        assert view.first == 1 and view.fragment == 0
        last = next(layer for layer in (TCP, UDP, ICMP, ICMPv6EchoRequest) if layer in packet)
        transport = bytes(packet[last])
        assert raw[view.l4_at :] == transport
        assert raw[view.payload_at :] == bytes(packet[last].payload) or last is ICMPv6EchoRequest
        assert view.has_ports == (last in (TCP, UDP))
        if view.has_ports:
            ports = packet[last].sport, packet[last].dport
            assert (view.source_port, view.destination_port) == ports
            assert view.icmp_type == -1 and view.icmp_kind == 0
        else:
            assert view.source_port == view.destination_port == packet[last].id
            assert view.icmp_type == packet[last].type and view.icmp_kind == QUERY
        assert view.tcp_flags == (int(packet[TCP].flags) if last is TCP else 0)
        pseudo = pseudo_sum(view, len(transport)) if last is not ICMP else 0
        assert checksum(buffer_of(raw), view.l4_at, view.length, pseudo) == 0
    assert len({(version, protocol) for version, protocol, _ in seen}) == 6
    assert len(seen) > 30, "headers of many lengths"


def test_rewrites_have_the_checksums_that_scapy_computes_anew() -> None:
    rng = random.Random(1624)
    for _ in range(1500):
        raw = bytes(random_packet(rng))
        buffer, view = buffer_of(raw), view_of(raw)
        at = l4_checksum_at(view)
        set_tos(buffer, view, rng.randrange(256))
        # The port, or type and code: both are covered by the checksum.
        old = int.from_bytes(raw[view.l4_at : view.l4_at + 2], "big")
        new = rng.choice([0, 0xFFFF, rng.randrange(65_536)]) if view.has_ports else old ^ 1
        put_be16(buffer, view.l4_at, new)
        put_adjusted(buffer, at, difference16(old, new), view.protocol == packets.UDP)
        changed = buffer[: len(raw)].tobytes()
        assert changed == rebuilt(changed)


@pytest.mark.parametrize("tag", [1, 0x7F])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (udp("200.0.0.1", 1, "10.0.0.2", 2), udp("10.0.0.2", 2, "200.0.0.1", 1)),
        (udp6("fd00::1", 1, "8000::2", 2), udp6("8000::2", 2, "fd00::1", 1)),
        (echo("echo-request", INSIDE, SERVER), echo("echo-reply", SERVER, INSIDE)),
        (echo("echo-request", INSIDE6, SERVER6), echo("echo-reply", SERVER6, INSIDE6)),
    ],
)
def test_keys_mirror(one: ScapyPacket, other: ScapyPacket, tag: int) -> None:
    there, back = view_of(one), view_of(other)
    key = flow_key(there, tag)
    assert reverse_key(back, tag) == key and flow_key(back, tag) == reverse_key(there, tag)
    assert flow_key(back, tag) != key
    assert key[0] >> 56 == tag and key[0] > 0
    assert IPv6 in one or key[2:] == (0, 0, 0)


def test_different_flows_have_different_keys() -> None:
    flows = [
        udp(), udp(sport=5001), udp(dport=54), udp("10.77.0.9"), udp(destination="10.77.0.9"),
        tcp("S", dport=53), IP(src=INSIDE, dst=SERVER, proto=47),
        udp6(), udp6(sport=5001), udp6(dport=54), udp6("fd00:77::9"), udp6("fd00:78::1"),
        udp6(destination="fd00:77::9"), udp6(destination="fd00:78::2"), tcp6("S", dport=53),
        udp6("::10.77.0.1", destination="::10.77.0.2"),
    ]  # fmt: skip
    assert len({flow_key(view_of(flow), 1) for flow in flows}) == len(flows)
    assert len({flow_key(view_of(udp()), tag) for tag in (1, 2)}) == 2


def header(**fields: Any) -> bytes:
    """A UDP packet with fields of the IP header forced."""
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2", **fields) / UDP() / b"1234")


MALFORMED_PACKETS = [
    b"",
    b"\x45",
    b"\x60",
    header()[:19],
    header(version=5),
    header(version=0),
    header(version=6),
    header(ihl=4),
    header(ihl=15),
    header(len=19),
    header(len=33),
    header(chksum=1),
    header(proto=6),
    bytes(IP() / UDP(len=7)),
    bytes(IP() / UDP(len=9)),
    bytes(IP() / TCP(dataofs=4)),
    bytes(IP() / TCP(dataofs=6)),
    bytes(IP(proto=17) / b"1234567"),
    bytes(IP(proto=1) / b"1234567"),
    bytes(IP(proto=6, frag=1) / b"12345678"),
    bytes(IP(proto=17, frag=8191) / b"12345678"),
    bytes(IP(proto=6, flags="MF") / b"12345678"),
    bytes(udp6())[:39],
    bytes(udp6())[:-1],
    bytes(IPv6(nh=17)),
    bytes(IPv6() / UDP(len=7)),
    bytes(IPv6() / UDP(len=9)),
    forced6(udp6(), 46, 0, 0),
    bytes(IPv6() / TCP(dataofs=4)),
    bytes(IPv6() / TCP(dataofs=6)),
    bytes(IPv6(nh=58) / b"1234567"),
    bytes(IPv6(nh=60) / b"\x11\0\1\4\0\0\0"),
    bytes(IPv6(nh=60) / b"\x11\1\1\4\0\0\0\0"),
    bytes(IPv6(nh=60) / b"\0\0\1\4\0\0\0\0" / b"\x11\0\1\4\0\0\0\0"),
    bytes(IPv6(nh=44) / b"\x11\0\0\0\0\0\0"),
    piece6(0, 1, b"1234567"),
    piece6(1, 1, b"x" * 15),
    piece6(1, 1, b"x" * 12),
    piece6(0, 1, bytes(UDP(len=40, chksum=1)) + b"x" * 4),
    piece6(8191, 0, b"x" * 16),
    piece6(1, 0, b"x" * 8, protocol=6),
    piece6(0, 1, b"x" * 16, protocol=6),
    piece6(0, 1, b"\x11\1\0\0\0\0\0\0", protocol=60),
    bytes(IPv6() / IPv6ExtHdrFragment() / IPv6ExtHdrFragment() / UDP()),
]


@pytest.mark.parametrize("raw", MALFORMED_PACKETS, ids=range(len(MALFORMED_PACKETS)))
def test_malformed(raw: bytes) -> None:
    assert status(raw) == MALFORMED


def test_unsupported() -> None:
    chain = IPv6()
    for _ in range(packets.MAX_EXTENSIONS):
        chain /= IPv6ExtHdrDestOpt()
    assert status(chain / UDP()) == OK
    assert status(chain / IPv6ExtHdrDestOpt() / UDP()) == UNSUPPORTED
    assert status(IPv6() / IPv6ExtHdrRouting(addresses=["fd00::1"]) / UDP()) == UNSUPPORTED
    assert status(IPv6(plen=0) / IPv6ExtHdrHopByHop() / UDP()) == UNSUPPORTED, "a jumbogram"


def test_opaque_protocols() -> None:
    for packet in (IP(proto=47) / b"gre!", IPv6(nh=50) / b"esp!", IPv6(nh=59), IPv6(nh=1) / b"icm",
                   IP(proto=58) / b"icm"):  # fmt: skip
        view = view_of(packet)
        assert view.payload_at == view.l4_at == view.length - len(bytes(packet.payload))
        assert (view.has_ports, view.icmp_type, view.source_port, view.first) == (0, -1, 0, 1)
        assert l4_checksum_at(view) == -1


@pytest.mark.parametrize("make", [udp, udp6])
def test_fragments(make: Any) -> None:
    first, second, third = (view_of(piece) for piece in fragments(make(payload=b"x" * 64)))
    assert (first.fragment, first.first, first.has_ports) == (1, 1, 1)
    assert (first.source_port, first.destination_port) == (5000, 53)
    for later in (second, third):
        assert (later.fragment, later.first, later.has_ports) == (1, 0, 0)
        assert (later.source_port, later.destination_port, later.icmp_type) == (0, 0, -1)
        assert fragment_key(later, 5) == fragment_key(first, 5)
    (other, *_) = fragments(make(payload=b"x" * 64))
    if IPv6 in other:
        other[IPv6ExtHdrFragment].id = 2
    else:
        other.id = 2
        del other.chksum
    assert fragment_key(view_of(other), 5) != fragment_key(first, 5)
    assert view_of(make()).fragment == 0


def test_an_atomic_fragment_is_a_whole_packet() -> None:
    view = view_of(IPv6() / IPv6ExtHdrFragment(id=9) / UDP(sport=1, dport=2) / b"abc")
    assert (view.fragment, view.first, view.has_ports, view.source_port) == (0, 1, 1, 1)


def test_later_fragments_of_ipv6_keep_the_key_of_the_first_behind_options() -> None:
    options = bytes(IPv6ExtHdrDestOpt(nh=17)) + bytes(UDP(sport=1, dport=2, len=40, chksum=7))
    first = view_of(piece6(0, 1, options, protocol=60))
    later = view_of(piece6(2, 0, b"x" * 24, protocol=60))
    assert (first.protocol, first.source_port, first.first) == (17, 1, 1)
    assert (later.protocol, later.first) == (60, 0)
    assert fragment_key(first, 5) == fragment_key(later, 5)


def test_icmp_kinds() -> None:
    kinds4 = {number: view_of(IP() / ICMP(type=number) / (b"x" * 20)) for number in range(256)}
    assert {n for n, view in kinds4.items() if view.icmp_kind == QUERY} == {8, 13}
    assert {n for n, view in kinds4.items() if view.icmp_kind == REPLY} == {0, 14}
    assert {n for n, view in kinds4.items() if view.icmp_kind == ERROR} == {3, 4, 5, 11, 12}
    kinds6 = {n: view_of(IPv6(nh=58) / bytes([n, 0, 0, 0, 0, 5, 0, 0])) for n in range(256)}
    assert {n for n, view in kinds6.items() if view.icmp_kind == QUERY} == {128}
    assert {n for n, view in kinds6.items() if view.icmp_kind == REPLY} == {129}
    assert {n for n, view in kinds6.items() if view.icmp_kind == ERROR} == {1, 2, 3, 4}
    assert {n for n, view in kinds6.items() if view.source_port == 5} == {128, 129}
    assert view_of(IPv6() / ICMPv6ND_NS()).icmp_kind == 0


def test_marking_adjusts_the_header_checksum() -> None:
    for make in (udp, udp6):
        raw = bytes(make())
        for tos in range(256):
            buffer, view = buffer_of(raw), view_of(raw)
            set_tos(buffer, view, tos)
            marked = buffer[: len(raw)].tobytes()
            assert view_of(marked).tos == tos and marked == rebuilt(marked)
            assert marked[12:] == raw[12:]


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([b"", b"\x45\0", b"\x60\0\0\0"]), st.data())
def test_views_stay_within_the_packet(tail: bytes, head: bytes, data: st.DataObject) -> None:
    raw = bytearray(head + tail)
    if len(raw) >= 40 and raw[0] == 0x60:
        raw[4:6] = (len(raw) - 40).to_bytes(2, "big")
        raw[6] = data.draw(st.sampled_from([0, 6, 17, 43, 44, 58, 60]))
    if len(raw) >= 20 and raw[0] == 0x45:
        raw[2:4], raw[6:8], raw[10:12] = len(raw).to_bytes(2, "big"), b"\0\0", b"\0\0"
        raw[9] = data.draw(st.sampled_from([1, 6, 17]))
        raw[10:12] = int(checksum(buffer_of(bytes(raw)), 0, 20, 0)).to_bytes(2, "big")
    buffer = buffer_of(bytes(raw))
    view = parse(buffer, len(raw))
    if view.status == OK:
        assert 20 <= view.l4_at <= view.payload_at <= view.length <= len(raw)
        if view.icmp_kind == ERROR:
            quoted = parse_quoted(buffer, view)
            assert quoted.status != OK or view.payload_at < quoted.l4_at <= quoted.length - 8
    else:
        assert view == View(view.status, *([0] * 20))
