"""Traffic monitor: counts, totals, bound, the sketch, and the view of several instances."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.packet import Packet as ScapyPacket

from testbed.vnf.functions.packet import flow_key, parse
from testbed.vnf.functions.sharing import Scope, scope_of
from testbed.vnf.functions.traffic_monitor import (
    FIRST,
    FLOW_TAG,
    FOREVER_NS,
    L3_BYTES,
    LAST,
    PACKETS,
    SKETCH_TAG,
    TOTALS_TAG,
    column_of,
    make,
    mixed,
)
from testbed.vnf.functions.traffic_view import (
    Contribution,
    contribution,
    estimates,
    heavy_flows,
)
from testbed.vnf.state.records import COUNT, contents, find
from tests.support.functions_support import (
    INSIDE,
    INSIDE6,
    SERVER,
    SERVER6,
    Runner,
    S,
    buffer_of,
    echo,
    fragments,
    tcp,
    tcp6,
    udp,
    udp6,
)

FEW = {"max_flows": 64}
TOTALS = (TOTALS_TAG << 56, 0, 0, 0, 0)


def key_of(packet: ScapyPacket | bytes) -> tuple[int, ...]:
    """The key of the packet's flow."""
    raw = bytes(packet)
    return tuple(flow_key(parse(buffer_of(raw), len(raw)), FLOW_TAG))


def counters(runner: Runner, packet: ScapyPacket) -> tuple[int, int, int, int] | None:
    """(packets, bytes, first, last) of the packet's flow."""
    row = find(runner.records, key_of(packet))
    if row < 0:
        return None
    value = runner.records.values[row].tolist()
    return value[PACKETS], value[L3_BYTES], value[FIRST], value[LAST] - FOREVER_NS


def totals(runner: Runner) -> tuple[int, int, int]:
    """(packets, bytes, flows that left)."""
    packets, l3_bytes, admitted, *_ = runner.state[TOTALS]
    return packets, l3_bytes, admitted - len(runner.tagged(FLOW_TAG))


@pytest.mark.parametrize(
    ("make_packet", "back", "header"),
    [(udp, udp(SERVER, 53, INSIDE, 5000), 28), (udp6, udp6(SERVER6, 53, INSIDE6, 5000), 48)],
)
def test_flow_counters_and_packets_go_on_unchanged(
    make_packet: type, back: ScapyPacket, header: int
) -> None:
    runner = Runner("tm", FEW)
    for at_s, payload in ((1, b""), (2, b"x" * 100), (5, b"y")):
        packet = make_packet(payload=payload)
        assert bytes(runner.passes(packet, at_s=at_s)) == bytes(packet)
    assert counters(runner, make_packet()) == (3, 3 * header + 101, 1001 * S, 1005 * S)
    assert counters(runner, back) is None
    runner.passes(back, reverse=True, at_s=6)
    assert counters(runner, back) == (1, header + 7, 1006 * S, 1006 * S)
    assert totals(runner) == (4, 4 * header + 108, 0)


def test_link_padding_is_not_counted() -> None:
    runner = Runner("tm", FEW)
    assert runner.send(udp(), padding=b"\0" * 11).packet == bytes(udp())
    assert totals(runner) == (1, 35, 0)


