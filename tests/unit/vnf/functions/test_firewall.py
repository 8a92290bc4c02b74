"""Stateful firewall: rules, TCP states, pseudo-states, related errors, fragments, bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Packet as ScapyPacket

from testbed.scenario.errors import InputError
from testbed.vnf.functions.registry import make_function
from tests.support.functions_support import (
    INSIDE,
    INSIDE6,
    OTHER_INSIDE,
    OTHER_INSIDE6,
    OTHER_SERVER,
    OTHER_SERVER6,
    ROUTER,
    ROUTER6,
    SERVER,
    SERVER6,
    Runner,
    echo,
    fragments,
    icmp_error,
    ip,
    tcp,
    udp,
    udp6,
)

HOUR_S = 3600
CONNECTION, CONNECTION_SLOT, FRAGMENTED = 1, 2, 3
"""Tags of records."""
VERSIONS = pytest.mark.parametrize(
    ("inside", "server", "stranger", "router"),
    [(INSIDE, SERVER, OTHER_SERVER, ROUTER), (INSIDE6, SERVER6, OTHER_SERVER6, ROUTER6)],
    ids=["ipv4", "ipv6"],
)


def script(runner: Runner, steps: str, at_s: float = 0, ends: tuple[str, str] = (INSIDE, SERVER)
           ) -> list[str]:  # fmt: skip
    """Send e.g. ">S <SA >A" and give the reasons ("" where the packet passed unchanged)."""
    reasons = []
    inside, server = ends
    for step in steps.split():
        there, back = tcp(step[1:], inside, 5000, server), tcp(step[1:], server, 80, inside, 5000)
        packet = there if step[0] == ">" else back
        result = runner.send(packet, step[0] == "<", at_s)
        assert result.packet in (None, bytes(packet))
        reasons.append(result.reason)
    return reasons


@pytest.mark.parametrize(
    "steps",
    [
        ">S <SA >A >PA <PA <A >FA <A <FA >A",
        ">S >S <SA <SA >A <SA >A",
        ">S <SA >A <FA >A >PA >FA <A",
        ">S <SA >A >FA <FA >A <A",
        ">S <RA",
        ">S <SA >A >R",
        ">S <SA <PA >A",
        ">S <SA >A >FA <FA >A >S <SA >A",
        ">S <RA >S <SA >A",
        ">SEC <SAE >A",
        ">S <SA >A >FAPU",
    ],
)
def test_conversations_that_rfc_9293_allows_pass(steps: str) -> None:
    for ends in ((INSIDE, SERVER), (INSIDE6, SERVER6)):
        reasons = script(Runner("fw"), steps, 0, ends)
        assert reasons == [""] * len(reasons)


@pytest.mark.parametrize(
    "steps",
    [
        ">A",
        ">SA",
        ">FA",
        ">R",
        ">S >A",
        ">S >FA",
        ">S <A",
        ">S <S",
        ">S <FA",
        ">S <SA >SA",
        ">S <SA >A >S",
        ">S <SA >A <S",
        ">S <SA >A >SF",
        ">S <SA >A >F",
        ">S <SA >A >SR",
        ">S <SA >A >P",
        ">S <SA >A >FPU",
        ">S <SA >A >R >A",
        ">S <SA >A >R <PA",
    ],
)
def test_what_does_not_fit_is_dropped(steps: str) -> None:
    for ends in ((INSIDE, SERVER), (INSIDE6, SERVER6)):
        *before, last = script(Runner("fw"), steps, 0, ends)
        assert before == [""] * len(before)
        assert last == "invalid-state"


@VERSIONS
def test_reverse_carries_known_connections_only(
    inside: str, server: str, stranger: str, router: str
) -> None:
    runner = Runner("fw")
    assert runner.dropped(tcp("S", server, 80, inside, 5000), True) == "no-connection"
    assert runner.dropped(udp(server, 53, inside, 5000), True) == "no-connection"
    assert runner.passes(udp(inside, 5000, server))
    assert runner.passes(udp(server, 53, inside, 5000), True)
    other_inside = OTHER_INSIDE6 if ":" in inside else OTHER_INSIDE
    for packet in (
        udp(stranger, 53, inside, 5000),
        udp(router, 53, inside, 5000),
        udp(server, 54, inside, 5000),
        udp(server, 53, inside, 5001),
        udp(server, 53, other_inside, 5000),
        tcp("A", server, 53, inside, 5000),
    ):
        assert runner.dropped(packet, True) == "no-connection"


def test_timers() -> None:
    answer = udp(SERVER, 53, INSIDE, 5000)
    runner = Runner("fw")
    runner.passes(udp())
    assert runner.passes(answer, True, at_s=299.9)
    assert runner.passes(answer, True, at_s=599), "both directions keep it alive"
    assert runner.dropped(answer, True, at_s=901) == "no-connection"
    for steps, seconds in ((">S", 240), (">S <SA", 240), (">S <SA >A", 7440),
                           (">S <SA >A >FA", 240), (">S <SA >A >FA <FA", 240)):  # fmt: skip
        runner = Runner("fw")
        script(runner, steps)
        assert script(runner, "<R", seconds - 0.1) == [""], steps
        runner = Runner("fw")
        script(runner, steps)
        assert script(runner, "<R", seconds + 1.1) == ["no-connection"], steps


def test_an_established_flow_writes_one_word_a_second() -> None:
    for make in (udp, udp6):
        runner = Runner("fw")
        sent = make()
        answer = make(SERVER6 if make is udp6 else SERVER, 53,
                      INSIDE6 if make is udp6 else INSIDE, 5000)  # fmt: skip
        runner.passes(sent)
        assert len(runner.send(answer, True).operations) > 0
        for tenth in range(1, 10):
            assert runner.send(sent, at_s=tenth / 10).operations == ()
            assert runner.send(answer, True, at_s=tenth / 10).operations == ()
        words = len(runner.send(sent, at_s=1).operations)
        assert words == (7 if make is udp6 else 4), "head, key, one word"


def rules(*items: dict[str, Any], default: str = "allow") -> Runner:
    """A firewall with rules."""
    return Runner("fw", {"rules": list(items), "default": default})


def test_first_match_wins() -> None:
    runner = rules(
        {"action": "allow", "protocol": "udp", "source": f"{INSIDE}/32", "destination_port": 53},
        {"action": "deny", "protocol": "udp"},
        {"action": "allow", "protocol": "udp"},
    )
    assert runner.passes(udp())
    assert runner.dropped(udp(OTHER_INSIDE)) == "denied"
    assert runner.dropped(udp(dport=54)) == "denied"
    assert runner.passes(tcp("S"))


PING, PING6 = echo("echo-request", INSIDE, SERVER), echo("echo-request", INSIDE6, SERVER6)
IN6 = ip(INSIDE6, SERVER6)


@pytest.mark.parametrize(
    ("rule", "hit", "miss"),
    [
        ({"protocol": "tcp"}, tcp("S"), udp()),
        ({"protocol": "tcp"}, tcp("S", INSIDE6, 1, SERVER6), udp6()),
        ({"protocol": "icmp"}, PING, udp()),
        ({"protocol": "icmp"}, PING6, udp6()),
        ({"protocol": "icmp"}, PING6, IP(src=INSIDE, dst=SERVER, proto=58) / b"12345678"),
        ({"source": "10.77.0.0/29"}, udp(INSIDE), udp(OTHER_INSIDE)),
        ({"source": "0.0.0.0/0"}, udp(), udp6()),
        ({"source": "::/0"}, udp6(), udp()),
        ({"source": "fd00:77::/125"}, udp6(INSIDE6), udp6(OTHER_INSIDE6)),
        ({"source": "fd00:77::/32"}, udp6(INSIDE6), udp6("fd00:78::1")),
        ({"source": "8000::/1"}, udp6("ffff::1"), udp6("7fff::1")),
        ({"source": "::10.77.0.1/128"}, udp6("::10.77.0.1"), udp()),
        ({"destination": "10.77.0.2/31"}, udp(destination=OTHER_SERVER), udp(destination=INSIDE)),
        ({"destination": "fd00:77::2/127"}, udp6(destination=OTHER_SERVER6),
         udp6(destination=INSIDE6)),
        ({"destination": "200.0.0.0/8"}, udp(destination="200.9.9.9"), udp()),
        ({"destination_ports": [22, [50, 60]]}, udp(dport=60), udp(dport=61)),
        ({"destination_ports": [22, [50, 60]]}, tcp("S", dport=22), tcp("S", dport=23)),
        ({"destination_ports": [53]}, IN6 / IPv6ExtHdrDestOpt() / udp6()["UDP"], udp6(dport=54)),
        ({"destination_ports": [0]}, udp(dport=0), echo("echo-request", INSIDE, SERVER, 0)),
        ({"destination_ports": [65535]}, udp(dport=65535), udp(dport=65534)),
    ],
)  # fmt: skip
def test_conditions(rule: dict[str, Any], hit: ScapyPacket, miss: ScapyPacket) -> None:
    assert rules({"action": "deny", **rule}).dropped(hit) == "denied"
    assert rules({"action": "deny", **rule}).passes(miss)
    assert rules({"action": "allow", **rule}, default="deny").passes(hit)
    assert rules({"action": "allow", **rule}, default="deny").dropped(miss) == "denied"


def test_rules_are_asked_about_new_connections_only() -> None:
    runner = rules({"action": "deny", "destination": f"{INSIDE}/32"})
    runner.passes(udp())
    assert runner.passes(udp(SERVER, 53, INSIDE, 5000), True)
    runner = rules({"action": "deny", "protocol": "udp", "destination_port": 54})
    runner.passes(udp())
    assert len(runner.state) == 3
    assert runner.dropped(udp(dport=54)) == "denied"
    assert len(runner.state) == 3, "a denied packet leaves nothing behind"


@VERSIONS
def test_ping(inside: str, server: str, stranger: str, router: str) -> None:
    runner = Runner("fw")
    request, reply = echo("echo-request", inside, server), echo("echo-reply", server, inside)
    assert runner.dropped(reply, True) == "no-connection"
    assert runner.dropped(echo("echo-request", server, inside), True) == "no-connection"
    assert runner.dropped(echo("echo-reply", inside, server)) == "invalid-state"
    assert runner.passes(request)
    assert runner.dropped(echo("echo-request", server, inside), True) == "no-connection"
    assert runner.passes(reply, True)
    assert runner.dropped(echo("echo-reply", server, inside, 8), True) == "no-connection"
    assert runner.dropped(reply, True, at_s=62) == "no-connection"


def test_other_icmp_does_not_cross() -> None:
    runner = Runner("fw")
    assert runner.dropped(IP(src=INSIDE, dst=SERVER) / ICMP(type=10)) == "unsupported"
    assert runner.dropped(ip(INSIDE6, SERVER6) / ICMPv6ND_NS()) == "unsupported"
    assert runner.state == {}


@VERSIONS
def test_errors_related_to_a_connection_pass(
    inside: str, server: str, stranger: str, router: str
) -> None:
    runner = Runner("fw")
    shortest = 48 if ":" in inside else 28
    for packet in (
        udp(inside, 5000, server),
        tcp("S", inside, 5000, server),
        echo("echo-request", inside, server),
    ):
        error = icmp_error(router, inside, bytes(packet)[:shortest], 11, 0)
        assert runner.dropped(error, True) == "no-connection"
        runner.passes(packet)
        state = runner.state
        assert runner.passes(error, True)
        assert runner.state == state
        assert runner.dropped(icmp_error(inside, server, packet)) == "no-connection"
    answer, sent = udp(server, 53, inside, 5000), udp(inside, 5000, server)
    assert runner.passes(icmp_error(inside, server, answer))
    assert runner.dropped(icmp_error(router, inside, answer), True) == "no-connection"
    assert runner.dropped(icmp_error(router, inside, sent), True, 400) == "no-connection"
    broken = bytearray(bytes(icmp_error(router, inside, sent)))
    broken[-1] ^= 1
    assert runner.dropped(bytes(broken), True) == "malformed"


def test_a_packet_too_big_is_related() -> None:
    runner = Runner("fw")
    runner.passes(udp6())
    assert runner.passes(icmp_error(ROUTER6, INSIDE6, udp6(), 2), True)
    assert runner.dropped(icmp_error(ROUTER6, INSIDE6, udp(), 2), True) == "malformed"


def with_id(packet: ScapyPacket, identification: int) -> ScapyPacket:
    """The fragment of another packet."""
    packet = packet.copy()
    if IPv6 in packet:
        packet[IPv6ExtHdrFragment].id = identification
    else:
        packet.id = identification
        del packet.chksum
    return packet


@pytest.mark.parametrize("make", [udp, udp6])
def test_later_fragments_follow_the_first(make: Callable[..., ScapyPacket]) -> None:
    runner = rules({"action": "deny", "destination_port": 54})
    first, second, third = fragments(make(payload=b"x" * 64))
    assert runner.dropped(second) == "fragment"
    assert runner.passes(first) and runner.passes(second) and runner.passes(third)
    assert runner.dropped(second, at_s=61) == "fragment"
    assert runner.dropped(with_id(second, 77)) == "fragment"
    denied = [with_id(piece, 99) for piece in fragments(make(dport=54, payload=b"x" * 64))]
    assert [runner.dropped(piece) for piece in denied] == ["denied", "fragment", "fragment"]


def test_tiny_fragments_are_malformed() -> None:
    tiny = IP(src=INSIDE, dst=SERVER, proto=6, frag=1) / b"12345678"
    assert Runner("fw").dropped(tiny) == "malformed", "RFC 3128"


def test_the_table_of_cut_up_packets_is_bounded() -> None:
    runner = Runner("fw")
    first, second, _ = fragments(udp(payload=b"x" * 64))
    for number in range(1100):
        runner.send(with_id(first, number))
    assert len(runner.tagged(FRAGMENTED)) == 1024
    assert runner.passes(with_id(second, 1099))
    assert runner.dropped(with_id(second, 10)) == "fragment"


def test_a_full_table_keeps_its_connections() -> None:
    runner = Runner("fw", {"max_connections": 4})
    for sport in range(4):
        runner.passes(udp(sport=sport))
    assert runner.dropped(udp(sport=9), at_s=1) == "table-full"
    assert runner.passes(udp(sport=2), at_s=200)
    assert runner.passes(udp(sport=9), at_s=302)
    assert runner.passes(udp(SERVER, 53, INSIDE, 2), True, at_s=302)
    assert len(runner.tagged(CONNECTION)) == 4


def test_an_expired_connection_comes_back_in_its_slot() -> None:
    runner = Runner("fw", {"max_connections": 2})
    for round_ in range(5):
        assert runner.passes(udp(), at_s=round_ * 1000)
    assert len(runner.tagged(CONNECTION)) == 1
    assert len(runner.tagged(CONNECTION_SLOT)) == 2, "the hand and a slot"


def test_other_protocols_are_tracked_by_address() -> None:
    runner = Runner("fw")
    for source, destination, field in ((INSIDE, SERVER, "proto"), (INSIDE6, SERVER6, "nh")):
        gre = ip(source, destination, **{field: 47}) / b"gre!"
        answer = ip(destination, source, **{field: 47}) / b"gre!"
        assert runner.dropped(answer, True) == "no-connection"
        assert runner.passes(gre) and runner.passes(answer, True)


def test_a_new_connection_after_the_end_has_its_own_timers() -> None:
    runner = Runner("fw")
    assert script(runner, ">S <SA >A >R >S <SA >A") == [""] * 7
    assert script(runner, "<PA", 2 * HOUR_S) == [""]
    assert TCP in runner.passes(tcp("A"), at_s=2 * HOUR_S)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"rules": 1}, "fw.rules"),
        ({"rules": [1]}, "fw.rules[0]"),
        ({"rules": [{}]}, "fw.rules[0].action"),
        ({"rules": [{"action": "maybe"}]}, "fw.rules[0].action"),
        ({"rules": [{"action": "deny", "source": "10.0.0.1/8"}]}, "fw.rules[0].source"),
        ({"rules": [{"action": "deny", "source": "fd00::1/8"}]}, "fw.rules[0].source"),
        ({"rules": [{"action": "deny", "destination": 4}]}, "fw.rules[0].destination"),
        ({"rules": [{"action": "deny", "source": "::/0", "destination": "10.0.0.0/8"}]},
         "fw.rules[0].destination"),
        ({"rules": [{"action": "deny", "protocol": "sctp"}]}, "fw.rules[0].protocol"),
        ({"rules": [{"action": "deny", "destination_port": 65536}]},
         "fw.rules[0].destination_ports"),
        ({"rules": [{"action": "deny", "destination_ports": [[9, 8]]}]},
         "fw.rules[0].destination_ports"),
        ({"rules": [{"action": "deny", "destination_port": 1, "destination_ports": [1]}]},
         "fw.rules[0].destination_port"),
        ({"rules": [{"action": "deny", "port": 1}]}, "fw.rules[0]"),
        ({"default": "drop"}, "fw.default"),
        ({"max_connections": 0}, "fw.max_connections"),
        ({"udp_timeout_s": 119}, "fw.udp_timeout_s"),
        ({"tcp_established_timeout_s": 7439}, "fw.tcp_established_timeout_s"),
        ({"icmp_timeout_s": 59}, "fw.icmp_timeout_s"),
        ({"x": 1}, "fw configuration"),
    ],
)  # fmt: skip
def test_bad_configuration_is_refused(bad: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        make_function("fw", bad)
    assert caught.value.field == field
