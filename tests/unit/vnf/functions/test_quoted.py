"""What ICMP errors quote."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet as ScapyPacket

from testbed.vnf.functions.packet import ERROR, MALFORMED, OK, View, flow_key
from testbed.vnf.functions.quoted import parse_quoted
from tests.support.functions_support import (
    INSIDE,
    INSIDE6,
    ROUTER,
    ROUTER6,
    SERVER,
    SERVER6,
    buffer_of,
    echo,
    forced6,
    icmp_error,
    ip,
    piece6,
    tcp,
    tcp6,
    udp,
    udp6,
    view_of,
)


def quoted_of(packet: ScapyPacket | bytes) -> View:
    """What an ICMP error quotes."""
    raw = bytes(packet)
    quoted: View = parse_quoted(buffer_of(raw), view_of(raw))
    return quoted


@pytest.mark.parametrize(
    ("router", "quoted"),
    [
        (ROUTER, udp()),
        (ROUTER, tcp("S")),
        (ROUTER, echo("echo-request", INSIDE, SERVER)),
        (ROUTER, IP(src=INSIDE, dst=SERVER, proto=47) / b"12345678"),
        (ROUTER, IP(src=INSIDE, dst=SERVER, options=b"\x01" * 8) / UDP(sport=9) / b"1"),
        (ROUTER6, udp6()),
        (ROUTER6, tcp6("S")),
        (ROUTER6, echo("echo-request", INSIDE6, SERVER6)),
        (ROUTER6, IPv6(src=INSIDE6, dst=SERVER6, nh=50) / b"12345678"),
        (ROUTER6, ip(INSIDE6, SERVER6) / IPv6ExtHdrDestOpt() / UDP(sport=9) / b"1"),
    ],
)
def test_quoted_packets_name_their_flow(router: str, quoted: ScapyPacket) -> None:
    raw, inside = bytes(quoted), INSIDE6 if IPv6 in quoted else INSIDE
    inner = view_of(raw)
    for cut in {inner.l4_at + 8, len(raw)}:
        error = icmp_error(router, inside, raw[:cut])
        outer, found = view_of(error), quoted_of(error)
        assert found.status == OK and outer.icmp_kind == ERROR
        assert flow_key(found, 1) == flow_key(inner, 1)
        assert found.at == outer.l4_at + 8 == outer.payload_at
        assert (found.l4_at, found.length) == (found.at + inner.l4_at, len(bytes(error)))
        assert (found.protocol, found.has_ports) == (inner.protocol, inner.has_ports)
    short = icmp_error(router, inside, raw[: inner.l4_at + 7])
    assert quoted_of(short).status == MALFORMED


def test_quoted_packets_are_checked_as_rfc_5508_asks() -> None:
    quoted = bytes(udp())
    error = bytearray(bytes(icmp_error("10.0.0.9", "10.0.0.1", quoted)))
    error[30] ^= 1  # the ICMP checksum no longer holds: REQ-3
    assert quoted_of(bytes(error)).status == MALFORMED
    broken = quoted[:8] + bytes([quoted[8] ^ 1]) + quoted[9:]  # nor the quoted header's: REQ-3 a
    assert quoted_of(icmp_error("10.0.0.9", "10.0.0.1", broken)).status == MALFORMED
    wrong_udp = quoted[:26] + b"\x12\x34" + quoted[28:]  # the transport checksum may: REQ-3 c
    assert quoted_of(icmp_error("10.0.0.9", "10.0.0.1", wrong_udp)).status == OK


def test_quoted_packets_of_ipv6_are_checked() -> None:
    quoted = bytes(udp6())
    for error, expected in (
        (forced6(icmp_error(ROUTER6, INSIDE6, quoted), 43, 1), MALFORMED),
        (bytes(icmp_error(ROUTER6, INSIDE6, b"\x45" + quoted[1:])), MALFORMED),
        (bytes(icmp_error(ROUTER6, INSIDE6, udp())), MALFORMED),
        (bytes(icmp_error(ROUTER, INSIDE, quoted)), MALFORMED),
        (bytes(icmp_error(ROUTER6, INSIDE6, icmp_error(ROUTER6, SERVER6, quoted))), MALFORMED),
        (bytes(icmp_error(ROUTER6, INSIDE6, piece6(1, 0, b"x" * 8))), MALFORMED),
        (bytes(icmp_error(ROUTER6, INSIDE6, piece6(0, 1, bytes(udp())[20:28])[:57])), OK),
        (bytes(icmp_error(ROUTER6, INSIDE6, quoted[:46] + b"\1\2" + quoted[48:])), OK),
    ):
        assert quoted_of(error).status == expected
    assert ICMPv6DestUnreach in icmp_error(ROUTER6, INSIDE6, quoted)
