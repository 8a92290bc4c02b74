"""The primary's log: what waits for it, when it is sent, when it is sent again."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from testbed.vnf.replication.sender import DEFT_BATCH_NS
from testbed.vnf.replication.types import (
    Ack,
    Drop,
    Emit,
    LogBatch,
    LogEntry,
    Send,
)
from tests.protocol.group import CONFIG, Group, at, entries, indices, out


def test_output_waits_for_the_acknowledgement() -> None:
    group = Group()
    sent = group.packets(0, 1)
    assert indices(sent) == [[0, 1]]
    assert not any(isinstance(action, Emit) for action in sent)
    assert group.primary.on_ack(5, Ack(0, 1)) == [out(0, b"0'")]
    assert group.primary.on_ack(5, Ack(0, 1)) == []
    assert group.primary.on_ack(6, Ack(0, 2)) == [out(1, b"1'")]
    assert group.primary.unacknowledged == 0
    assert group.primary.next_timer_ns() is None


def test_an_entry_says_all_that_became_of_the_packet() -> None:
    group = Group(batch_packets=3)
    group.packets(0)
    group.primary.on_packet(0, at(1), b"drop")
    assert entries(group.primary.on_lost_input(0, at(2))) == [
        LogEntry(0, at(0), False, 0, b"0'", ((b"count", 1),)),
        LogEntry(1, at(1), False, None, None, ((b"count", 2),)),
        LogEntry(2, at(2), True, None, None, ()),
    ]
    released = group.primary.on_ack(0, Ack(0, 3))
    assert released == [out(0, b"0'"), Drop(at(1), "verdict"), Drop(at(2), "no-cpu")]


@pytest.mark.parametrize("ack", [Ack(1, 2), Ack(0, 0), Ack(0, 3)])
def test_an_acknowledgement_of_another_epoch_or_of_nothing_is_ignored(ack: Ack) -> None:
    group = Group()
    group.packets(0, 1)
    group.packets(2)
    assert group.primary.on_ack(0, ack) == []
    assert group.primary.unacknowledged == 3


def test_the_next_batch_says_what_was_released() -> None:
    group = Group()
    group.packets(0, 1)
    group.primary.on_ack(0, Ack(0, 2))
    (send,) = group.packets(2, 3)
    assert isinstance(send, Send)
    assert isinstance(send.message, LogBatch)
    assert send.message.released == 2


def test_a_gap_is_declared_in_the_log() -> None:
    group = Group()
    group.packets(1)
    sent = group.primary.on_timer(50)
    assert [(e.stamp, e.lost, e.output) for e in entries(sent)] == [
        (at(0), True, None),
        (at(1), False, b"1'"),
    ]


def test_a_full_log_holds_inputs_back() -> None:
    group = Group(buffer_packets=3, batch_packets=1)
    assert indices(group.packets(0, 1, 2, 3, 4)) == [[0], [1], [2]]
    assert group.state == {b"count": 3}
    assert group.primary.inputs.packets == 2
    actions = group.primary.on_ack(0, Ack(0, 2))
    assert actions[:2] == [out(0, b"0'"), out(1, b"1'")]
    assert indices(actions) == [[3], [4]]


def test_a_full_log_holds_the_declaration_of_a_gap_back() -> None:
    group = Group(buffer_packets=2, batch_packets=1)
    group.packets(0, 3, now_ns=10)
    assert [e.lost for e in entries(group.primary.on_timer(60))] == [True]
    assert group.primary.next_timer_ns() == 1010
    group.primary.on_ack(70, Ack(0, 2))
    assert group.primary.next_timer_ns() == 60
    assert [e.lost for e in entries(group.primary.on_timer(70))] == [True, False]


def test_an_entry_that_no_message_can_hold_is_a_declared_loss() -> None:
    group = Group(batch_packets=1)
    (entry,) = entries(group.primary.on_packet(0, at(0), b"large"))
    assert entry.lost and entry.delta == ()
    assert group.state == {}
    assert group.primary.on_ack(0, Ack(0, 1)) == [Drop(at(0), "too-large")]


def test_a_batch_that_is_too_large_is_split() -> None:
    group = Group(max_message_bytes=400, batch_packets=4)
    sent = [a for n in range(4) for a in group.primary.on_packet(0, at(n), bytes(100))]
    assert indices(sent) == [[0, 1], [2, 3]]


# When batches are sent.


def test_pipelined_sends_when_the_input_runs_empty() -> None:
    group = Group(batch_packets=10)
    assert group.packets(0) == []
    assert indices(group.primary.on_idle(0)) == [[0]]
    assert group.packets(1) == []
    assert indices(group.primary.on_idle(0)) == [[1]]
    assert group.primary.on_idle(0) == []


def test_pipelined_with_a_time_waits_for_it() -> None:
    group = Group(batch_packets=10, batch_ns=30)
    assert group.packets(0, now_ns=5) == []
    assert group.packets(1, now_ns=20) == []
    assert group.primary.on_idle(20) == []
    assert group.primary.next_timer_ns() == 35
    assert group.primary.on_timer(34) == []
    assert indices(group.primary.on_timer(35)) == [[0, 1]]


def test_deft_has_one_batch_in_flight() -> None:
    group = Group(mode="deft")
    assert indices(group.packets(0, 1)) == [[0, 1]]
    assert group.packets(2, 3, 4) == []
    actions = group.primary.on_ack(0, Ack(0, 2))
    assert actions[:2] == [out(0, b"0'"), out(1, b"1'")]
    assert indices(actions) == [[2, 3]]


def test_deft_waits_for_a_full_batch_or_its_time() -> None:
    group = Group(mode="deft")
    assert group.packets(0, now_ns=7) == []
    assert group.primary.on_idle(8) == []
    assert group.primary.next_timer_ns() == 7 + DEFT_BATCH_NS
    assert indices(group.primary.on_timer(7 + DEFT_BATCH_NS)) == [[0]]


def test_deft_sends_an_overdue_batch_when_its_turn_comes() -> None:
    group = Group(mode="deft", batch_ns=10)
    group.packets(0, 1, 2)
    assert group.primary.next_timer_ns() == 1000
    assert indices(group.primary.on_ack(20, Ack(0, 2))) == [[2]]


# Retransmission.


def test_what_stays_unacknowledged_is_sent_again_from_the_first() -> None:
    group = Group()
    group.packets(0, 1, 2, 3)
    group.primary.on_ack(100, Ack(0, 1))
    assert group.primary.next_timer_ns() == 1100
    assert indices(group.primary.on_timer(1099)) == []
    assert indices(group.primary.on_timer(1100)) == [[1, 2]]


def test_after_a_retransmission_the_rest_follows_its_acknowledgements() -> None:
    group = Group()
    group.packets(*range(10))
    assert indices(group.primary.on_timer(1000)) == [[0, 1]]
    assert indices(group.primary.on_ack(1100, Ack(0, 2))) == [[2, 3], [4, 5]]
    assert indices(group.primary.on_ack(1200, Ack(0, 8))) == [[8, 9]]
    assert indices(group.packets(10, 11)) == [[10, 11]]


def test_retransmissions_become_rarer_until_there_is_progress() -> None:
    group = Group()
    group.packets(0, 1)
    times = []
    for _ in range(6):
        due_ns = group.primary.next_timer_ns()
        assert due_ns is not None
        times.append(due_ns)
        assert indices(group.primary.on_timer(due_ns)) == [[0, 1]]
    steps = [after - before for before, after in pairwise(times)]
    assert steps == [2000, 4000, 8000, 8000, 8000]
    group.primary.on_ack(times[-1], Ack(0, 1))
    progress_ns = times[-1]
    assert group.primary.next_timer_ns() == progress_ns + 1000
    group.primary.on_timer(progress_ns + 1000)
    assert group.primary.next_timer_ns() == progress_ns + 3000


# The loss of the backup.


def test_unprotect_releases_what_waits_in_order() -> None:
    group = Group(buffer_packets=2)
    group.packets(0, 1, 2, 3)
    assert group.primary.unprotect(10) == [out(n, b"%d'" % n) for n in range(4)]
    assert not group.primary.protected
    assert group.packets(4) == [out(4, b"4'")]
    assert group.primary.on_ack(20, Ack(0, 2)) == []
    assert group.primary.on_timer(10**9) == []
    assert group.primary.next_timer_ns() is None
    assert group.primary.next_index == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "raft"),
        ("batch_packets", 0),
        ("batch_ns", -1),
        ("gap_timeout_ns", 0),
        ("retransmit_ns", 0.5),
        ("buffer_packets", 0),
        ("max_message_bytes", 255),
        ("batch_packets", True),
    ],
)
def test_a_configuration_out_of_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        replace(CONFIG, **{name: value})  # type: ignore[arg-type]
