"""What holds for every network function: purity, no exception, bounded tables, configuration."""

from __future__ import annotations

import random
from typing import Any, cast, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6

from testbed.scenario.errors import InputError
from testbed.scenario.types import FunctionName
from testbed.vnf.functions.base import Verdict
from testbed.vnf.functions.registry import make_function
from testbed.vnf.functions.table import LOOKED_AT, admit
from testbed.vnf.state import (
    State,
    Value,
    apply_delta,
    decode_delta,
    decode_state,
    digest,
    encode_delta,
    encode_state,
)
from tests.unit.functions_support import (
    INSIDE,
    PUBLIC,
    SERVER,
    Runner,
    echo,
    icmp_error,
    tcp,
    udp,
)

NAMES: tuple[FunctionName, ...] = get_args(FunctionName)
SEEDS = tuple(
    bytes(packet)
    for packet in (
        udp(),
        udp(SERVER, 53, PUBLIC, 5000),
        tcp("S"),
        tcp("SA", SERVER, 80, INSIDE, 5000),
        echo("echo-request", INSIDE, SERVER),
        echo("echo-reply", SERVER, PUBLIC),
        icmp_error("10.9.9.9", PUBLIC, udp(PUBLIC)),
        icmp_error("10.9.9.9", INSIDE, udp()),
        icmp_error("10.9.9.9", PUBLIC, echo("echo-request", PUBLIC, SERVER)),
    )
)


def config(name: FunctionName) -> dict[str, Any]:
    """The least configuration."""
    return {"public_address": PUBLIC} if name == "nat" else {}


def mutated(raw: bytes, changes: list[tuple[int, int]], cut: int, mend: bool) -> bytes:
    """`raw` with bytes changed and cut off; `mend` repairs the header checksum to get deeper."""
    buffer = bytearray(raw[: max(0, len(raw) - cut)])
    for at, value in changes:
        if buffer:
            buffer[at % len(buffer)] = value
    length = (buffer[0] & 15) * 4 if buffer else 0
    if mend and 20 <= length <= len(buffer):
        buffer[10:12] = b"\0\0"
        rest = -int.from_bytes(buffer[:length], "big") % 0xFFFF
        buffer[10:12] = rest.to_bytes(2, "big")
    return bytes(buffer)


mutations = st.builds(
    mutated,
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=6),
    st.one_of(st.just(0), st.integers(0, 60)),
    st.booleans(),
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(packets=st.lists(st.tuples(st.one_of(st.binary(max_size=90), mutations), st.booleans())))
def test_nothing_raises_and_replicas_agree(
    name: FunctionName, packets: list[tuple[bytes, bool]]
) -> None:
    runner = Runner(name, config(name))
    for number, (raw, reverse) in enumerate(packets):
        runner.send(raw, reverse, number * 20)
    assert decode_state(encode_state(runner.state)) == runner.state


@pytest.mark.parametrize("name", NAMES)
def test_long_random_runs_agree_with_their_replica(name: FunctionName) -> None:
    rng = random.Random(7)
    runner = Runner(name, config(name))
    at_s, passed = 0.0, 0
    for _ in range(3000):
        changes = [(rng.choice((20, 21, 22, 23, 33)), rng.randrange(4)) for _ in range(2)]
        raw = mutated(rng.choice(SEEDS), changes, 0, True)
        at_s += rng.choice((0.001, 0.5, 40))
        passed += runner.send(raw, rng.random() < 0.4, at_s).verdict is Verdict.FORWARD
    assert passed > 300
    assert decode_state(encode_state(runner.state)) == runner.state


@pytest.mark.parametrize("name", NAMES)
def test_defined_treatment(name: FunctionName) -> None:
    runner = Runner(name, config(name))
    assert runner.dropped(b"") == "malformed"
    assert runner.dropped(bytes(udp())[:-1]) == "malformed"
    assert runner.dropped(IPv6() / UDP()) == "unsupported"
    assert runner.state == {}
    assert runner.passes(udp())
    assert runner.function.name == name


