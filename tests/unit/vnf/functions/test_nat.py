"""NAT behaviour: RFC 4787 (UDP), RFC 5382 (TCP), RFC 5508 (ICMP)."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror, TCPerror, UDPerror
from scapy.packet import Packet as ScapyPacket

from testbed.vnf.functions.effect import FORWARD, new_effect
from testbed.vnf.functions.function import Call
from testbed.vnf.functions.nat_state import INTERNAL, MAPPING, SESSION
from testbed.vnf.functions.nat_table import MAX_REMOTES
from tests.support.functions_support import (
    INSIDE,
    OTHER_INSIDE,
    OTHER_SERVER,
    PUBLIC,
    SERVER,
    Runner,
    S,
    buffer_of,
    echo,
    fragments,
    icmp_error,
    rebuilt,
    tcp,
    udp,
)

HOUR_S = 3600


def nat(**config: Any) -> Runner:
    """A NAT with the tests' public address."""
    return Runner("nat", {"public_address": PUBLIC, **config})


def port_of(runner: Runner, sport: int, source: str = INSIDE, at_s: float = 0) -> int:
    """The public port that a UDP packet gets."""
    packet = runner.passes(udp(source, sport), at_s=at_s)
    assert packet[IP].src == PUBLIC
    return int(packet[UDP].sport)


def peek(runner: Runner, packet: ScapyPacket, at_s: float) -> bool:
    """Whether a packet from outside would pass at some time; the state stays as it is."""
    effect = new_effect()
    raw = bytes(packet)
    config, now_ns = runner.function.config, 1_000 * S + round(at_s * S)
    verdict = runner.function.process(
        Call(buffer_of(raw), len(raw), 1, now_ns, runner.records, effect, config)
    )
    return verdict == FORWARD


def test_there_and_back() -> None:
    runner = nat()
    out = runner.passes(udp())
    assert (out.src, out[UDP].sport, out.dst, out[UDP].dport) == (PUBLIC, 5000, SERVER, 53)
    assert bytes(out[UDP].payload) == b"payload"
    back = runner.passes(udp(SERVER, 53, PUBLIC, 5000), reverse=True)
    assert (back.src, back[UDP].sport, back.dst, back[UDP].dport) == (SERVER, 53, INSIDE, 5000)


def test_mapping_is_endpoint_independent_req_1() -> None:
    runner = nat()
    port_of(runner, 5000, OTHER_INSIDE)  # takes the port, so that 5000 is not preserved below
    ports = {
        runner.passes(udp(INSIDE, 5000, destination, dport))[UDP].sport
        for destination in (SERVER, OTHER_SERVER)
        for dport in (53, 80, 443)
    }
    assert len(ports) == 1 and ports != {5000}


def test_port_is_preserved_where_free_and_never_overloaded_req_3() -> None:
    runner = nat()
    ports = [port_of(runner, 6001, f"10.77.0.{host}") for host in range(1, 60)]
    assert ports[0] == 6001
    assert len(set(ports)) == len(ports)
    for host, port in zip(range(1, 60), ports, strict=True):
        back = runner.passes(udp(SERVER, 53, PUBLIC, port), reverse=True)
        assert (back.dst, back[UDP].dport) == (f"10.77.0.{host}", 6001)


@pytest.mark.parametrize("sport", [1, 500, 1023, 1024, 5001, 65_534, 65_535])
def test_port_class_and_parity_req_3a_req_4(sport: int) -> None:
    runner = nat()
    for host in range(1, 20):
        port = port_of(runner, sport, f"10.77.0.{host}")
        assert port % 2 == sport % 2
        assert (1 <= port <= 1023) == (sport <= 1023)


