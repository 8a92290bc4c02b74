"""Classifier, stamper and duplicate filter."""

from __future__ import annotations

import random
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.vnf.dataplane.stamp import Stamp
from testbed.vnf.edge.stamper import (
    BUCKETS,
    WINDOW_PACKETS,
    DuplicateFilter,
    LeastRecentlyUsed,
    Match,
    Stamper,
)

HERE, THERE = socket.inet_aton("10.77.0.1"), socket.inet_aton("10.77.0.2")


def packet(
    source: bytes = HERE,
    destination: bytes = THERE,
    ports: tuple[int, int] = (4000, 5000),
    protocol: int = 17,
    fragment: int = 0,
) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, fragment, 64, protocol, 0)
    return head + source + destination + struct.pack("!HH", *ports) + bytes(16)


ANY = Match(None, THERE, None)


def test_flows_are_numbered_within_their_path_and_packets_within_their_flow() -> None:
    stamper = Stamper(epoch=3)
    stamper.add_rule(2, Match(17, THERE, 5000))
    stamper.add_rule(4, Match(17, THERE, 6000))
    got = []
    for ports in ((1, 5000), (2, 5000), (1, 5000), (1, 6000), (2, 5000)):
        stamp = stamper.stamp(packet(ports=ports), 0)
        assert stamp is not None and stamp.epoch == 3 and 0 <= stamp.bucket < BUCKETS
        got.append((stamp.path, stamp.flow, stamp.seq))
    assert got == [(2, 0, 0), (2, 1, 0), (2, 0, 1), (4, 0, 0), (2, 1, 1)]


@pytest.mark.parametrize(
    ("match", "covered"),
    [
        (Match(None, THERE, None), True),
        (Match(17, THERE, 5000), True),
        (Match(6, THERE, 5000), False),
        (Match(17, HERE, 5000), False),
        (Match(17, THERE, 4000), False),
    ],
)
def test_rules(match: Match, covered: bool) -> None:
    stamper = Stamper(0)
    stamper.add_rule(2, match)
    assert (stamper.stamp(packet(), 0) is not None) == covered


def test_answers_take_the_path_that_was_learnt() -> None:
    stamper = Stamper(0)
    answer = packet(THERE, HERE, (5000, 4000))
    assert stamper.stamp(answer, 0) is None
    stamper.learn(packet(), 3, 0)
    stamp = stamper.stamp(answer, 0)
    assert stamp is not None and (stamp.path, stamp.flow, stamp.seq) == (3, 0, 0)
    assert stamper.stamp(packet(THERE, HERE, (5000, 4001)), 0) is None
    stamper.remove_path(3)
    assert stamper.stamp(answer, 0) is None


def test_a_removed_path_never_gives_a_number_twice() -> None:
    stamper = Stamper(0)
    numbers = []
    for _ in range(2):
        stamper.add_rule(2, ANY)
        stamp = stamper.stamp(packet(), 0)
        assert stamp is not None
        numbers.append(stamp.flow)
        stamper.remove_path(2)
        assert stamper.stamp(packet(), 0) is None
    assert numbers == [0, 1]


