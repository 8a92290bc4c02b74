"""Video optimisation controller: two-rate meter (RFC 2698) and marking (RFC 2597)."""

from __future__ import annotations

import random
from fractions import Fraction

from scapy.layers.inet import IP
from scapy.packet import Packet as ScapyPacket

from tests.unit.functions_support import INSIDE, OTHER_INSIDE, SERVER, Runner, tcp, udp

AF41, AF43 = 34, 38


def packet(l3_bytes: int = 100, tos: int = 0, source: str = INSIDE) -> ScapyPacket:
    """A UDP packet of `l3_bytes`."""
    made = udp(source, payload=b"v" * (l3_bytes - 28))
    made.tos = tos
    return made


def colour(runner: Runner, sent: ScapyPacket, at_s: float = 0, reverse: bool = False) -> str:
    """green, yellow or red, from what became of the packet."""
    result = runner.send(sent, reverse, at_s)
    if result.packet is None:
        assert result.reason == "policed"
        return "red"
    marked = IP(result.packet)
    assert marked.tos & 3 == sent.tos & 3
    return {AF41: "green", AF43: "yellow"}[marked.tos >> 2]


def test_ordinary_traffic_conforms_and_is_marked_af41() -> None:
    runner = Runner("voc")
    for number in range(200):
        marked = runner.passes(packet(1400), at_s=number / 5000)
        assert marked.tos >> 2 == AF41
        original = packet(1400, AF41 << 2)
        assert bytes(marked) == bytes(original)


def test_ecn_stays_and_a_right_mark_is_left_alone() -> None:
    runner = Runner("voc")
    for ecn in range(4):
        assert runner.passes(packet(tos=0xFC | ecn)).tos == AF41 << 2 | ecn
    sent = packet(tos=AF41 << 2 | 1)
    assert bytes(runner.passes(sent)) == bytes(sent)


def test_colours_of_a_burst_and_refill() -> None:
    # 8000 bit/s = 1000 B/s, 300 B committed, 600 B peak.
    runner = Runner("voc", {"rate_bps": 8000, "burst_bytes": 300})
    burst = [colour(runner, packet()) for _ in range(8)]
    assert burst == ["green"] * 3 + ["yellow"] * 3 + ["red"] * 2
    assert colour(runner, packet(), 0.049) == "red"
    assert colour(runner, packet(), 0.05) == "yellow", "the peak bucket fills at twice the rate"
    assert colour(runner, packet(), 0.1) == "green", "red and yellow take no committed tokens"
    assert [colour(runner, packet(), 100) for _ in range(7)] == burst[:7], "buckets have a size"


def test_meter_equals_rfc_2698_in_exact_arithmetic() -> None:
    rng, rate_bps, burst = random.Random(2698), 1_234_567, 3000
    runner = Runner("voc", {"rate_bps": rate_bps, "burst_bytes": burst})
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
    runner = Runner("voc", {"rate_bps": 8, "burst_bytes": 100})
    assert [colour(runner, packet()) for _ in range(3)] == ["green", "yellow", "red"]
    assert colour(runner, packet(source=OTHER_INSIDE)) == "green"
    back = udp(SERVER, 53, INSIDE, 5000, b"v" * 72)
    assert colour(runner, back, reverse=True) == "green"
    assert colour(runner, tcp("A", payload=b"v" * 60)) == "green"


def test_time_that_stands_still_or_goes_back_gives_no_tokens() -> None:
    runner = Runner("voc", {"rate_bps": 8_000_000, "burst_bytes": 100})
    assert [colour(runner, packet(), 5) for _ in range(2)] == ["green", "yellow"]
    assert colour(runner, packet(), 4) == "red"


def test_buckets_are_bounded_and_largest_configuration_travels() -> None:
    runner = Runner("voc", {"rate_bps": 10**12, "burst_bytes": 10**9, "max_flows": 4})
    for sport in range(50):
        runner.passes(udp(sport=sport), at_s=sport)
    assert sum(key[:1] == b"b" for key in runner.state) == 4