def test_exhausted_pool_drops_and_recovers() -> None:
    runner = nat(first_port=2000, last_port=2007)
    even = {port_of(runner, 4000, f"10.77.1.{host}", at_s=host) for host in range(4)}
    assert even == {2000, 2002, 2004, 2006}
    assert runner.dropped(udp("10.77.1.9", 4000), at_s=10) == "no-port"
    assert runner.dropped(udp("10.77.1.9", 4000), at_s=11) == "no-port"
    assert port_of(runner, 4001, "10.77.1.9", at_s=11) % 2 == 1
    assert port_of(runner, 4000, "10.77.1.2", at_s=12) in even, "those who have a port keep it"
    # The first mapping ends 301 s after its last packet.
    assert runner.dropped(udp("10.77.1.9", 4000), at_s=300.5) == "no-port"
    assert port_of(runner, 4000, "10.77.1.9", at_s=301.5) == 2000
    assert runner.dropped(udp(SERVER, 53, PUBLIC, 2004), True, at_s=400) == "no-mapping"


def test_reused_port_forgets_its_old_owner_and_sessions() -> None:
    runner = nat(first_port=2000, last_port=2001)
    port_of(runner, 4000, INSIDE)
    runner.passes(udp(OTHER_INSIDE, 4000, OTHER_SERVER), at_s=302)
    assert runner.dropped(udp(SERVER, 53, PUBLIC, 2000), True, at_s=303) == "filtered"
    back = runner.passes(udp(OTHER_SERVER, 53, PUBLIC, 2000), True, at_s=303)
    assert back.dst == OTHER_INSIDE
    assert runner.dropped(udp(INSIDE, 4000), at_s=303) == "no-port"
    for tag in (INTERNAL, MAPPING, SESSION):
        assert len(runner.tagged(tag)) == 1, "nothing is left of the old owner"


def test_unknown_and_foreign_destinations_have_no_mapping() -> None:
    runner = nat()
    assert runner.dropped(udp(SERVER, 53, PUBLIC, 5000), True) == "no-mapping"
    port_of(runner, 5000)
    assert runner.dropped(udp(SERVER, 53, PUBLIC, 5002), True) == "no-mapping"
    assert runner.dropped(udp(SERVER, 53, "100.64.0.2", 5000), True) == "no-mapping"
    assert runner.dropped(tcp("SA", SERVER, 53, PUBLIC, 5000), True) == "no-mapping"


@pytest.mark.parametrize(
    ("filtering", "same_address", "other_address"),
    [
        (None, True, False),
        ("address-dependent", True, False),
        ("endpoint-independent", True, True),
        ("address-and-port-dependent", False, False),
    ],
)
def test_filtering_req_8(filtering: str | None, same_address: bool, other_address: bool) -> None:
    runner = nat(**({"filtering": filtering} if filtering else {}))
    port_of(runner, 5000)
    assert runner.passes(udp(SERVER, 53, PUBLIC, 5000), True)
    for source, sport, admitted in ((SERVER, 54, same_address), (OTHER_SERVER, 53, other_address)):
        result = runner.send(udp(source, sport, PUBLIC, 5000), True)
        assert (result.packet is not None) == admitted
        assert result.reason == ("" if admitted else "filtered")


def test_udp_mapping_lasts_five_minutes_and_outbound_refreshes_req_5_req_6() -> None:
    runner = nat()
    port_of(runner, 5000)
    answer = udp(SERVER, 53, PUBLIC, 5000)
    assert runner.passes(answer, True, at_s=299.9)
    assert runner.dropped(answer, True, at_s=301.1) == "no-mapping", "inbound does not refresh"
    runner = nat()
    for at_s in range(0, 1500, 250):
        port_of(runner, 5000, at_s=at_s)
    assert runner.passes(answer, True, at_s=1250 + 299.9)
    assert runner.dropped(answer, True, at_s=1250 + 301.1) == "no-mapping"


def test_refreshing_never_shortens_a_mapping_below_its_time() -> None:
    runner = nat()
    for step in range(100):
        port_of(runner, 5000, at_s=step * 0.0999)
        answer = udp(SERVER, 53, PUBLIC, 5000)
        assert peek(runner, answer, step * 0.0999 + 300)


def test_a_busy_flow_writes_state_about_once_a_second() -> None:
    runner = nat()
    writes = sum(bool(runner.send(udp(), at_s=step / 100).operations) for step in range(1000))
    assert 9 <= writes <= 11


def connect(runner: Runner, at_s: float = 0) -> None:
    """A TCP connection from INSIDE:5000 to SERVER:80."""
    runner.passes(tcp("S"), at_s=at_s)
    runner.passes(tcp("SA", SERVER, 80, PUBLIC, 5000), True, at_s=at_s)
    runner.passes(tcp("A"), at_s=at_s)


