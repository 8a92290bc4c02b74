"""The load balancer: connections stay at a backend, and the client sees the virtual address."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPerror6
from scapy.packet import Packet as ScapyPacket

from testbed.scenario.errors import InputError
from testbed.vnf.functions.lb_config import CONNECTION
from testbed.vnf.functions.load_balancer import make
from tests.support.functions_support import (
    ROUTER,
    ROUTER6,
    Runner,
    decoded,
    echo,
    fragments,
    icmp_error,
    tcp,
    udp,
)

HOUR_S = 3600
VIRTUAL = {4: "192.0.2.1", 6: "2001:db8::1"}
CLIENT = {4: "10.77.0.1", 6: "fd00:77::1"}
MIDDLE = {4: ROUTER, 6: ROUTER6}
BOTH = pytest.mark.parametrize("version", [4, 6])


def backend(number: int, version: int = 4) -> str:
    return f"10.88.0.{number}" if version == 4 else f"fd00:88::{number}"


def balancer(version: int = 4, count: int = 4, **config: Any) -> Runner:
    backends = [{"address": backend(number, version)} for number in range(1, count + 1)]
    return Runner(make({"virtual_address": VIRTUAL[version], "backends": backends, **config}))


def kinds(version: int) -> list[tuple[ScapyPacket, ScapyPacket]]:
    """A packet of a client and the answer of the backend at "::99" or ".99"."""
    client, virtual, server = CLIENT[version], VIRTUAL[version], backend(99, version)
    return [
        (udp(client, 5000, virtual, 53), udp(server, 53, client, 5000)),
        (tcp("S", client, 5000, virtual, 80), tcp("SA", server, 80, client, 5000)),
        (echo("echo-request", client, virtual, 9), echo("echo-reply", server, client, 9)),
    ]


def answer(packet: ScapyPacket, chosen: str) -> ScapyPacket:
    """`packet`, an answer, from the backend that was chosen."""
    packet.src = chosen
    return packet


@BOTH
@pytest.mark.parametrize("kind", range(3))
def test_there_and_back(version: int, kind: int) -> None:
    runner = balancer(version)
    request, response = kinds(version)[kind]
    there = runner.passes(request)
    assert there.dst in {backend(number, version) for number in range(1, 5)}
    assert there.src == CLIENT[version]
    back = runner.passes(answer(response, there.dst), True)
    assert (back.src, back.dst) == (VIRTUAL[version], CLIENT[version])
    for layer in (UDP, TCP):
        if layer in request:
            assert (there[layer].sport, there[layer].dport) == (5000, request[layer].dport)
            assert (back[layer].sport, back[layer].dport) == (request[layer].dport, 5000)
    assert back.haslayer(ICMPv6EchoReply if version == 6 else ICMP) == (kind == 2)
    assert there.haslayer(ICMPv6EchoRequest if version == 6 else ICMP) == (kind == 2)


@BOTH
def test_connections_spread_as_the_table_does(version: int) -> None:
    runner = balancer(version, 8)
    counts = dict.fromkeys((backend(number, version) for number in range(1, 9)), 0)
    for number in range(1600):
        counts[decoded(bytes(runner.passes(
            udp(CLIENT[version], 1024 + 7 * number, VIRTUAL[version], 53)))).dst] += 1  # fmt: skip
    # Independent draws: chi-square with 7 degrees of freedom is above 24.3 once in 1000.
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 24.3


def test_weights_draw_connections() -> None:
    runner = Runner(make({"virtual_address": VIRTUAL[4], "backends": [
        {"address": backend(1), "weight": 3}, {"address": backend(2)},
        {"address": backend(3), "weight": 0}]}))  # fmt: skip
    chosen = [runner.passes(udp(CLIENT[4], port, VIRTUAL[4], 53)).dst for port in range(1, 801)]
    assert set(chosen) == {backend(1), backend(2)}
    assert abs(chosen.count(backend(1)) - 600) < 4 * (800 * 0.75 * 0.25) ** 0.5


@BOTH
def test_connections_stay_when_backends_change(version: int) -> None:
    runner = balancer(version, 4)
    clients = [udp(CLIENT[version], port, VIRTUAL[version], 53) for port in range(1, 201)]
    chosen = [runner.passes(packet).dst for packet in clients]
    # The state goes on under the configuration of a balancer without the first backend.
    later = Runner(make({"virtual_address": VIRTUAL[version], "backends": [
        {"address": backend(number, version)} for number in (2, 3, 4, 5)]}))  # fmt: skip
    for field in ("head", "slots", "keys", "values", "buckets"):
        for records in (later.records, later.replica):
            getattr(records, field)[:] = getattr(runner.records, field)
    assert [later.passes(packet).dst for packet in clients] == chosen
    back = later.passes(udp(chosen[0], 53, CLIENT[version], 1), True)
    assert back.src == VIRTUAL[version], "one that left the list is still translated"
    fresh = {
        later.passes(udp(CLIENT[version], port, VIRTUAL[version], 53)).dst
        for port in range(300, 400)
    }
    assert fresh == {backend(number, version) for number in (2, 3, 4, 5)}


def test_two_instances_decide_alike() -> None:
    first, second = balancer(), balancer()
    for port in range(1, 100):
        packet = udp(CLIENT[4], port, VIRTUAL[4], 53)
        assert first.passes(packet).dst == second.passes(packet).dst


def test_only_the_service_is_touched() -> None:
    runner = balancer(port=80, protocol="tcp")
    same = [
        (udp(CLIENT[4], 1, VIRTUAL[4], 80), False),
        (tcp("S", CLIENT[4], 1, VIRTUAL[4], 81), False),
        (tcp("S", CLIENT[4], 1, "192.0.2.2", 80), False),
        (IP(src=CLIENT[4], dst=VIRTUAL[4], proto=47) / b"opaque", False),
        (udp("fd00::1", 1, VIRTUAL[6], 80), False),
        (tcp("SA", backend(1), 80, CLIENT[4], 1), True),
        (echo("echo-reply", backend(1), CLIENT[4]), True),
        (IP(src=backend(1), dst=CLIENT[4]) / ICMP(type=9), True),
        (fragments(udp(CLIENT[4], 1, backend(9), 2, b"x" * 60))[1], False),
        (fragments(udp(CLIENT[4], 1, backend(9), 2, b"x" * 60))[1], True),
    ]
    for packet, reverse in same:
        assert runner.send(packet, reverse).packet == bytes(packet)
    assert runner.state == {}
    out = runner.passes(tcp("S", CLIENT[4], 1, VIRTUAL[4], 80))
    assert out.dst != VIRTUAL[4]
    other = next(backend(number) for number in range(1, 5) if backend(number) != out.dst)
    stranger = tcp("SA", other, 80, CLIENT[4], 1)
    assert runner.send(stranger, True).packet == bytes(stranger), "it serves this client not"


def test_a_single_backend_with_the_virtual_address_changes_no_packet() -> None:
    runner = Runner("lb", {"virtual_address": "10.77.0.2", "backends": [{"address": "10.77.0.2"}]})
    for packet, reverse in (
        (udp(), False),
        (tcp("S"), False),
        (udp("10.77.0.2", 53, "10.77.0.1", 5000), True),
    ):
        assert runner.send(packet, reverse).packet == bytes(packet)


@BOTH
@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("from_backend", [True, False])
def test_errors_to_the_client_show_what_it_sent(
    version: int, kind: int, from_backend: bool
) -> None:
    runner = balancer(version)
    sent = kinds(version)[kind][0]
    out = runner.passes(sent)
    state = runner.state
    source = out.dst if from_backend else MIDDLE[version]
    error = runner.passes(icmp_error(source, CLIENT[version], bytes(out)), True)
    assert error.src == (VIRTUAL[version] if from_backend else source)
    assert error.dst == CLIENT[version]
    whole = bytes(decoded(bytes(sent)))
    assert bytes(error)[-len(whole) :] == whole
    assert runner.state == state


@BOTH
def test_errors_to_the_backend_show_what_it_sent(version: int) -> None:
    runner = balancer(version)
    chosen = runner.passes(udp(CLIENT[version], 5000, VIRTUAL[version], 53)).dst
    response = udp(chosen, 53, CLIENT[version], 5000)
    seen = runner.passes(response, True)
    for source in (CLIENT[version], MIDDLE[version]):
        error = runner.passes(icmp_error(source, VIRTUAL[version], bytes(seen)))
        assert (error.src, error.dst) == (source, chosen)
        assert error[IPerror6 if version == 6 else IPerror].src == chosen
        assert error[UDPerror].sport == 53
    if version == 4:
        cut = runner.passes(icmp_error(CLIENT[4], VIRTUAL[4], bytes(seen)[:28]))
        assert cut.dst == chosen


@BOTH
def test_errors_about_no_connection(version: int) -> None:
    runner = balancer(version)
    client, virtual = CLIENT[version], VIRTUAL[version]
    chosen = runner.passes(udp(client, 5000, virtual, 53)).dst
    stranger = icmp_error(client, virtual, udp(virtual, 53, client, 5001))
    assert runner.dropped(stranger) == "no-connection"
    assert runner.dropped(icmp_error(client, virtual, udp(chosen, 53, client, 5000))) == (
        "no-connection"
    )
    broken = bytearray(bytes(icmp_error(client, virtual, udp(virtual, 53, client, 5000))))
    broken[-1] ^= 1
    assert runner.dropped(bytes(broken)) == "malformed"
    others = icmp_error(MIDDLE[version], client, udp(client, 5001, chosen, 53))
    assert runner.send(others, True).packet == bytes(others)


@BOTH
def test_fragments_are_dropped_as_documented(version: int) -> None:
    runner = balancer(version)
    for piece in fragments(udp(CLIENT[version], 1, VIRTUAL[version], 2, b"x" * 60)):
        assert runner.dropped(piece) == "fragment"
    for piece in fragments(udp(backend(1, version), 2, CLIENT[version], 1, b"x" * 60)):
        assert runner.dropped(piece, True) == "fragment"
    assert runner.state == {}


def test_timers() -> None:
    def entry(runner: Runner) -> tuple[int, ...]:
        return next(iter(runner.tagged(CONNECTION).values()))

    def left_s(runner: Runner, at_s: float) -> float:
        return (entry(runner)[0] - (1000 + at_s) * 1e9) / 1e9

    client, virtual = CLIENT[4], VIRTUAL[4]
    runner = balancer()
    chosen = runner.passes(udp(client, 5000, virtual, 53)).dst
    assert left_s(runner, 0) == 301
    runner.passes(udp(chosen, 53, client, 5000), True, at_s=200)
    assert left_s(runner, 200) == 301, "answers refresh"
    late = udp(chosen, 53, client, 5000)
    assert runner.send(late, True, at_s=502).packet == bytes(late), "it has ended"

    runner = balancer()
    chosen = runner.passes(tcp("S", client, 5000, virtual, 80)).dst
    assert left_s(runner, 0) == 241
    runner.passes(tcp("SA", chosen, 80, client, 5000), True, at_s=1)
    assert left_s(runner, 1) == 7441
    runner.passes(tcp("FA", client, 5000, virtual, 80), at_s=2)
    runner.passes(tcp("FA", chosen, 80, client, 5000), True, at_s=3)
    assert left_s(runner, 3) == 241
    assert runner.passes(tcp("S", client, 5000, virtual, 80), at_s=4).dst == chosen
    assert entry(runner)[1] == 1, "a new connection, just opened"

    runner = balancer()
    runner.passes(tcp("A", client, 5000, virtual, 80))
    assert left_s(runner, 0) == 7441, "seen from the middle on"
    runner = balancer()
    runner.passes(echo("echo-request", client, virtual))
    assert left_s(runner, 0) == 61


def test_a_busy_connection_writes_about_once_a_second() -> None:
    runner = balancer()
    packet = udp(CLIENT[4], 5000, VIRTUAL[4], 53)
    writes = sum(bool(runner.send(packet, at_s=step / 100).operations) for step in range(1000))
    assert 9 <= writes <= 11


def test_a_full_table_makes_room_and_hashing_remembers() -> None:
    runner = balancer(max_connections=16)
    packets = [udp(CLIENT[4], port, VIRTUAL[4], 53) for port in range(1, 101)]
    chosen = [runner.passes(packet, at_s=at_s).dst for at_s, packet in enumerate(packets)]
    assert len(runner.tagged(CONNECTION)) == 16
    assert [runner.passes(packet, at_s=200).dst for packet in packets] == chosen


def test_arbitrary_packets_never_fail() -> None:
    rng = random.Random(5)
    for version in (4, 6):
        runner = balancer(version, max_connections=8)
        seeds = [bytes(packet) for pair in kinds(version) for packet in pair]
        seeds += [bytes(icmp_error(CLIENT[version], VIRTUAL[version], seed)) for seed in seeds]
        for number in range(1500):
            raw = bytearray(rng.choice(seeds))
            for _ in range(rng.randrange(3)):
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            runner.send(bytes(raw[: rng.choice((None, None, rng.randrange(1, 80)))]),
                        rng.random() < 0.5, number)  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"virtual_address": None}, "lb.virtual_address"),
        ({"backends": []}, "lb.backends"),
        ({"backends": None}, "lb.backends"),
        ({"backends": ["10.0.0.1"]}, "lb.backends[0]"),
        ({"backends": [{"address": "fd00::1"}]}, "lb.backends[0].address"),
        ({"backends": [{"address": "10.0.0.1", "weight": -1}]}, "lb.backends[0].weight"),
        ({"backends": [{"address": "10.0.0.1", "weight": 0}]}, "lb.backends"),
        ({"backends": [{"address": "10.0.0.1"}] * 2}, "lb.backends"),
        ({"backends": [{"address": "10.0.0.1", "port": 1}]}, "lb.backends[0] configuration"),
        ({"table_size": 65_536}, "lb.table_size"),
        ({"table_size": 2, "backends": [{"address": f"10.0.0.{n}"} for n in (1, 2)]},
         "lb.table_size"),
        ({"port": 65_536}, "lb.port"),
        ({"protocol": "icmp"}, "lb.protocol"),
        ({"tcp_established_timeout_s": 7439}, "lb.tcp_established_timeout_s"),
        ({"max_connections": 0}, "lb.max_connections"),
        ({"x": 1}, "lb configuration"),
    ],
)  # fmt: skip
def test_bad_configuration_is_refused(bad: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        make({"virtual_address": VIRTUAL[4], "backends": [{"address": "10.88.0.1"}], **bad})
    assert caught.value.field == field


def test_the_table_lies_in_the_configuration() -> None:
    function = make({"virtual_address": VIRTUAL[4], "table_size": 251, "backends": [
        {"address": backend(number)} for number in (1, 2)]})  # fmt: skip
    shares = np.bincount(function.config[-251:])
    assert shares.tolist() == [126, 125]