@pytest.mark.parametrize(
    ("name", "bad", "field"),
    [
        ("nat", {}, "nat.public_address"),
        ("nat", {"public_address": "100.64.0.256"}, "nat.public_address"),
        ("nat", {"public_address": 5}, "nat.public_address"),
        ("nat", {"public_address": PUBLIC, "udp_timeout_s": 119}, "nat.udp_timeout_s"),
        ("nat", {"public_address": PUBLIC, "filtering": "none"}, "nat.filtering"),
        ("nat", {"public_address": PUBLIC, "first_port": 2000, "last_port": 2000}, "nat.last_port"),
        ("nat", {"public_address": PUBLIC, "x": 1}, "nat configuration"),
        ("fw", {"rules": 1}, "fw.rules"),
        ("fw", {"rules": [{}]}, "fw.rules[0].action"),
        ("fw", {"rules": [{"action": "maybe"}]}, "fw.rules[0].action"),
        ("fw", {"rules": [{"action": "deny", "source": "10.0.0.1/8"}]}, "fw.rules[0].source"),
        ("fw", {"rules": [{"action": "deny", "destination": 4}]}, "fw.rules[0].destination"),
        ("fw", {"rules": [{"action": "deny", "destination_port": 65536}]},
         "fw.rules[0].destination_ports"),
        ("fw", {"rules": [{"action": "deny", "destination_ports": [[9, 8]]}]},
         "fw.rules[0].destination_ports"),
        ("fw", {"rules": [{"action": "deny", "port": 1}]}, "fw.rules[0]"),
        ("fw", {"default": "drop"}, "fw.default"),
        ("tm", {"max_flows": 0}, "tm.max_flows"),
        ("tm", {"max_flows": True}, "tm.max_flows"),
        ("voc", {"rate_bps": 1.5}, "voc.rate_bps"),
        ("idps", {"patterns": [""]}, "idps.patterns[0]"),
        ("idps", {"patterns": ["hex:9"]}, "idps.patterns[0]"),
        ("idps", {"patterns": ["a", "hex:61"]}, "idps.patterns"),
        ("idps", {"patterns": [{"name": "n"}]}, "idps.patterns[0].pattern"),
        ("idps", {"patterns": [{"pattern": "a", "action": "log"}]}, "idps.patterns[0].action"),
        ("wo", {}, "function"),
    ],
)  # fmt: skip
def test_bad_configuration_is_refused(name: FunctionName, bad: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        make_function(name, bad)
    assert caught.value.field == field


def test_table_takes_expired_slots_then_evicts_or_is_full() -> None:
    state: State = {}

    def add(key: bytes, expires_ns: int, now_ns: int, evict: bool) -> bool:
        placed, changes = admit(
            state,
            b"T",
            key,
            4,
            now_ns,
            lambda record: cast("tuple[int, int]", record),
            evict,
        )
        apply_delta(state, changes)
        if placed:
            apply_delta(state, ((key, (expires_ns, now_ns)),))
        return placed

    for number in range(4):
        assert add(b"k%d" % number, 100 if number != 2 else 50, number, False)
    assert not add(b"new", 100, 40, False)
    assert add(b"new", 100, 60, False)
    assert b"k2" not in state and {b"k0", b"k1", b"k3", b"new"} < state.keys()
    assert add(b"newer", 100, 61, True)
    assert b"k0" not in state, "the entry idle longest makes room"
    for number in range(100):
        assert add(b"n%d" % number, 1000, 62, True)
    assert len(state) == 4 + 4 + 1


def expiry_only(record: Value) -> tuple[int, int]:
    """The timing of a record (expires_ns,)."""
    return cast("tuple[int]", record)[0], 0


def test_a_full_table_looks_elsewhere_next_time() -> None:
    state: State = {}
    capacity = 3 * LOOKED_AT

    def add(key: bytes, expires_ns: int, now_ns: int) -> bool:
        placed, changes = admit(state, b"T", key, capacity, now_ns, expiry_only, False)
        apply_delta(state, changes)
        if placed:
            apply_delta(state, ((key, (expires_ns,)),))
        return placed

    for number in range(capacity):
        assert add(b"k%d" % number, 10 if number == capacity - 1 else 100, 0)
    assert [add(b"x", 100, 50) for _ in range(3)] == [False, False, True]


def test_state_encoding_is_canonical_and_checked() -> None:
    state: State = {b"a": (1, b"x", ("t", ())), b"b": -(2**63), b"c": 2**64 - 1}
    backwards = dict(reversed(state.items()))
    assert digest(state) == digest(backwards) and encode_state(state) == encode_state(backwards)
    assert decode_state(encode_state(state)) == state
    assert digest(state) != digest({**state, b"b": 0})
    delta = ((b"a", None), (b"d", (1,)), (b"d", (2,)), (b"absent", None))
    assert decode_delta(encode_delta(delta)) == delta
    apply_delta(state, delta)
    assert state == {b"b": -(2**63), b"c": 2**64 - 1, b"d": (2,)}
    for bad in (b"", b"\x01", b"\x91\x01", b"\x91\x92\x01\x01", encode_state(state)[:-1]):
        with pytest.raises(ValueError):
            decode_state(bad)