def test_tcp_timers_rfc_5382_req_5() -> None:
    data = tcp("PA", SERVER, 80, PUBLIC, 5000)
    opening = nat()
    opening.passes(tcp("S"))
    assert opening.dropped(data, True, at_s=241.5) == "no-mapping"
    established = nat()
    connect(established)
    assert established.passes(data, True, at_s=2 * HOUR_S)
    assert established.passes(data, True, at_s=4 * HOUR_S), "inbound refreshes TCP"
    assert established.dropped(data, True, at_s=4 * HOUR_S + 7442) == "no-mapping"


@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_closed_tcp_session_lasts_four_minutes(ending: str) -> None:
    runner = nat()
    connect(runner)
    data = tcp("A", SERVER, 80, PUBLIC, 5000)
    if ending == "fin":
        runner.passes(tcp("FA"), at_s=1)
        assert runner.passes(data, True, at_s=HOUR_S), "half closed is not closed"
        runner.passes(tcp("FA", SERVER, 80, PUBLIC, 5000), True, at_s=HOUR_S)
    else:
        runner.passes(tcp("R", SERVER, 80, PUBLIC, 5000), True, at_s=HOUR_S)
    last_ack = HOUR_S + 239
    assert runner.passes(tcp("A"), at_s=last_ack)
    assert runner.dropped(data, True, at_s=last_ack + 241.5) == "no-mapping"


def test_a_new_connection_after_the_end_is_established_again() -> None:
    runner = nat()
    connect(runner)
    runner.passes(tcp("R"), at_s=1)
    connect(runner, at_s=2)
    assert runner.passes(tcp("A", SERVER, 80, PUBLIC, 5000), True, at_s=2 * HOUR_S)


def test_closing_one_session_keeps_the_mapping_for_another() -> None:
    runner = nat()
    connect(runner)
    runner.passes(tcp("S", destination=OTHER_SERVER))
    runner.passes(tcp("SA", OTHER_SERVER, 80, PUBLIC, 5000), True)
    runner.passes(tcp("R"), at_s=1)
    assert runner.passes(tcp("A", OTHER_SERVER, 80, PUBLIC, 5000), True, at_s=HOUR_S)
    assert runner.dropped(tcp("A", SERVER, 80, PUBLIC, 5000), True, at_s=HOUR_S) == "filtered"


def test_closing_a_session_frees_an_exhausted_pool_early() -> None:
    runner = nat(first_port=5000, last_port=5001)
    connect(runner)
    other = tcp("S", OTHER_INSIDE, 6000)
    assert runner.dropped(other, at_s=1) == "no-port"
    runner.passes(tcp("R"), at_s=2)
    assert runner.dropped(other, at_s=3) == "no-port"
    assert runner.passes(other, at_s=244)[TCP].sport == 5000


def test_sessions_of_a_mapping_are_bounded() -> None:
    runner = nat()
    for number in range(2 * MAX_REMOTES):
        runner.passes(udp(dport=number + 1), at_s=number * 1.5)
    assert len(runner.tagged(SESSION)) == MAX_REMOTES
    last = 2 * MAX_REMOTES * 1.5
    assert runner.passes(udp(SERVER, 2 * MAX_REMOTES, PUBLIC, 5000), True, at_s=last)


def test_icmp_queries_by_identifier_rfc_5508_req_1() -> None:
    runner = nat()
    first = runner.passes(echo("echo-request", INSIDE, SERVER, 7))
    second = runner.passes(echo("echo-request", OTHER_INSIDE, SERVER, 7))
    assert (first.src, first[ICMP].id) == (PUBLIC, 7)
    assert second.src == PUBLIC and second[ICMP].id != 7
    for out, host in ((first, INSIDE), (second, OTHER_INSIDE)):
        back = runner.passes(echo("echo-reply", SERVER, PUBLIC, out[ICMP].id), True)
        assert (back.dst, back[ICMP].id) == (host, 7)
    assert runner.dropped(echo("echo-reply", OTHER_SERVER, PUBLIC, 7), True) == "filtered"
    assert runner.dropped(echo("echo-request", SERVER, PUBLIC, 7), True) == "no-mapping"
    reply = echo("echo-reply", SERVER, PUBLIC, 7)
    assert runner.passes(reply, True, at_s=59.9)
    assert runner.dropped(reply, True, at_s=61.1) == "no-mapping"


