"""Intrusion detection and prevention: signatures and the port-scan detector."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import IP, TCP

from testbed.vnf.functions.base import Verdict
from testbed.vnf.functions.idps import count_key
from testbed.vnf.functions.signatures import DEFAULT_SIGNATURES
from tests.unit.functions_support import INSIDE, OTHER_INSIDE, SERVER, Runner, fragments, tcp, udp


@pytest.mark.parametrize("number", range(len(DEFAULT_SIGNATURES)))
def test_built_in_signatures(number: int) -> None:
    signature = DEFAULT_SIGNATURES[number]
    runner = Runner("idps")
    result = runner.send(udp(payload=b"before " + signature.pattern + b" after"))
    assert result.reason == ("signature" if signature.drop else "alert")
    assert (result.verdict is Verdict.DROP) == signature.drop
    assert runner.state[count_key(number)] == 1
    assert runner.send(udp(payload=signature.pattern[:-1])).reason == ""


def test_text_hex_and_actions() -> None:
    patterns = [
        "needle",
        "hex:00ff80",
        {"name": "only a note", "pattern": "hay", "action": "alert"},
    ]
    runner = Runner("idps", {"patterns": patterns})
    assert runner.dropped(udp(payload=b"a needle in")) == "signature"
    assert runner.dropped(udp(payload=b"\x01\x00\xff\x80\x01")) == "signature"
    noted = runner.send(udp(payload=b"hay hay hay"))
    assert (noted.packet, noted.reason) == (bytes(udp(payload=b"hay hay hay")), "alert")
    assert runner.dropped(udp(payload=b"needle in the hay")) == "signature"
    assert [runner.state[count_key(number)] for number in range(3)] == [2, 1, 2]
    assert runner.passes(udp(payload=b"Needle"))
    assert Runner("idps", {"patterns": []}).passes(udp(payload=b"${jndi:"))


def test_overlapping_patterns_and_a_reference_search() -> None:
    patterns = ["abcd", "bc", "bcde", "cab", "hex:6161"]
    fixed = [b"abcd", b"bc", b"bcde", b"cab", b"aa"]
    runner = Runner("idps", {"patterns": [{"pattern": p, "action": "alert"} for p in patterns]})
    rng, expected = random.Random(5), [0] * len(fixed)
    for _ in range(500):
        payload = bytes(rng.choice(b"abcde") for _ in range(rng.randrange(12)))
        runner.passes(udp(payload=payload))
        expected = [n + (pattern in payload) for n, pattern in zip(expected, fixed, strict=True)]
    assert [runner.state[count_key(number)] for number in range(5)] == expected


def test_headers_are_not_searched_and_tcp_options_neither() -> None:
    runner = Runner("idps", {"patterns": ["hex:0a4d0001", "hex:cafecafe"]})
    assert runner.passes(udp(INSIDE))  # 10.77.0.1 is 0a4d0001
    options = [("Timestamp", (0xCAFECAFE, 0))]
    segment = IP(src=INSIDE, dst=SERVER) / TCP(flags="A", options=options)
    assert b"\xca\xfe\xca\xfe" in bytes(segment)
    assert runner.passes(segment / b"payload")
    assert runner.dropped(segment / b"\xca\xfe\xca\xfe") == "signature"
    assert runner.dropped(IP(proto=47, src=INSIDE, dst=SERVER) / b"\xca\xfe\xca\xfe") == "signature"


def test_fragments_are_searched_one_by_one() -> None:
    runner = Runner("idps", {"patterns": ["needle"]})
    payload = b"x" * 30 + b"needle" + b"x" * 28
    first, second, third = fragments(udp(payload=payload))
    assert runner.passes(first) and runner.passes(third)
    assert runner.dropped(second) == "signature"


def scanner(**config: int) -> Runner:
    """A detector that allows 5 ports in 10 s and blocks for 60 s."""
    return Runner("idps", {"scan_ports": 5, **config})


def test_more_ports_than_allowed_block_the_source_for_a_time() -> None:
    runner = scanner()
    for number in range(5):
        assert runner.passes(tcp("S", dport=number + 1), at_s=number)
        assert runner.passes(tcp("S", dport=number + 1), at_s=number), "the same port again"
    assert runner.dropped(tcp("S", dport=6), at_s=5) == "port-scan"
    assert runner.dropped(tcp("A", dport=1), at_s=6) == "blocked"
    assert runner.dropped(udp(dport=1), at_s=64.9) == "blocked"
    assert runner.passes(udp(OTHER_INSIDE, dport=1), at_s=6), "others go on"
    assert runner.passes(udp(dport=1), at_s=65)
    for port in range(2, 6):
        assert runner.passes(udp(dport=port), at_s=66)
    assert runner.dropped(udp(dport=7), at_s=67) == "port-scan", "counting starts anew"


def test_slow_asking_is_no_scan() -> None:
    runner = scanner()
    for port in range(1, 60):
        assert runner.passes(udp(dport=port), at_s=port * 2.5)


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
    assert sum(key[:1] == b"s" for key in runner.state) == 4
    assert runner.dropped(udp(), at_s=10) == "blocked"
