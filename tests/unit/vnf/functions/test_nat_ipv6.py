"""The NAT and IPv6: left alone, or under another prefix (RFC 6296)."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Packet as ScapyPacket

from testbed.vnf.functions.prefix6 import adjustment_between
from tests.support.functions_support import (
    PUBLIC,
    ROUTER6,
    SERVER6,
    Runner,
    decoded,
    echo,
    fragments,
    icmp_error,
    rebuilt,
    tcp,
    udp,
)

INTERNAL, EXTERNAL = "fd01:203:405::/48", "2001:db8:1::/48"
HOST = "fd01:203:405:1::1234"


def nat(**config: Any) -> Runner:
    return Runner("nat", {"public_address": PUBLIC, **config})


def translator(internal: str = INTERNAL, external: str = EXTERNAL) -> Runner:
    return nat(internal_prefix6=internal, public_prefix6=external)


def six(source: str, destination: str) -> list[ScapyPacket]:
    """A packet of each kind."""
    return [
        udp(source, 5000, destination, 53),
        tcp("S", source, 5000, destination, 80),
        echo("echo-request", source, destination),
        IPv6(src=source, dst=destination, nh=132) / b"an opaque transport",
        IPv6(src=source, dst=destination) / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / b"x",
    ]


def test_ipv6_passes_unchanged_without_a_prefix() -> None:
    runner = nat()
    for packet in six(HOST, SERVER6) + fragments(udp(HOST, 1, SERVER6, 2, b"x" * 60)):
        for reverse in (False, True):
            assert runner.send(packet, reverse).packet == bytes(packet)
    assert runner.state == {}


def test_the_example_of_rfc_6296() -> None:
    """Section 3.3: the difference of the sums is 0xD550, and subnet 0001 becomes D550."""
    out = translator().passes(udp(HOST, 5000, SERVER6, 53))
    assert out.src == str(ipaddress.IPv6Address("2001:db8:1:d550::1234"))


PREFIXES = [
    (INTERNAL, EXTERNAL, HOST),
    ("fd00::/16", "2002::/16", "fd00:1:2:3::9"),
    ("fd00:1:2:300::/56", "2001:db8:7:ff00::/56", "fd00:1:2:301:ffff:1:0:9"),
    ("fd00:1:2:300::/64", "2001:db8:7:ff00::/64", "fd00:1:2:300::9"),
    ("fd00:1:2:300::/64", "2001:db8:7:ff00::/64", "fd00:1:2:300:ffff:ffff:ffff:9"),
]


@pytest.mark.parametrize(("internal", "external", "host"), PREFIXES)
def test_translation_is_stateless_reversible_and_neutral(
    internal: str, external: str, host: str
) -> None:
    runner = translator(internal, external)
    for packet in six(host, SERVER6):
        original = bytes(packet)
        out = runner.send(original).packet
        assert out is not None
        source = ipaddress.IPv6Address(out[8:24])
        assert source in ipaddress.IPv6Network(external)
        assert out == rebuilt(out), "checksums are right and untouched"
        assert out[:8] + out[24:] == original[:8] + original[24:]
        back = six(SERVER6, str(source))[0]
        assert runner.passes(back, True).dst == host
    assert runner.state == {}


@pytest.mark.parametrize(("internal", "external", "host"), PREFIXES)
def test_errors_are_translated_inside_too(internal: str, external: str, host: str) -> None:
    runner = translator(internal, external)
    sent = tcp("S", host, 5000, SERVER6, 80)
    out = runner.passes(sent)
    error = runner.passes(icmp_error(ROUTER6, out.src, bytes(out), 11), True)
    assert error.dst == host
    assert bytes(error)[-len(bytes(sent)) :] == bytes(decoded(bytes(sent)))
    received = runner.passes(udp(SERVER6, 53, out.src, 5000), True)
    answer = runner.passes(icmp_error(host, SERVER6, received))
    assert answer.src == out.src
    assert bytes(answer)[48 + 24 : 48 + 40] == ipaddress.IPv6Address(out.src).packed


def test_fragments_are_translated_each() -> None:
    runner = translator()
    for piece in fragments(udp(HOST, 1, SERVER6, 2, b"x" * 60)):
        out = runner.passes(piece)
        assert out[IPv6].src.startswith("2001:db8:1:") and IPv6ExtHdrFragment in out


def test_what_has_no_image_is_dropped() -> None:
    runner = translator()
    assert runner.dropped(udp("fd01:203:406::1", 1, SERVER6, 2)) == "no-mapping"
    assert runner.dropped(udp("fe80::1", 1, SERVER6, 2)) == "no-mapping"
    assert runner.dropped(udp(SERVER6, 1, HOST, 2), True) == "no-mapping"
    assert runner.dropped(udp("fd01:203:405:ffff::1", 1, SERVER6, 2)) == "unmappable"
    assert runner.dropped(udp(HOST, 1, "2001:db8:1:d550::1234", 2)) == "hairpin"
    longer = translator("fd00:1:2:300::/64", "2001:db8:7:ff00::/64")
    assert longer.dropped(udp("fd00:1:2:300::", 1, SERVER6, 2)) == "unmappable"
    all_ones = "fd00:1:2:300:ffff:ffff:ffff:ffff"
    assert longer.dropped(udp(all_ones, 1, SERVER6, 2)) == "unmappable"


def test_no_subnet_becomes_0xffff() -> None:
    """0xFFFF has no image, so nothing may be translated to it; 0 stands for it."""
    old, new = (int(ipaddress.IPv6Network(n).network_address) >> 64 for n in (INTERNAL, EXTERNAL))
    subnet = 0xFFFF - adjustment_between(old, new)
    host = f"fd01:203:405:{subnet:x}::1"
    out = translator().passes(tcp("S", host, 1, SERVER6, 2))
    assert out.src == str(ipaddress.IPv6Address("2001:db8:1:0::1"))
    back = translator().passes(tcp("SA", SERVER6, 2, out.src, 1), True)
    assert back.dst == str(ipaddress.IPv6Address(host)) and TCP in back


def test_ipv4_is_translated_all_the_same() -> None:
    out = translator().passes(udp())
    assert (out.src, out[UDP].sport) == (PUBLIC, 5000)
