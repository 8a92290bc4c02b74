"""Stateful firewall: rules, TCP states, pseudo-states, related errors, fragments, bounds."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.packet import Packet as ScapyPacket

from tests.unit.functions_support import (
    INSIDE,
    OTHER_INSIDE,
    OTHER_SERVER,
    SERVER,
    Runner,
    echo,
    fragments,
    icmp_error,
    tcp,
    udp,
)

HOUR_S = 3600


def back(flags: str) -> ScapyPacket:
    """A TCP segment of the server."""
    return tcp(flags, SERVER, 80, INSIDE, 5000)


def script(runner: Runner, steps: str, at_s: float = 0) -> list[str]:
    """Send e.g. ">S <SA >A" and give the reasons ("" where the packet passed unchanged)."""
    reasons = []
    for step in steps.split():
        packet = tcp(step[1:]) if step[0] == ">" else back(step[1:])
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
    reasons = script(Runner("fw"), steps)
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
    runner = Runner("fw")
    *before, last = script(runner, steps)
    assert before == [""] * len(before)
    assert last == "invalid-state"


def test_reverse_carries_known_connections_only() -> None:
    runner = Runner("fw")
    assert runner.dropped(back("S"), True) == "no-connection"
    assert runner.dropped(udp(SERVER, 53, INSIDE, 5000), True) == "no-connection"
    assert runner.passes(udp())
    assert runner.passes(udp(SERVER, 53, INSIDE, 5000), True)
    for stranger in (
        udp(OTHER_SERVER, 53, INSIDE, 5000),
        udp(SERVER, 54, INSIDE, 5000),
        udp(SERVER, 53, INSIDE, 5001),
        udp(SERVER, 53, OTHER_INSIDE, 5000),
        tcp("A", SERVER, 53, INSIDE, 5000),
    ):
        assert runner.dropped(stranger, True) == "no-connection"


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


@pytest.mark.parametrize(
    ("rule", "hit", "miss"),
    [
        ({"protocol": "tcp"}, tcp("S"), udp()),
        ({"protocol": "icmp"}, echo("echo-request", INSIDE, SERVER), udp()),
        ({"source": "10.77.0.0/29"}, udp(INSIDE), udp(OTHER_INSIDE)),
        ({"destination": "10.77.0.2/31"}, udp(destination=OTHER_SERVER), udp(destination=INSIDE)),
        ({"destination_ports": [22, [50, 60]]}, udp(dport=60), udp(dport=61)),
        ({"destination_ports": [22, [50, 60]]}, tcp("S", dport=22), tcp("S", dport=23)),
        ({"destination_ports": [0]}, udp(dport=0), echo("echo-request", INSIDE, SERVER, 0)),
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


def test_ping() -> None:
    runner = Runner("fw")
    assert runner.dropped(echo("echo-reply", SERVER, INSIDE), True) == "no-connection"
    assert runner.dropped(echo("echo-request", SERVER, INSIDE), True) == "no-connection"
    assert runner.dropped(echo("echo-reply", INSIDE, SERVER)) == "invalid-state"
    assert runner.passes(echo("echo-request", INSIDE, SERVER))
    assert runner.dropped(echo("echo-request", SERVER, INSIDE), True) == "no-connection"
    assert runner.passes(echo("echo-reply", SERVER, INSIDE), True)
    assert runner.dropped(echo("echo-reply", SERVER, INSIDE, 8), True) == "no-connection"
    assert runner.dropped(echo("echo-reply", SERVER, INSIDE), True, at_s=62) == "no-connection"
    assert runner.dropped(IP(src=INSIDE, dst=SERVER) / ICMP(type=10)) == "unsupported"


def test_errors_related_to_a_connection_pass() -> None:
    runner = Runner("fw")
    for packet in (udp(), tcp("S"), echo("echo-request", INSIDE, SERVER)):
        error = icmp_error("10.1.1.1", INSIDE, bytes(packet)[:28], 11, 0)
        assert runner.dropped(error, True) == "no-connection"
        runner.passes(packet)
        state = dict(runner.state)
        assert runner.passes(error, True)
        assert runner.state == state
        assert runner.dropped(icmp_error(INSIDE, SERVER, packet)) == "no-connection"
    answer = udp(SERVER, 53, INSIDE, 5000)
    assert runner.passes(icmp_error(INSIDE, SERVER, answer))
    assert runner.dropped(icmp_error("10.1.1.1", INSIDE, answer), True) == "no-connection"
    assert runner.dropped(icmp_error("10.1.1.1", INSIDE, udp()), True, 400) == "no-connection"
    broken = bytearray(bytes(icmp_error("10.1.1.1", INSIDE, udp())))
    broken[-1] ^= 1
    assert runner.dropped(bytes(broken), True) == "malformed"


def test_later_fragments_follow_the_first() -> None:
    runner = rules({"action": "deny", "destination_port": 54})
    first, second, third = fragments(udp(payload=b"x" * 64))
    assert runner.dropped(second) == "fragment"
    assert runner.passes(first) and runner.passes(second) and runner.passes(third)
    assert runner.dropped(second, at_s=61) == "fragment"
    other = second.copy()
    other.id = 77
    del other.chksum
    assert runner.dropped(other) == "fragment"
    denied = fragments(udp(dport=54, payload=b"x" * 64))
    for piece in denied:
        piece.id = 99
        del piece.chksum
    assert [runner.dropped(piece) for piece in denied] == ["denied", "fragment", "fragment"]
    tiny = IP(src=INSIDE, dst=SERVER, proto=6, frag=1) / b"12345678"
    assert runner.dropped(tiny) == "malformed", "RFC 3128"


def test_a_full_table_keeps_its_connections() -> None:
    runner = Runner("fw", {"max_connections": 4})
    for sport in range(4):
        runner.passes(udp(sport=sport))
    assert runner.dropped(udp(sport=9), at_s=1) == "table-full"
    assert runner.passes(udp(sport=2), at_s=200)
    assert runner.passes(udp(sport=9), at_s=302)
    assert runner.passes(udp(SERVER, 53, INSIDE, 2), True, at_s=302)
    assert sum(key.startswith(b"k") for key in runner.state) == 4


def test_an_expired_connection_comes_back_in_its_slot() -> None:
    runner = Runner("fw", {"max_connections": 2})
    for round_ in range(5):
        assert runner.passes(udp(), at_s=round_ * 1000)
    assert sum(key.startswith(b"k") for key in runner.state) == 1
    assert sum(key.startswith(b"K:") for key in runner.state) == 1


def test_other_protocols_are_tracked_by_address() -> None:
    runner = Runner("fw")
    gre = IP(src=INSIDE, dst=SERVER, proto=47) / b"gre!"
    answer = IP(src=SERVER, dst=INSIDE, proto=47) / b"gre!"
    assert runner.dropped(answer, True) == "no-connection"
    assert runner.passes(gre) and runner.passes(answer, True)


def test_a_new_connection_after_the_end_has_its_own_timers() -> None:
    runner = Runner("fw")
    assert script(runner, ">S <SA >A >R >S <SA >A") == [""] * 7
    assert script(runner, "<PA", 2 * HOUR_S) == [""]
    assert TCP in runner.passes(tcp("A"), at_s=2 * HOUR_S)
