"""What holds for every network function: purity, no crash, checksums, bounded tables, names."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment

from testbed.scenario.errors import InputError
from testbed.scenario.types import FunctionName
from testbed.vnf.functions.checksums import be16, checksum, fold, put_be16
from testbed.vnf.functions.function import Function, Sandbox
from testbed.vnf.functions.packet import (
    OK,
    REASONS,
    UDP,
    View,
    l4_checksum_at,
    parse,
    pseudo_sum,
)
from testbed.vnf.functions.registry import MAKERS, make_function
from testbed.vnf.state.arrays import Bytes
from testbed.vnf.state.records import KEY_WORDS, contents
from tests.support.functions_support import (
    INSIDE,
    INSIDE6,
    PUBLIC,
    ROUTER,
    ROUTER6,
    SERVER,
    SERVER6,
    Runner,
    buffer_of,
    echo,
    fragments,
    icmp_error,
    ip,
    tcp,
    tcp6,
    udp,
    udp6,
)

NAMES = cast("tuple[FunctionName, ...]", tuple(MAKERS))
ALL = pytest.mark.parametrize("name", NAMES)
LEAST: dict[str, dict[str, Any]] = {
    "nat": {"public_address": PUBLIC},
    "lb": {"virtual_address": SERVER, "backends": [{"address": "10.77.1.1"}]},
}
"""The keys that a function must be given."""
SEEDS = tuple(
    bytes(packet)
    for packet in (
        udp(),
        udp(SERVER, 53, PUBLIC, 5000),
        udp(payload=b"x" * 400),
        tcp("S"),
        tcp("SA", SERVER, 80, INSIDE, 5000),
        tcp("PA", payload=b"GET / HTTP/1.1\r\n" * 9),
        echo("echo-request", INSIDE, SERVER),
        echo("echo-reply", SERVER, PUBLIC),
        icmp_error(ROUTER, PUBLIC, udp(PUBLIC)),
        icmp_error(ROUTER, INSIDE, udp()),
        icmp_error(ROUTER, PUBLIC, echo("echo-request", PUBLIC, SERVER)),
        *fragments(udp(payload=b"x" * 40)),
        udp6(),
        udp6(SERVER6, 53, INSIDE6, 5000),
        tcp6("S"),
        tcp6("PA", SERVER6, 80, INSIDE6, 5000, b"y" * 300),
        echo("echo-request", INSIDE6, SERVER6),
        echo("echo-reply", SERVER6, INSIDE6),
        icmp_error(ROUTER6, INSIDE6, udp6()),
        icmp_error(ROUTER6, INSIDE6, udp6(), 2),
        ip(INSIDE6, SERVER6) / IPv6ExtHdrDestOpt() / udp6()["UDP"],
        ip(INSIDE6, SERVER6) / IPv6ExtHdrFragment(id=3) / tcp6("S")["TCP"],
        *fragments(udp6(payload=b"x" * 40)),
    )
)


def made(name: FunctionName) -> Function:
    """The function with the least configuration."""
    return make_function(name, LEAST.get(name, {}))


def l4_sum(buffer: Bytes, view: View) -> int | None:
    """0 if the transport checksum holds, None if there is none to look at."""
    at = l4_checksum_at(view)
    if at < 0 or view.fragment or (view.protocol == UDP and be16(buffer, at) == 0):
        return None
    size = view.length - view.l4_at
    if view.protocol == UDP:
        size = be16(buffer, view.l4_at + 4)
    is_icmp4 = view.version == 4 and view.icmp_type >= 0
    pseudo = 0 if is_icmp4 else pseudo_sum(view, size)
    return int(checksum(buffer, view.l4_at, view.l4_at + size, pseudo))


def is_right(raw: bytes) -> bool:
    """Whether a packet is well formed, with right checksums as far as that can be seen."""
    buffer = buffer_of(raw)
    view = parse(buffer, len(raw))
    return view.status == OK and not l4_sum(buffer, view)


def mended(raw: bytes) -> bytes:
    """The packet with its length and its checksums put right, to get deeper into a function."""
    buffer = buffer_of(raw)
    if len(raw) >= 40 and raw[0] >> 4 == 6:
        put_be16(buffer, 4, len(raw) - 40)
    header = (raw[0] & 15) * 4 if raw else 0
    if raw and raw[0] >> 4 == 4 and 20 <= header <= len(raw):
        put_be16(buffer, 2, len(raw))
        put_be16(buffer, 10, 0)
        put_be16(buffer, 10, checksum(buffer, 0, header, 0))
    view = parse(buffer, len(raw))
    missing = l4_sum(buffer, view) if view.status == OK else None
    if missing:
        at = l4_checksum_at(view)
        put_be16(buffer, at, fold(be16(buffer, at) + missing))
    return buffer[: len(raw)].tobytes()


def mutated(raw: bytes, changes: list[tuple[int, int]], cut: int, mend: bool) -> bytes:
    """`raw` with bytes changed and cut off."""
    buffer = bytearray(raw[: max(0, len(raw) - cut)])
    for at, value in changes:
        if buffer:
            buffer[at % len(buffer)] = value
    return mended(bytes(buffer)) if mend else bytes(buffer)


mutations = st.builds(
    mutated,
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    st.one_of(st.just(0), st.integers(0, 60)),
    st.booleans(),
)


def send(runner: Runner, raw: bytes, reverse: bool, at_s: float) -> bool:
    """Process a packet; whether it went on. What was right must still be so."""
    result = runner.send(raw, reverse, at_s, bucket=len(raw) % 7)
    assert result.packet is None or not is_right(raw) or is_right(result.packet)
    return result.packet is not None


def test_the_seeds_are_right() -> None:
    assert all(is_right(raw) and mended(raw) == raw for raw in SEEDS)
    broken = bytearray(SEEDS[0])
    broken[-1] ^= 1
    assert not is_right(bytes(broken)) and is_right(mended(bytes(broken)))


@ALL
@settings(max_examples=150, deadline=None)
@given(packets=st.lists(st.tuples(st.one_of(st.binary(max_size=90), mutations), st.booleans())))
def test_nothing_crashes_and_replicas_agree(
    name: FunctionName, packets: list[tuple[bytes, bool]]
) -> None:
    runner = Runner(made(name))
    for number, (raw, reverse) in enumerate(packets):
        send(runner, raw, reverse, number * 20)


@ALL
def test_long_random_runs_agree_with_their_replica(name: FunctionName) -> None:
    rng = random.Random(7)
    runner = Runner(made(name))
    at_s, passed = 0.0, 0
    for _ in range(3000):
        raw = bytearray(rng.choice(SEEDS))
        l4_at = 40 if raw[0] >> 4 == 6 else 20
        for _ in range(2):
            at = l4_at + rng.choice((0, 1, 2, 3, 13))
            raw[min(at, len(raw) - 1)] = rng.randrange(4)
        at_s += rng.choice((0.001, 0.5, 40))
        passed += send(runner, mended(bytes(raw)), rng.random() < 0.4, at_s)
    assert passed > 300


@ALL
def test_defined_treatment(name: FunctionName) -> None:
    runner = Runner(made(name))
    assert runner.dropped(b"") == "malformed"
    assert runner.dropped(bytes(udp())[:-1]) == "malformed"
    assert runner.dropped(bytes(udp6())[:-1]) == "malformed"
    assert runner.state == {}
    assert runner.passes(udp())
    padded = runner.send(udp(), padding=b"\1" * 9)
    assert padded.packet is not None and is_right(padded.packet)
    assert runner.function.name == name


@ALL
def test_descriptions_are_sound(name: FunctionName) -> None:
    function = made(name)
    assert function.reasons[: len(REASONS)] == REASONS
    assert len(set(function.reasons)) == len(function.reasons)
    assert function.config.dtype == np.int64 and function.config.ndim == 1
    assert function.capacity >= 1 and 1 <= function.value_words < 1 << 16
    state = function.new_state()
    assert state.keys.shape == (function.capacity, KEY_WORDS)
    assert state.values.shape == (function.capacity, function.value_words)


@ALL
def test_keys_have_a_tag(name: FunctionName) -> None:
    runner = Runner(made(name))
    for number, raw in enumerate(SEEDS):
        runner.send(raw, number % 2 == 1)
    assert all(1 <= key[0] >> 56 <= 0x7F for key in runner.state)


@ALL
def test_a_sandbox_is_a_runner(name: FunctionName) -> None:
    runner, sandbox = Runner(made(name)), Sandbox.of(made(name))
    for number, raw in enumerate(SEEDS * 2):
        reverse = number % 3 == 2
        result = runner.send(raw, reverse, number)
        step = sandbox.step(raw, (1_000 + number) * 1_000_000_000, reverse)
        assert (step.packet, step.operations) == (result.packet, result.operations)
        assert step.reason == ("" if step.packet is not None else result.reason)
    assert contents(sandbox.records) == runner.state


def test_unknown_functions_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        make_function(cast(FunctionName, "router"), {})
    assert caught.value.field == "function"


@ALL
def test_unknown_keys_are_refused(name: FunctionName) -> None:
    with pytest.raises(InputError) as caught:
        make_function(name, {**LEAST.get(name, {}), "x": 1})
    assert caught.value.field == f"{name} configuration"