def test_counts_equal_a_reference_over_many_packets() -> None:
    rng = random.Random(3)
    runner, packets, octets = (
        Runner("tm", FEW),
        Counter[tuple[int, ...]](),
        Counter[tuple[int, ...]](),
    )
    for _ in range(1500):
        number = rng.randrange(6)
        made = (
            udp(sport=number, dport=rng.randrange(3)),
            tcp("A", sport=number),
            tcp6("A", sport=number),
            echo("echo-request", INSIDE, SERVER, number),
            echo("echo-reply", INSIDE6, SERVER6, number),
        )
        raw = bytes(rng.choice(made))
        runner.send(raw)
        packets[key_of(raw)] += 1
        octets[key_of(raw)] += len(raw)
    flows = {key: value[PACKETS : L3_BYTES + 1] for key, value in runner.tagged(FLOW_TAG).items()}
    assert flows == {key: (packets[key], octets[key]) for key in packets}
    assert len(flows) == 6 * (3 + 1 + 1 + 1 + 1)
    assert totals(runner) == (1500, sum(octets.values()), 0)
    sketch = contribution(runner.function, runner.state, 1).sketch
    assert [int(row.sum()) for row in sketch.value] == [sum(octets.values())] * 4
    for key, l3_bytes in octets.items():
        assert estimates(np.array([key]), sketch.value)[0] >= l3_bytes


@pytest.mark.parametrize(("make_packet", "header"), [(udp, 20), (udp6, 48)])
def test_fragments_after_the_first_count_by_address(make_packet: type, header: int) -> None:
    runner = Runner("tm", FEW)
    first, *rest = fragments(make_packet(payload=b"x" * 64))
    for piece in (first, *rest):
        runner.passes(piece)
    assert counters(runner, first) == (1, header + 24, 1000 * S, 1000 * S)
    assert counters(runner, rest[0]) == (2, 2 * header + 48, 1000 * S, 1000 * S)


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
    assert len(runner.tagged(FLOW_TAG)) == 4
    assert totals(runner) == (106, 106 * 35, 101)
    for sport in range(1000):
        runner.passes(udp(sport=sport), at_s=300)
    assert runner.records.head[COUNT] <= runner.function.capacity


def test_malformed_packets_are_not_counted() -> None:
    runner = Runner("tm", FEW)
    for raw in (b"", b"\x45" * 30, b"\x60" * 60, bytes(udp())[:-1]):
        assert runner.dropped(raw) == "malformed"
    assert runner.state == {}


def test_what_an_established_flow_writes_is_small() -> None:
    runner = Runner("tm", FEW)
    for make_packet, words in ((udp, 3 + 3 + 4 + 4 * 3), (udp6, 6 + 3 + 4 + 4 * 3)):
        runner.send(make_packet())
        assert len(runner.send(make_packet()).operations) == words


def test_sketch_and_totals_are_mergeable_and_flows_are_not() -> None:
    runner = Runner("tm", FEW)
    runner.send(udp())
    scopes = {key[0] >> 56: scope_of(key) for key in runner.state}
    assert scopes[TOTALS_TAG] == scopes[SKETCH_TAG] == Scope.MERGEABLE
    assert scopes[FLOW_TAG] == Scope.LOCAL
    before = runner.state
    runner.send(udp(sport=9))
    for key, value in before.items():
        if scope_of(key) is Scope.MERGEABLE:
            assert all(np.array(runner.state[key]) >= np.array(value)), "contributions only grow"


def test_columns_spread_evenly_and_rows_differ() -> None:
    keys = [key_of(udp(sport=sport, dport=dport)) for sport in range(64) for dport in range(64)]
    hashes = [mixed(key) for key in keys]
    assert len(set(hashes)) == len(keys)
    spread = np.array([[column_of(hashed, row, 256) for row in range(4)] for hashed in hashes])
    assert spread.min() == 0 and spread.max() == 255
    for row in range(4):
        counts = np.bincount(spread[:, row], minlength=256)
        # chi squared with 255 degrees of freedom: mean 255, standard deviation 22.6
        assert ((counts - 16) ** 2 / 16).sum() < 255 + 5 * 22.6
    for one, other in itertools.combinations(range(4), 2):
        same = (spread[:, one] == spread[:, other]).sum()
        assert same < 16 + 5 * 4, "rows must not collide together"


def test_the_tag_does_not_move_a_flow_in_the_sketch() -> None:
    k0, *rest = key_of(udp())
    assert mixed((k0, *rest)) == mixed((k0 ^ 0x7F << 56, *rest))


