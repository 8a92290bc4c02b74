"""The backup: copies, log, promotion."""

from __future__ import annotations

import pytest

from testbed.vnf.replication.backup import Backup
from testbed.vnf.replication.types import (
    Ack,
    Drop,
    LogBatch,
    LogEntry,
    Send,
)
from tests.protocol.group import Group, at, deliver, out


def test_the_backup_applies_the_log_and_acknowledges_all_of_it() -> None:
    group = Group()
    assert deliver(group, group.packets(0, 1)) == [Send(Ack(0, 2))]
    assert group.copy == group.state == {b"count": 2}
    assert group.backup.inputs.marks() == group.primary.inputs.marks() == {(4, 9): (0, 2, 2)}


def test_the_backup_takes_only_what_continues_the_log() -> None:
    group = Group()
    first, second = group.packets(0, 1), group.packets(2, 3)
    assert deliver(group, second) == [Send(Ack(0, 0))]
    assert group.copy == {}
    assert deliver(group, first) == [Send(Ack(0, 2))]
    assert deliver(group, first) == [Send(Ack(0, 2))]
    assert deliver(group, second) == [Send(Ack(0, 4))]
    assert group.copy == {b"count": 4}


@pytest.mark.parametrize("epoch", [0, 2])
def test_the_backup_refuses_another_group_epoch(epoch: int) -> None:
    group = Group()
    backup = Backup(group.config, {}, group.primary._process, group_epoch=1)
    entry = LogEntry(0, at(0), False, 0, b"x", ((b"count", 1),))
    assert backup.on_log(0, LogBatch(epoch, (entry,), 0)) == []
    assert backup.next_index == 0


def test_the_backup_keeps_copies_until_the_log_covers_them() -> None:
    group = Group()
    for seq in (0, 1, 2, 2):
        assert group.backup.on_packet(0, at(seq), b"%d" % seq) == []
    assert group.backup.inputs.packets == 3
    deliver(group, group.packets(0, 1))
    assert group.backup.inputs.packets == 1
    assert group.backup.on_packet(0, at(1), b"1") == []
    assert group.backup.inputs.packets == 1


def test_the_backup_keeps_no_more_copies_than_its_bound() -> None:
    group = Group(buffer_packets=2)
    for seq in (0, 1):
        assert group.backup.on_packet(0, at(seq), b"x") == []
    assert group.backup.on_packet(0, at(2), b"x") == [Drop(at(2), "copy-buffer-full")]
    assert group.backup.inputs.packets == 2


def test_the_backup_forgets_what_was_released() -> None:
    group = Group()
    deliver(group, group.packets(0, 1))
    assert group.backup.unreleased == 2
    group.primary.on_ack(0, Ack(0, 2))
    deliver(group, group.packets(2, 3))
    assert group.backup.unreleased == 2


# Promotion.


def test_promotion_emits_again_and_goes_on_from_the_copies() -> None:
    group = Group(batch_packets=3)
    for seq in (0, 1, 2, 3, 4, 6):
        group.backup.on_packet(0, at(seq), b"%d" % seq)
    group.packets(0)
    group.primary.on_packet(0, at(1), b"drop")
    deliver(group, group.primary.on_lost_input(0, at(2)))
    primary, actions = group.backup.promote(20, 1)
    assert actions == [
        out(0, b"0'"),
        Drop(at(1), "verdict"),
        Drop(at(2), "declared-lost"),
        out(1, b"3'"),
        out(2, b"4'"),
    ]
    assert not primary.protected
    assert primary.group_epoch == 1
    assert primary.next_index == 5
    assert group.copy == {b"count": 4}
    assert primary.next_timer_ns() == 50
    assert primary.on_timer(50) == [Drop(at(5), "gap"), out(3, b"6'")]


def test_promotion_does_not_emit_what_is_known_to_be_released() -> None:
    group = Group()
    deliver(group, group.packets(0, 1))
    group.primary.on_ack(0, Ack(0, 2))
    deliver(group, group.packets(2, 3))
    _, actions = group.backup.promote(0, 1)
    assert actions == [out(2, b"2'"), out(3, b"3'")]


def test_after_promotion_the_old_primary_is_not_heard() -> None:
    group = Group()
    late = group.packets(0, 1)
    group.backup.promote(0, 1)
    assert deliver(group, late) == []
    assert group.copy == {}


def test_copies_that_found_no_room_are_declared_lost_after_promotion() -> None:
    group = Group(buffer_packets=1)
    for seq in (0, 1, 2):
        group.backup.on_packet(0, at(seq), b"%d" % seq)
    primary, actions = group.backup.promote(100, 1)
    assert actions == [out(0, b"0'")]
    assert primary.on_timer(150) == [Drop(at(1), "gap"), Drop(at(2), "gap")]


def test_promotion_needs_a_newer_epoch() -> None:
    with pytest.raises(ValueError, match="group_epoch = 0"):
        Group().backup.promote(0, 0)
