"""Video optimisation controller: two-rate meter (RFC 2698) and marking (RFC 2597)."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from scapy.packet import Packet as ScapyPacket

from testbed.vnf.functions.voc import FLOW_TAG, SLOT_TAG
from testbed.vnf.state.records import COUNT
from tests.support.functions_support import (
    INSIDE,
    INSIDE6,
    OTHER_INSIDE,
    SERVER,
    SERVER6,
    Runner,
    decoded,
    echo,
    fragments,
    tcp,
    udp,
    udp6,
)

AF41, AF43 = 34, 38
FEW = {"max_flows": 16}


def packet(l3_bytes: int = 100, tos: int = 0, source: str = INSIDE) -> ScapyPacket:
    """A UDP packet of `l3_bytes`."""
    if ":" in source:
        made = udp6(source, payload=b"v" * (l3_bytes - 48))
        made.tc = tos
        return made
    made = udp(source, payload=b"v" * (l3_bytes - 28))
    made.tos = tos
    return made


def tos_of(marked: ScapyPacket) -> int:
    """DSCP and ECN of either version."""
    return int(marked.tc if marked.version == 6 else marked.tos)


def colour(runner: Runner, sent: ScapyPacket, at_s: float = 0, reverse: bool = False) -> str:
    """green, yellow or red, from what became of the packet."""
    result = runner.send(sent, reverse, at_s)
    if result.packet is None:
        assert result.reason == "policed"
        return "red"
    tos = tos_of(decoded(result.packet))
    assert tos & 3 == tos_of(sent) & 3
    return {AF41: "green", AF43: "yellow"}[tos >> 2]


@pytest.mark.parametrize("source", [INSIDE, INSIDE6])
def test_ordinary_traffic_conforms_and_is_marked_af41(source: str) -> None:
    runner = Runner("voc", FEW)
    for number in range(200):
        marked = runner.passes(packet(1400, source=source), at_s=number / 5000)
        assert tos_of(marked) >> 2 == AF41
        assert bytes(marked) == bytes(packet(1400, AF41 << 2, source))


@pytest.mark.parametrize("source", [INSIDE, INSIDE6])
def test_ecn_stays_and_a_right_mark_is_left_alone(source: str) -> None:
    runner = Runner("voc", FEW)
    for ecn in range(4):
        marked = runner.passes(packet(tos=0xFC | ecn, source=source))
        assert bytes(marked) == bytes(packet(tos=AF41 << 2 | ecn, source=source))
    sent = packet(tos=AF41 << 2 | 1, source=source)
    assert bytes(runner.passes(sent)) == bytes(sent)


def test_a_flow_label_stays() -> None:
    sent = packet(source=INSIDE6)
    sent.fl = 0xABCDE
    assert Runner("voc", FEW).passes(sent).fl == 0xABCDE


@pytest.mark.parametrize("source", [INSIDE, INSIDE6])
def test_colours_of_a_burst_and_refill(source: str) -> None:
    # 8000 bit/s = 1000 B/s, 300 B committed, 600 B peak.
    runner = Runner("voc", {"rate_bps": 8000, "burst_bytes": 300, **FEW})
    sent = packet(source=source)
    burst = [colour(runner, sent) for _ in range(8)]
    assert burst == ["green"] * 3 + ["yellow"] * 3 + ["red"] * 2
    assert colour(runner, sent, 0.049) == "red"
    assert colour(runner, sent, 0.05) == "yellow", "the peak bucket fills at twice the rate"
    assert colour(runner, sent, 0.1) == "green", "red and yellow take no committed tokens"
    assert [colour(runner, sent, 100) for _ in range(7)] == burst[:7], "buckets have a size"


def test_meter_equals_rfc_2698_in_exact_arithmetic() -> None:
    rng, rate_bps, burst = random.Random(2698), 1_234_567, 3000
    runner = Runner("voc", {"rate_bps": rate_bps, "burst_bytes": burst, **FEW})
    committed, peak = Fraction(burst), Fraction(2 * burst)
    at_ns = last_ns = 0
    seen = set()
    for _ in range(1500):
        at_ns += rng.randrange(1, 4_200_000)
        size = rng.randrange(28, 1400)
        gained = Fraction((at_ns - last_ns) * rate_bps, 8 * 10**9)
        committed = min(Fraction(burst), committed + gained)
        peak = min(Fraction(2 * burst), peak + 2 * gained)
        last_ns = at_ns
        expected = "red" if peak < size else "yellow" if committed < size else "green"
        peak -= size if expected != "red" else 0
        committed -= size if expected == "green" else 0
        assert colour(runner, packet(size), at_ns / 1e9) == expected
        seen.add(expected)
    assert seen == {"red", "yellow", "green"}


def test_flows_and_directions_have_their_own_buckets() -> None:
    runner = Runner("voc", {"rate_bps": 8, "burst_bytes": 100, **FEW})
    assert [colour(runner, packet()) for _ in range(3)] == ["green", "yellow", "red"]
    assert colour(runner, packet(source=OTHER_INSIDE)) == "green"
    assert colour(runner, udp(SERVER, 53, INSIDE, 5000, b"v" * 72), reverse=True) == "green"
    assert colour(runner, udp6(SERVER6, 53, INSIDE6, 5000, b"v" * 52), reverse=True) == "green"
    assert colour(runner, tcp("A", payload=b"v" * 60)) == "green"
    assert colour(runner, echo("echo-request", INSIDE, SERVER)) == "green"


@pytest.mark.parametrize("make", [udp, udp6])
def test_fragments_after_the_first_share_a_bucket(make: type) -> None:
    first, *rest = fragments(make(payload=b"v" * 88))
    runner = Runner("voc", {"rate_bps": 8, "burst_bytes": len(rest[0]), **FEW})
    assert colour(runner, first) == "green"
    assert [colour(runner, rest[0]) for _ in range(3)] == ["green", "yellow", "red"]
    assert colour(runner, rest[1]) == "red"


def test_time_that_stands_still_or_goes_back_gives_no_tokens() -> None:
    runner = Runner("voc", {"rate_bps": 8_000_000, "burst_bytes": 100, **FEW})
    assert [colour(runner, packet(), 5) for _ in range(2)] == ["green", "yellow"]
    assert colour(runner, packet(), 4) == "red"


def test_largest_and_smallest_configuration_do_not_overflow() -> None:
    runner = Runner("voc", {"rate_bps": 10**12, "burst_bytes": 10**9, **FEW})
    for at_s in (0, 1e-9, 1e-3, 1, 1e3, 1e6, 3e9):
        assert colour(runner, packet(), at_s) == "green"
    full = 8 * 10**9 * 10**9
    bucket = next(iter(runner.tagged(FLOW_TAG).values()))
    assert bucket[1:3] == (full - 100 * 8 * 10**9, full - 100 * 4 * 10**9)
    slow = Runner("voc", {"rate_bps": 1, "burst_bytes": 10**9, **FEW})
    for at_s in (0, 1, 1e9, 4e9):
        assert colour(slow, packet(), at_s) == "green"


def test_buckets_are_bounded() -> None:
    runner = Runner("voc", {"max_flows": 4})
    for sport in range(50):
        runner.passes(udp(sport=sport), at_s=sport)
    assert len(runner.tagged(FLOW_TAG)) == 4
    assert len(runner.tagged(SLOT_TAG)) == 5
    assert runner.records.head[COUNT] == runner.function.capacity
    assert {key[0] >> 16 & 0xFFFF for key in runner.tagged(FLOW_TAG)} == {46, 47, 48, 49}


def test_malformed_packets_take_no_tokens() -> None:
    runner = Runner("voc", FEW)
    for raw in (b"", b"\x45" * 30, bytes(udp())[:-1], bytes(udp6())[:-1]):
        assert runner.dropped(raw) == "malformed"
    assert runner.state == {}