@pytest.mark.parametrize("kind", ["udp", "tcp", "icmp"])
@pytest.mark.parametrize("cut", [None, 28])
def test_errors_about_what_went_out_are_translated_inside_too(kind: str, cut: int | None) -> None:
    runner = nat()
    others = {"udp": udp(OTHER_INSIDE), "tcp": tcp("S", OTHER_INSIDE),
              "icmp": echo("echo-request", OTHER_INSIDE, SERVER, 7)}  # fmt: skip
    sent = {"udp": udp(), "tcp": tcp("S"), "icmp": echo("echo-request", INSIDE, SERVER, 7)}
    runner.passes(others[kind])  # takes the port, so that it must change
    out = runner.passes(sent[kind])
    state = dict(runner.state)
    result = runner.send(icmp_error("10.1.1.1", PUBLIC, bytes(out)[:cut], 11, 0), True)
    assert result.packet is not None
    error = IP(result.packet)
    assert (error.src, error.dst, error[ICMP].type) == ("10.1.1.1", INSIDE, 11)
    original = bytes(IP(bytes(sent[kind])))
    assert bytes(error[IPerror]) == original[:cut], "the host sees the packet that it sent"
    assert runner.state == state, "an error does not touch the mapping (REQ-6)"
    if cut is None:
        assert result.packet == rebuilt(result.packet)


def test_errors_about_what_came_in_are_translated_inside_too_req_5() -> None:
    runner = nat()
    port_of(runner, 5000, OTHER_INSIDE)
    port = port_of(runner, 5000)
    assert port != 5000
    received = runner.passes(udp(SERVER, 53, PUBLIC, port), True)
    error = runner.passes(icmp_error(INSIDE, SERVER, received))
    assert (error.src, error.dst) == (PUBLIC, SERVER)
    inner = error[IPerror]
    assert (inner.src, inner.dst, error[UDPerror].dport) == (SERVER, PUBLIC, port)


def test_errors_without_mapping_or_with_bad_checksums_are_dropped_req_3_req_4() -> None:
    runner = nat()
    out = runner.passes(tcp("S"))
    assert out[TCP].sport == 5000
    stranger = icmp_error("10.1.1.1", PUBLIC, udp(PUBLIC, 5000))
    assert runner.dropped(stranger, True) == "no-mapping"
    foreign = icmp_error("10.1.1.1", PUBLIC, tcp("S", OTHER_INSIDE, 5000))
    assert runner.dropped(foreign, True) == "no-mapping"
    assert runner.dropped(icmp_error("10.1.1.1", "100.64.0.2", out), True) == "no-mapping"
    assert runner.dropped(icmp_error(INSIDE, SERVER, udp(SERVER, 53, INSIDE, 5000))) == "no-mapping"
    broken = bytearray(bytes(icmp_error("10.1.1.1", PUBLIC, out)))
    broken[-1] ^= 1
    assert runner.dropped(bytes(broken), True) == "malformed"
    good = runner.passes(icmp_error("10.1.1.1", PUBLIC, out), True)
    assert good[TCPerror].sport == 5000 and ICMPerror not in good


def test_zero_udp_checksum_stays_zero() -> None:
    packet = udp()
    packet[UDP].chksum = 0
    assert nat().passes(packet)[UDP].chksum == 0


def test_departures_are_as_documented() -> None:
    runner = nat()
    for piece in fragments(udp(payload=b"x" * 40)):
        assert runner.dropped(piece) == "fragment"
    assert runner.dropped(udp(destination=PUBLIC)) == "hairpin"
    assert runner.dropped(IP(src=INSIDE, dst=SERVER, proto=47) / b"gre!") == "unsupported"
    assert runner.dropped(IP(src=INSIDE, dst=SERVER) / ICMP(type=9)) == "unsupported"
    assert runner.state == {}
