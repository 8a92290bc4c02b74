"""Order within a flow: early, late, repeated, missing and lost inputs."""

from __future__ import annotations

import pytest

from testbed.vnf.replication.order import MAX_GAP
from testbed.vnf.replication.types import (
    Drop,
)
from tests.protocol.group import Group, at, out


@pytest.mark.parametrize("group", [Group(mode="none"), Group(protected=False)])
def test_without_a_backup_each_packet_is_emitted_at_once(group: Group) -> None:
    assert not group.primary.protected
    assert group.packets(0, 1) == [out(0, b"0'"), out(1, b"1'")]
    assert group.primary.on_packet(0, at(2), b"drop") == [Drop(at(2), "verdict")]
    assert group.packets(3) == [out(2, b"3'")]
    assert group.primary.on_idle(0) == []
    assert group.primary.next_timer_ns() is None
    assert group.state == {b"count": 4}


def test_early_packets_wait_for_their_turn() -> None:
    group = Group(mode="none")
    assert group.packets(2, 1) == []
    assert group.packets(0) == [out(0, b"0'"), out(1, b"1'"), out(2, b"2'")]
    assert group.primary.next_timer_ns() is None


def test_flows_and_paths_do_not_wait_for_one_another() -> None:
    group = Group(mode="none")
    assert group.packets(1) == []
    assert group.primary.on_packet(0, at(0, flow=8), b"x") == [out(0, b"x'", flow=8)]


def test_a_packet_that_comes_again_is_a_duplicate() -> None:
    group = Group(mode="none")
    group.packets(0, 2)
    assert group.packets(0, 2) == [Drop(at(0), "duplicate"), Drop(at(2), "duplicate")]
    assert group.packets(1) == [out(1, b"1'"), out(2, b"2'")]


def test_a_gap_is_declared_lost_after_its_time_and_once() -> None:
    group = Group(mode="none")
    group.packets(0, 3, now_ns=100)
    assert group.primary.next_timer_ns() == 150
    assert group.primary.on_timer(149) == []
    assert group.primary.on_timer(150) == [Drop(at(1), "gap"), Drop(at(2), "gap"), out(1, b"3'")]
    assert group.primary.on_timer(500) == []
    assert group.packets(1) == [Drop(at(1), "duplicate")]


def test_a_second_gap_has_its_own_time() -> None:
    group = Group(mode="none")
    group.packets(1, now_ns=100)
    group.packets(3, now_ns=130)
    assert group.packets(0, now_ns=140) == [out(0, b"0'"), out(1, b"1'")]
    assert group.primary.next_timer_ns() == 180
    assert group.primary.on_timer(150) == []
    assert group.primary.on_timer(180) == [Drop(at(2), "gap"), out(2, b"3'")]


def test_an_earlier_packet_behind_the_gap_does_not_put_its_end_off() -> None:
    group = Group(mode="none")
    group.packets(4, now_ns=100)
    group.packets(2, now_ns=140)
    assert group.primary.next_timer_ns() == 150


def test_a_loss_that_is_known_is_not_waited_for() -> None:
    group = Group(mode="none")
    group.packets(0, 2)
    lost = group.primary.on_lost_input(0, at(1))
    assert lost == [Drop(at(1), "no-cpu"), out(1, b"2'")]
    assert group.packets(1) == [Drop(at(1), "duplicate")]


def test_an_early_loss_is_declared_in_its_turn() -> None:
    group = Group(mode="none")
    assert group.primary.on_lost_input(0, at(1)) == []
    assert group.packets(0) == [out(0, b"0'"), Drop(at(1), "no-cpu")]


def test_a_newer_epoch_starts_the_flow_anew_and_an_older_one_is_dropped() -> None:
    group = Group(mode="none")
    group.packets(0, 1)
    assert group.primary.on_packet(0, at(0, epoch=1), b"a") == [out(0, b"a'", epoch=1)]
    assert group.packets(2) == [Drop(at(2), "old-epoch")]
    assert group.primary.on_packet(0, at(1, epoch=1), b"b") == [out(1, b"b'", epoch=1)]


def test_a_newer_epoch_waits_for_what_waits_of_the_older() -> None:
    group = Group(mode="none")
    group.packets(0, 2)
    assert group.primary.on_packet(10, at(0, epoch=1), b"a") == []
    assert group.packets(1, now_ns=20) == [out(1, b"1'"), out(2, b"2'"), out(0, b"a'", epoch=1)]


def test_a_stamp_far_ahead_of_its_turn_is_refused() -> None:
    group = Group(mode="none")
    far = at(MAX_GAP + 1)
    assert group.primary.on_packet(0, far, b"x") == [Drop(far, "beyond-window")]
    assert group.primary.on_packet(0, at(MAX_GAP), b"x") == []


def test_beyond_the_bound_of_the_input_buffer_packets_are_lost_in_their_turn() -> None:
    group = Group(mode="none", buffer_packets=2)
    assert group.packets(1, 2, 3) == []
    assert group.primary.inputs.packets == 2
    expected = [out(0, b"0'"), out(1, b"1'"), out(2, b"2'"), Drop(at(3), "input-buffer-full")]
    assert group.packets(0) == expected


def test_what_there_is_no_room_to_note_is_lost_all_the_same() -> None:
    group = Group(mode="none", buffer_packets=1)
    assert group.packets(1, 2, 3, 4) == []
    assert (group.primary.inputs.packets, group.primary.inputs.notes) == (1, 1)
    group.packets(0, now_ns=10)
    assert group.primary.next_timer_ns() == 60
    assert group.primary.on_timer(60) == [Drop(at(3), "gap"), Drop(at(4), "gap")]
