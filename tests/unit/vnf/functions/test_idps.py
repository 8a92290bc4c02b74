"""Intrusion detection and prevention: signatures, streams and the port-scan detector."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet as ScapyPacket

from testbed.vnf.functions.idps import COUNT_TAG, MAX_NOTED, STREAM_SLOT_TAG, STREAM_TAG
from testbed.vnf.functions.port_scans import (
    PAIR_SLOT_TAG,
    PAIR_TAG,
    PAIRS,
    SOURCE_SLOT_TAG,
    SOURCE_TAG,
)
from testbed.vnf.functions.sharing import Scope, scope_of
from testbed.vnf.functions.signatures import DEFAULT_SIGNATURES
from testbed.vnf.state.records import COUNT
from tests.support.functions_support import (
    INSIDE,
    INSIDE6,
    OTHER_INSIDE,
    SERVER,
    SERVER6,
    Runner,
    fragments,
    tcp,
    tcp6,
    udp,
    udp6,
)

SMALL = {"max_sources": 64, "max_pairs": 256, "max_streams": 64}


def idps(**config: Any) -> Runner:
    """The function with small tables."""
    return Runner("idps", {**SMALL, **config})


def counted(runner: Runner, rule: int) -> int:
    """Packets that matched the rule."""
    return runner.state.get((COUNT_TAG << 56 | rule, 0, 0, 0, 0), (0,))[0]


@pytest.mark.parametrize("make", [udp, udp6])
@pytest.mark.parametrize("number", range(len(DEFAULT_SIGNATURES)))
def test_built_in_signatures(number: int, make: Callable[..., ScapyPacket]) -> None:
    signature = DEFAULT_SIGNATURES[number]
    runner = idps()
    sent = make(payload=b"before " + signature.pattern + b" after")
    if signature.drop:
        assert runner.dropped(sent) == "signature"
    else:
        assert bytes(runner.passes(sent)) == bytes(sent)
    assert counted(runner, number) == 1
    assert runner.passes(make(payload=signature.pattern[:-1]))
    assert [counted(runner, other) for other in range(9)] == [int(n == number) for n in range(9)]


def test_text_hex_and_actions() -> None:
    patterns = [
        "needle",
        "hex:00ff80",
        {"name": "only a note", "pattern": "hay", "action": "alert"},
    ]
    runner = idps(patterns=patterns)
    assert runner.dropped(udp(payload=b"a needle in")) == "signature"
    assert runner.dropped(udp(payload=b"\x01\x00\xff\x80\x01")) == "signature"
    assert runner.passes(udp(payload=b"hay hay hay"))
    assert runner.dropped(udp(payload=b"needle in the hay")) == "signature"
    assert [counted(runner, number) for number in range(3)] == [2, 1, 2]
    assert runner.passes(udp(payload=b"Needle"))
    assert idps(patterns=[]).passes(udp(payload=b"${jndi:"))


def test_overlapping_patterns_and_a_reference_search() -> None:
    patterns = ["abcd", "bc", "bcde", "cab", "hex:6161"]
    fixed = [b"abcd", b"bc", b"bcde", b"cab", b"aa"]
    runner = idps(patterns=[{"pattern": p, "action": "alert"} for p in patterns])
    rng, expected = random.Random(5), [0] * len(fixed)
    for _ in range(500):
        payload = bytes(rng.choice(b"abcde") for _ in range(rng.randrange(12)))
        runner.passes(udp(payload=payload))
        expected = [n + (pattern in payload) for n, pattern in zip(expected, fixed, strict=True)]
    assert [counted(runner, number) for number in range(5)] == expected


def test_a_packet_that_matches_more_rules_than_it_counts_is_dropped_all_the_same() -> None:
    letters = [chr(c) for c in range(48, 48 + MAX_NOTED + 5)]
    alerts = [{"pattern": letter, "action": "alert"} for letter in letters[:-1]]
    runner = idps(patterns=[*alerts, letters[-1]])
    assert runner.dropped(udp(payload="".join(letters).encode() * 5)) == "signature"
    assert [counted(runner, n) for n in range(len(letters))] == [1] * MAX_NOTED + [0] * 5


def test_headers_are_not_searched_and_tcp_options_neither() -> None:
    runner = idps(patterns=["hex:0a4d0001", "hex:cafecafe"])
    assert runner.passes(udp(INSIDE))  # 10.77.0.1 is 0a4d0001
    options = [("Timestamp", (0xCAFECAFE, 0))]
    for header in (IP(src=INSIDE, dst=SERVER), IPv6(src=INSIDE6, dst=SERVER6)):
        segment = header / TCP(flags="A", options=options)
        assert b"\xca\xfe\xca\xfe" in bytes(segment)
        assert runner.passes(segment / b"payload")
        assert runner.dropped(segment / b"\xca\xfe\xca\xfe") == "signature"
    for opaque in (
        IP(proto=47, src=INSIDE, dst=SERVER),
        IPv6(nh=47, src=INSIDE6, dst=SERVER6),
    ):
        assert runner.dropped(opaque / b"\xca\xfe\xca\xfe") == "signature"


def test_padding_is_not_searched() -> None:
    sent = udp(payload=b"x")
    assert idps(patterns=["needle"]).send(sent, padding=b"needle").packet == bytes(sent)


@pytest.mark.parametrize("make", [udp, udp6])
def test_fragments_are_searched_one_by_one(make: Callable[..., ScapyPacket]) -> None:
    runner = idps(patterns=["needle"])
    first, second, third = fragments(make(payload=b"x" * 30 + b"needle" + b"x" * 28))
    assert runner.passes(first) and runner.passes(third)
    assert runner.dropped(second) == "signature"


def segment(sequence: int, payload: bytes, flags: str = "A", sport: int = 5000) -> ScapyPacket:
    """A TCP segment with a sequence number."""
    made = tcp(flags, sport=sport, payload=payload)
    made[TCP].seq = sequence
    return made


def test_a_pattern_over_the_border_of_segments_is_found_again_and_again() -> None:
    runner = idps(patterns=["needle"])
    assert runner.passes(segment(100, b"a nee"))
    assert runner.dropped(segment(105, b"dle in")) == "signature"
    assert runner.dropped(segment(105, b"dle in")) == "signature", "sent again"
    assert counted(runner, 0) == 2
    assert runner.passes(segment(106, b"dle in")), "not the next byte"
    assert runner.passes(segment(105, b"dle in", sport=5001)), "another flow"


def test_a_pattern_over_three_segments_and_the_wrap_of_sequence_numbers() -> None:
    runner = idps(patterns=["needle"])
    assert runner.passes(segment(0xFFFFFFFD, b"n"))
    assert runner.passes(segment(0xFFFFFFFE, b"ee"))
    assert runner.dropped(segment(0, b"dle")) == "signature"
    assert runner.passes(segment(0xFFFFFFFF, b"n", "S"))
    assert runner.dropped(segment(1, b"eedle")) == "signature", "SYN takes a number"


def test_streams_end_after_a_time_and_are_bounded() -> None:
    runner = idps(patterns=["needle"], max_streams=4)
    assert runner.passes(segment(0, b"nee"), at_s=0)
    assert runner.passes(segment(3, b"dle"), at_s=60)
    for sport in range(50):
        assert runner.passes(segment(0, b"nee", sport=sport), at_s=100 + sport)
    assert len(runner.tagged(STREAM_TAG)) == 4 and len(runner.tagged(STREAM_SLOT_TAG)) == 5
    assert runner.dropped(segment(3, b"dle", sport=49), at_s=150) == "signature"
    assert runner.passes(segment(3, b"dle", sport=10), at_s=150)


def test_segments_that_end_outside_a_pattern_write_nothing() -> None:
    runner = idps(patterns=["needle"])
    for number in range(10):
        assert runner.send(segment(number * 10, b"0123456789")).operations == ()


def test_udp_and_fragments_are_no_streams() -> None:
    runner = idps(patterns=["needle"])
    assert runner.passes(udp(payload=b"nee"))
    assert runner.passes(udp(payload=b"dle"))
    pieces = fragments(segment(0, b"x" * 25 + b"nee"))
    for piece in pieces:
        assert runner.passes(piece)
    assert runner.tagged(STREAM_TAG) == {}


@settings(max_examples=60, deadline=None)
@given(
    raw=st.binary(min_size=1, max_size=60),
    cuts=st.lists(st.integers(1, 59), max_size=6),
    start=st.integers(0, 0xFFFFFFFF),
)
def test_a_stream_in_order_is_searched_as_a_whole(raw: bytes, cuts: list[int], start: int) -> None:
    text = bytes(b % 3 + 97 for b in raw)
    runner = idps(patterns=["abca", "bb", "ccc"])
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for begin, end in itertools.pairwise(borders):
        seen = text[:end]
        hit = any(
            seen[at - len(p) : at] == p
            for p in (b"abca", b"bb", b"ccc")
            for at in range(max(begin + 1, len(p)), end + 1)
        )
        result = runner.send(segment((start + begin) & 0xFFFFFFFF, text[begin:end]))
        assert (result.packet is None) == hit
        if hit:
            return


Ask = Callable[[str, int], ScapyPacket]


def scanner(**config: int) -> Runner:
    """A detector that allows 5 ports in 10 s and blocks for 60 s."""
    return idps(scan_ports=5, **config)


@pytest.mark.parametrize(
    ("syn", "ack", "datagram", "other"),
    [(tcp, tcp, udp, OTHER_INSIDE), (tcp6, tcp6, udp6, "fd00:77::a")],
)
def test_more_ports_than_allowed_block_the_source_for_a_time(
    syn: Any, ack: Any, datagram: Any, other: str
) -> None:
    runner = scanner()
    for number in range(5):
        assert runner.passes(syn("S", dport=number + 1), at_s=number)
        again = runner.send(syn("S", dport=number + 1), at_s=number)
        assert again.packet is not None and again.operations == (), "the same port again"
    assert runner.dropped(syn("S", dport=6), at_s=5) == "port-scan"
    assert runner.dropped(ack("A", dport=1), at_s=6) == "blocked"
    assert runner.dropped(datagram(dport=1), at_s=64.9) == "blocked"
    assert runner.passes(datagram(other, dport=1), at_s=6), "others go on"
    assert runner.passes(datagram(dport=1), at_s=65)
    for port in range(2, 6):
        assert runner.passes(datagram(dport=port), at_s=66)
    assert runner.dropped(datagram(dport=7), at_s=67) == "port-scan", "counting starts anew"


@pytest.mark.parametrize(
    ("make", "network"), [(udp, "10.77.3.{}"), (udp6, "fd00:77::3:{}"), (tcp, "10.77.3.{}")]
)
def test_one_port_of_many_destinations_is_a_scan_too(make: Any, network: str) -> None:
    runner = scanner()
    asked = [("S",) if make is tcp else () for _ in range(6)]
    for host in range(5):
        assert runner.passes(make(*asked[host], destination=network.format(host), dport=22))
    assert runner.dropped(make(*asked[5], destination=network.format(5), dport=22)) == "port-scan"


def test_slow_asking_is_no_scan() -> None:
    runner = scanner()
    for port in range(1, 60):
        assert runner.passes(udp(dport=port), at_s=port * 2.5)


def test_a_port_that_was_asked_for_in_an_old_window_counts_again() -> None:
    runner = scanner()
    for window in range(3):
        for port in range(1, 6):
            assert runner.passes(udp(dport=port), at_s=window * 10 + port / 10)
    assert runner.dropped(udp(dport=6), at_s=21) == "port-scan"


def test_a_block_shorter_than_the_window() -> None:
    runner = scanner(scan_block_s=1)
    for port in range(1, 6):
        assert runner.passes(udp(dport=port), at_s=0)
    assert runner.dropped(udp(dport=6), at_s=1) == "port-scan"
    assert runner.dropped(udp(dport=6), at_s=1.9) == "blocked"
    for port in range(1, 6):
        assert runner.passes(udp(dport=port), at_s=2)
    assert runner.dropped(udp(dport=6), at_s=3) == "port-scan"


def test_answers_and_established_segments_are_no_asking() -> None:
    runner = scanner()
    for port in range(1, 60):
        assert runner.passes(udp(SERVER, 53, INSIDE, port), reverse=True)
        assert runner.passes(tcp("SA", SERVER, 80, INSIDE, port), reverse=True)
        assert runner.passes(tcp("A", dport=port))
    assert runner.state == {}
    for port in range(1, 6):
        assert runner.passes(tcp("S", SERVER, 80, INSIDE, port), reverse=True)
    assert runner.dropped(tcp("S", SERVER, 80, INSIDE, 6), reverse=True) == "port-scan"


def test_sources_are_bounded_and_blocked_ones_stay() -> None:
    runner = scanner(max_sources=4)
    for port in range(1, 6):
        runner.passes(udp(dport=port))
    assert runner.dropped(udp(dport=6)) == "port-scan"
    for host in range(1, 100):
        assert runner.passes(udp(f"10.77.1.{host}"), at_s=host / 10)
    assert len(runner.tagged(SOURCE_TAG)) == 4
    assert len(runner.tagged(SOURCE_SLOT_TAG)) == 4, "no hand, for which all instances would wait"
    assert runner.dropped(udp(), at_s=10) == "blocked"


def test_a_crowded_table_of_pairs_makes_no_scanner_of_anybody() -> None:
    runner = scanner(max_pairs=8)
    for number in range(200):
        source, port = f"10.77.1.{number % 20 + 1}", number // 20 % 2
        assert runner.passes(udp(source, dport=port), at_s=number / 100)
    assert len(runner.tagged(PAIR_TAG)) == 8
    assert runner.records.head[COUNT] <= runner.function.capacity
    for port in range(5):
        assert runner.passes(udp(dport=port), at_s=30), "windows that are over leave room"
    assert runner.dropped(udp(dport=9), at_s=31) == "port-scan"


def test_what_is_known_of_sources_is_linearizable_and_the_rest_is_not() -> None:
    runner = idps(patterns=[{"pattern": "alert", "action": "alert"}])
    runner.passes(tcp("S"))
    runner.passes(segment(1, b"alert and al"))
    scopes = {key[0] >> 56: scope_of(key) for key in runner.state}
    shared = {SOURCE_TAG, SOURCE_SLOT_TAG, PAIR_TAG, PAIR_SLOT_TAG}
    assert {tag for tag, scope in scopes.items() if scope is Scope.LINEARIZABLE} == shared
    assert scopes[COUNT_TAG] is Scope.MERGEABLE
    assert scopes[STREAM_TAG] is scopes[STREAM_SLOT_TAG] is Scope.LOCAL


def test_the_count_of_a_source_is_the_number_of_its_pairs() -> None:
    """Whichever instance sees an asking, the shared records say the same."""
    rng = random.Random(4)
    runner = idps(scan_ports=100)
    for _ in range(400):
        source = rng.choice([INSIDE, OTHER_INSIDE, "10.77.0.77"])
        runner.passes(udp(source, rng.randrange(9999), SERVER, rng.randrange(40)))
    pairs = runner.tagged(PAIR_TAG)
    for key, value in runner.tagged(SOURCE_TAG).items():
        assert value[PAIRS] == sum(pair[1] >> 32 == key[1] for pair in pairs)


def test_every_source_and_every_pair_has_its_record_while_there_is_room() -> None:
    runner = idps()
    for host in range(40):  # of 64: where keys hash to, some neighbourhoods are full before all are
        runner.passes(udp(f"10.77.2.{host + 1}"), at_s=host / 100)
    sizes = [len(runner.tagged(tag)) for tag in (SOURCE_TAG, PAIR_TAG)]
    assert sizes == [40, 40]
    assert len(runner.tagged(SOURCE_SLOT_TAG)) == len(runner.tagged(PAIR_SLOT_TAG)) == 40
