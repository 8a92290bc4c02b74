"""Parsing and checksums, against scapy's."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet as ScapyPacket
from scapy.utils import checksum as scapy_checksum

from testbed.vnf.functions.packet import (
    Packet,
    adjust,
    checksum,
    parse,
    parse_quoted,
    put_adjusted,
    reverse_of,
    with_tos,
)
from tests.unit.functions_support import fragments, icmp_error, rebuilt, udp


def parsed(packet: ScapyPacket | bytes) -> Packet:
    """The parsed packet, which must be well formed."""
    result = parse(bytes(packet))
    assert isinstance(result, Packet), result
    return result


def random_packet(rng: random.Random) -> bytes:
    """A well formed UDP, TCP or ICMP packet with random fields."""
    header = IP(
        src=".".join(str(b) for b in rng.randbytes(4)),
        dst=".".join(str(b) for b in rng.randbytes(4)),
        tos=rng.randrange(256),
        id=rng.randrange(65_536),
        ttl=rng.randrange(256),
        options=b"\x01" * (4 * rng.randrange(3)),
    )
    ports: dict[str, Any] = {"sport": rng.randrange(65_536), "dport": rng.randrange(65_536)}
    layer = rng.choice(
        [
            UDP(**ports),
            UDP(**ports, chksum=0),
            TCP(**ports, flags=rng.randrange(256), seq=rng.randrange(1 << 32)),
            ICMP(type=8, id=ports["sport"]),
        ]
    )
    return bytes(header / layer / rng.randbytes(rng.randrange(40)))


def test_rewrites_have_the_checksums_that_scapy_computes_anew() -> None:
    rng = random.Random(1624)
    kinds = set()
    for _ in range(3000):
        raw = random_packet(rng)
        packet = parsed(raw)
        kinds.add((packet.protocol, packet.l4_at))
        new = rng.choice([rng.randbytes(6), b"\0" * 6, b"\xff" * 6])
        buffer = bytearray(raw)
        buffer[12:16] = new[:4]
        put_adjusted(buffer, 10, packet.source, new[:4])
        if packet.has_ports:
            old = packet.source + packet.key[9:11]
            at = packet.l4_at + (6 if packet.protocol == 17 else 16)
            buffer[packet.l4_at : packet.l4_at + 2] = new[4:]
            put_adjusted(buffer, at, old, new, udp=packet.protocol == 17)
        assert bytes(buffer) == rebuilt(bytes(buffer))
    assert len(kinds) == 9


def test_rfc_1624_example() -> None:
    # RFC 1624 section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000, not 0xFFFF.
    assert adjust(0xDD2F, b"\x55\x55", b"\x32\x85") == 0x0000


@given(st.binary(max_size=80))
def test_checksum_equals_scapys(data: bytes) -> None:
    assert checksum(data) == scapy_checksum(data)


def test_udp_checksum_never_becomes_zero_and_zero_stays() -> None:
    buffer = bytearray(b"\xdd\x2f")
    put_adjusted(buffer, 0, b"\x55\x55", b"\x32\x85", udp=True)
    assert buffer == b"\xff\xff"
    buffer = bytearray(2)
    put_adjusted(buffer, 0, b"\x55\x55", b"\x32\x85", udp=True)
    assert buffer == b"\0\0"


def test_keys_mirror_and_padding_is_cut_off() -> None:
    raw = bytes(udp("10.0.0.1", 1, "10.0.0.2", 2))
    packet, back = parsed(raw + b"\0" * 9), parsed(udp("10.0.0.2", 2, "10.0.0.1", 1))
    assert packet.raw == raw
    assert packet.reverse_key == back.key == reverse_of(packet.key)
    assert packet.key == b"\x11\x0a\0\0\x01\x0a\0\0\x02\0\x01\0\x02"
    assert packet.raw[packet.payload_at :] == b"payload"


def header(**fields: Any) -> bytes:
    """A UDP packet with fields of the IP header forced."""
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2", **fields) / UDP() / b"1234")


def tcp_with_offset(words: int) -> bytes:
    """A TCP segment that says that its header has `words` words."""
    return bytes(IP() / TCP(dataofs=words))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x45",
        header()[:19],
        header(version=5),
        header(version=0),
        header(ihl=4),
        header(ihl=15),
        header(len=19),
        header(len=33),
        header(chksum=1),
        header(proto=6),
        bytes(IP() / UDP(len=7)),
        bytes(IP() / UDP(len=9)),
        tcp_with_offset(4),
        tcp_with_offset(6),
        bytes(IP(proto=17) / b"1234567"),
        bytes(IP(proto=1) / b"1234567"),
        bytes(IP(proto=6, frag=1) / b"12345678"),
        bytes(IP(proto=17, frag=8191) / b"12345678"),
        bytes(IP(proto=6, flags="MF") / b"12345678"),
        b"\x60",
    ],
)
def test_malformed(raw: bytes) -> None:
    expected = "unsupported" if raw == b"\x60" else "malformed"
    assert parse(raw) == expected


def test_ipv6_is_unsupported() -> None:
    assert parse(bytes(IPv6() / UDP())) == "unsupported"


def test_fragments() -> None:
    first, second = fragments(udp(payload=b"x" * 40))
    a, b = parsed(first), parsed(second)
    assert (a.fragment, a.first, a.has_ports, a.key[9:]) == (True, True, True, b"\x13\x88\0\x35")
    assert (b.fragment, b.first, b.has_ports, b.key[9:]) == (True, False, False, b"\0" * 4)
    assert a.key[:9] == b.key[:9]
    assert not parsed(udp()).fragment


def test_quoted_packets_are_checked_as_rfc_5508_asks() -> None:
    quoted = bytes(udp())
    found = parse_quoted(parsed(icmp_error("10.0.0.9", "10.0.0.1", quoted[:28])))
    assert found is not None and found.key == parsed(quoted).key
    error = bytearray(bytes(icmp_error("10.0.0.9", "10.0.0.1", quoted)))
    error[30] ^= 1  # the ICMP checksum no longer holds: REQ-3
    assert parse_quoted(parsed(bytes(error))) is None
    broken = quoted[:8] + bytes([quoted[8] ^ 1]) + quoted[9:]  # nor the quoted header's: REQ-3 a
    assert parse_quoted(parsed(icmp_error("10.0.0.9", "10.0.0.1", broken))) is None
    assert parse_quoted(parsed(icmp_error("10.0.0.9", "10.0.0.1", quoted[:27]))) is None
    wrong_udp = quoted[:26] + b"\x12\x34" + quoted[28:]  # the transport checksum may: REQ-3 c
    assert parse_quoted(parsed(icmp_error("10.0.0.9", "10.0.0.1", wrong_udp))) is not None


def test_marking_adjusts_the_header_checksum() -> None:
    for tos in range(256):
        raw = with_tos(bytes(udp()), tos)
        assert raw[1] == tos
        assert raw == rebuilt(raw)
