"""Traffic monitor: counts, totals, bound."""

from __future__ import annotations

import random
from collections import Counter

from scapy.packet import Packet as ScapyPacket

from testbed.vnf.functions.packet import Packet, parse
from testbed.vnf.functions.traffic_monitor import TOTALS_KEY, flow_key
from tests.unit.functions_support import INSIDE, SERVER, Runner, S, echo, fragments, tcp, udp


def counters(runner: Runner, packet: ScapyPacket) -> object:
    """The counters of the packet's flow."""
    parsed = parse(bytes(packet))
    assert isinstance(parsed, Packet)
    return runner.state.get(flow_key(parsed.key))


def test_flow_counters_and_packets_go_on_unchanged() -> None:
    runner = Runner("tm")
    for at_s, payload in ((1, b""), (2, b"x" * 100), (5, b"y")):
        packet = udp(payload=payload)
        assert bytes(runner.passes(packet, at_s=at_s)) == bytes(packet)
    assert counters(runner, udp()) == (3, 3 * 28 + 101, 1001 * S, 1005 * S)
    assert counters(runner, udp(SERVER, 53, INSIDE, 5000)) is None
    runner.passes(udp(SERVER, 53, INSIDE, 5000), reverse=True, at_s=6)
    assert counters(runner, udp(SERVER, 53, INSIDE, 5000)) == (1, 35, 1006 * S, 1006 * S)
    assert runner.state[TOTALS_KEY] == (4, 3 * 28 + 101 + 35, 0)


def test_link_padding_is_not_counted() -> None:
    runner = Runner("tm")
    result = runner.send(bytes(udp()) + b"\0" * 11)
    assert result.packet == bytes(udp())
    assert runner.state[TOTALS_KEY] == (1, 35, 0)


def test_counts_equal_a_reference_over_many_packets() -> None:
    rng = random.Random(3)
    runner, packets, octets = Runner("tm"), Counter[bytes](), Counter[bytes]()
    for _ in range(1500):
        number = rng.randrange(9)
        made = (
            udp(sport=number, dport=rng.randrange(3)),
            tcp("A", sport=number),
            echo("echo-request", INSIDE, SERVER, number),
        )
        raw = bytes(rng.choice(made))
        runner.send(raw)
        five_tuple = raw[9:10] + raw[12:20] + (raw[20:24] if raw[9] != 1 else raw[24:26] * 2)
        packets[five_tuple] += 1
        octets[five_tuple] += len(raw)
    flows = {key[1:]: value[:2] for key, value in runner.state.items() if key[:1] == b"f"}  # type: ignore[index]
    assert flows == {key: (packets[key], octets[key]) for key in packets}
    assert runner.state[TOTALS_KEY] == (1500, sum(octets.values()), 0)


def test_fragments_after_the_first_count_by_address() -> None:
    runner = Runner("tm")
    first, *rest = fragments(udp(payload=b"x" * 64))
    for piece in (first, *rest):
        runner.passes(piece)
    assert counters(runner, first) == (1, 44, 1000 * S, 1000 * S)
    assert counters(runner, rest[0]) == (2, 44 + 44, 1000 * S, 1000 * S)


def test_flows_are_bounded_and_the_idle_one_leaves() -> None:
    runner = Runner("tm", {"max_flows": 4})
    for sport in range(4):
        runner.passes(udp(sport=sport), at_s=sport)
    runner.passes(udp(sport=0), at_s=10)
    runner.passes(udp(sport=9), at_s=11)
    assert counters(runner, udp(sport=1)) is None
    assert all(counters(runner, udp(sport=sport)) for sport in (0, 2, 3, 9))
    for sport in range(100, 200):
        runner.passes(udp(sport=sport), at_s=sport)
    assert sum(key[:1] == b"f" for key in runner.state) == 4
    assert runner.state[TOTALS_KEY] == (106, 106 * 35, 101)


def test_malformed_packets_are_not_counted() -> None:
    runner = Runner("tm")
    assert runner.dropped(b"\x45" * 30) == "malformed"
    assert runner.state == {}