def test_the_least_recently_used_flow_makes_room() -> None:
    stamper = Stamper(0, max_flows=2)
    stamper.add_rule(2, ANY)
    flows = []
    for port in (1, 2, 1, 3, 1, 2):
        stamp = stamper.stamp(packet(ports=(port, 9)), 0)
        assert stamp is not None
        flows.append((stamp.flow, stamp.seq))
    assert flows == [(0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (3, 0)]


def test_what_has_no_flow_is_not_stamped() -> None:
    stamper = Stamper(0)
    stamper.add_rule(2, ANY)
    assert stamper.stamp(packet(), 0) is not None
    bad: list[tuple[bytes, str]] = [
        (b"", "malformed"),
        (packet()[:27], "malformed"),
        (b"\x60" + packet()[1:], "malformed"),
        (b"\x44" + packet()[1:], "malformed"),
        (packet(protocol=47), "unclassified"),
        (packet(destination=HERE), "unclassified"),
        (packet(fragment=1), "fragments"),
        (packet(fragment=0x100), "fragments"),
        (packet(ports=(0x0300, 0), protocol=1), "malformed"),  # ICMP error that quotes nothing
    ]
    for data, reason in bad:
        before = stamper.refused.copy()
        assert stamper.stamp(data, 0) is None
        assert stamper.refused - before == {reason: 1}
    assert stamper.stamp(packet(fragment=0x4000), 0) is not None  # "do not fragment" is none


@pytest.mark.parametrize("epoch", [-1, 1 << 16])
def test_an_epoch_must_fit_the_stamp(epoch: int) -> None:
    with pytest.raises(ValueError, match="epoch"):
        Stamper(epoch)


def test_use_refreshes_and_put_pushes_out() -> None:
    table: LeastRecentlyUsed[int] = LeastRecentlyUsed(2)
    table.put(b"a", 1)
    table.put(b"b", 2)
    assert table.use(b"a") == 1
    table.put(b"c", 3)
    assert list(table) == [b"a", b"c"]
    assert table.use(b"b") is None


@given(st.integers(0, 2**32 - 1))
def test_each_packet_passes_once_whatever_the_order_within_the_window(seed: int) -> None:
    rng = random.Random(seed)
    numbers = [seq for seq in range(300) if rng.random() < 0.9] * 2
    # Nothing moves further than the window, so that nothing may be refused wrongly.
    numbers.sort(key=lambda seq: seq + rng.uniform(0, WINDOW_PACKETS / 2))
    passed = DuplicateFilter()
    taken = [seq for seq in numbers if passed.first_time(Stamp(2, 0, 0, 0, seq)) is not None]
    assert sorted(taken) == sorted(set(numbers))


def test_memory_stays_bounded_over_losses_and_a_late_packet_is_refused() -> None:
    passed = DuplicateFilter()
    window = passed.first_time(Stamp(2, 0, 0, 0, 0))
    assert window is not None
    for seq in range(2, 20 * WINDOW_PACKETS):
        if seq % 100:
            assert passed.first_time(Stamp(2, 0, 0, 0, seq)) is window
            assert len(window._ahead) <= WINDOW_PACKETS
    assert passed.first_time(Stamp(2, 0, 0, 0, 1)) is None


def test_memory_stays_bounded_after_a_long_gap() -> None:
    passed = DuplicateFilter()
    window = passed.first_time(Stamp(2, 0, 0, 0, 0))
    assert window is not None
    for seq in range(10**9, 10**9 + 5 * WINDOW_PACKETS):
        assert passed.first_time(Stamp(2, 0, 0, 0, seq)) is window
        assert len(window._ahead) <= WINDOW_PACKETS


def test_flows_paths_and_epochs_are_apart() -> None:
    passed = DuplicateFilter()
    for stamp in (Stamp(2, 0, 0, 5, 0), Stamp(2, 1, 0, 5, 0), Stamp(3, 0, 0, 5, 0)):
        assert passed.first_time(stamp) is not None
        assert passed.first_time(stamp) is None
    assert passed.first_time(Stamp(2, 0, 0, 4, 1)) is None
    assert passed.first_time(Stamp(2, 0, 0, 6, 0)) is not None
    assert passed.first_time(Stamp(2, 0, 0, 5, 1)) is None
    passed.remove_path(2)
    assert passed.first_time(Stamp(2, 1, 0, 5, 0)) is not None
    assert passed.first_time(Stamp(3, 0, 0, 5, 0)) is None


def test_the_table_of_windows_is_bounded() -> None:
    passed = DuplicateFilter(max_flows=2)
    for flow in (0, 1, 0, 2):
        passed.first_time(Stamp(2, flow, 0, 0, flow))
    assert passed.first_time(Stamp(2, 0, 0, 0, 0)) is None
    assert passed.first_time(Stamp(2, 1, 0, 0, 1)) is not None


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)))
def test_a_packet_is_overtaken_if_a_later_one_of_its_flow_came_before(
    order: list[int], lost: set[int]
) -> None:
    passed = DuplicateFilter()
    greatest = -1
    for seq in [seq for seq in order if seq not in lost]:
        window = passed.first_time(Stamp(2, 0, 0, 0, seq))
        assert window is not None
        assert window.overtaken == (seq < greatest)
        greatest = max(greatest, seq)
        assert passed.first_time(Stamp(2, 0, 0, 0, seq)) is None