streams = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 7), st.integers(0, 1200)), max_size=30
)


@settings(max_examples=40, deadline=None)
@given(packets=streams, seed=st.integers(0, 1 << 16))
def test_the_merged_view_is_that_of_one_monitor_of_everything(
    packets: list[tuple[int, int, int]], seed: int
) -> None:
    config = {"max_flows": 16, "sketch_width": 64}
    parts = [Runner("tm", config) for _ in range(3)]
    whole = Runner("tm", config)
    ever: list[Contribution] = []
    for instance, sport, size in packets:
        packet = udp(sport=sport, payload=b"x" * size)
        parts[instance].send(packet)
        whole.send(packet)
        ever.append(contribution(parts[instance].function, parts[instance].state, instance))
    last = [contribution(part.function, part.state, n) for n, part in enumerate(parts)]
    rng = random.Random(seed)
    arrived = [*last, *rng.choices(ever, k=len(ever))]
    rng.shuffle(arrived)
    view = arrived[0]
    for state in arrived[1:]:
        view = view.merge(Contribution.from_bytes(state.to_bytes()))
    expected = contribution(whole.function, whole.state, 7)
    assert view.packets.value == expected.packets.value == len(packets)
    assert view.l3_bytes.value == expected.l3_bytes.value
    assert np.array_equal(view.sketch.value, expected.sketch.value)
    for share_ppm in (10_000, 200_000, 600_000):
        assert heavy_flows(view, share_ppm) == heavy_flows(expected, share_ppm)


def test_heavy_flows_are_found_across_instances() -> None:
    config = {"max_flows": 256, "heavy_share_ppm": 200_000}
    parts = [Runner("tm", config) for _ in range(3)]
    rng = random.Random(9)
    for number in range(600):
        part = parts[number % 3]
        part.send(udp(sport=1000 + rng.randrange(100), payload=b"x" * 20))
        if number % 4 == 0:
            part.send(tcp6("A", payload=b"x" * 900))
    view = contribution(parts[0].function, parts[0].state, 0)
    for number in (1, 2):
        view = view.merge(contribution(parts[number].function, parts[number].state, number))
    (heavy,) = heavy_flows(view, 200_000)
    assert (heavy.protocol, heavy.source, heavy.source_port) == (6, INSIDE6, 5000)
    assert (heavy.destination, heavy.destination_port) == (SERVER6, 80)
    assert heavy.l3_bytes >= 150 * 960
    assert heavy_flows(view, 900_000) == ()
    many = heavy_flows(view, 1)
    assert many[0] == heavy and all(flow.l3_bytes <= heavy.l3_bytes for flow in many)


def test_an_empty_monitor_contributes_nothing() -> None:
    runner = Runner("tm", FEW)
    empty = contribution(runner.function, contents(runner.records), 1)
    assert empty.packets.value == empty.l3_bytes.value == 0
    assert heavy_flows(empty, 1) == ()
    assert Contribution.from_bytes(empty.to_bytes()) == empty


def test_foreign_bytes_are_refused() -> None:
    runner = Runner("tm", FEW)
    runner.send(udp())
    whole = contribution(runner.function, runner.state, 1).to_bytes()
    for bad in (b"", whole[:-1], b"\x95\x01\x01\x01\x01\x01", whole + b"x"):
        with pytest.raises(ValueError, match=r"\w"):
            Contribution.from_bytes(bad)


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (8, 1021), (4, 65_536)])
def test_sketches_of_other_shapes(rows: int, width: int) -> None:
    function = make({"sketch_rows": rows, "sketch_width": width, "max_flows": 8})
    runner = Runner(function)
    for sport in range(20):
        runner.send(udp(sport=sport))
    sketch = contribution(function, runner.state, 1).sketch
    assert sketch.value.shape == (rows, width)
    assert [int(row.sum()) for row in sketch.value] == [20 * 35] * rows
