"""What a group does with inputs: order, loss, the batches of each mode, full logs, hand-over."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.scenario.types import ReplicationMode
from testbed.vnf.replication.member import (
    CLOSED,
    COMMITTED,
    COPY_BUFFER_FULL,
    DUPLICATE,
    FLOWS_FULL,
    GAP,
    INPUTS,
    NEVER,
    NEXT,
    NO_CPU,
    NOT_MEMBER,
    NOTES,
    OLD_EPOCH,
    P_CAUGHT_UP,
    P_STATE,
    READY_FIRST,
    RELEASED,
    REQUIRED,
    TAKEN,
    TOO_LARGE,
)
from testbed.vnf.replication.messages import LOG
from tests.protocol.driver import LEASE_NS, MS, Node, advance, exchange, group, replication

MODES: tuple[ReplicationMode, ...] = ("none", "deft", "pipelined")


def alone(**changed: int) -> Node:
    node = Node(0, replication("none", **changed))
    node.configure(1, 0)
    return node


def test_a_member_of_no_group_takes_nothing() -> None:
    assert Node(0).packet(0, 0) == NOT_MEMBER


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=8))
def test_inputs_take_effect_once_and_in_order(order: list[int], again: list[int]) -> None:
    node = alone()
    expected = alone()
    for seq in range(8):
        expected.packet(0, seq)
    for seq in order + again:
        fate = node.packet(0, seq)
        assert fate == (TAKEN if seq in order else DUPLICATE) or seq in again
    assert node.log() == [(0, 0, seq, 0) for seq in range(8)]
    assert node.state() == expected.state()
    assert node.emit() == expected.emit()
    assert node[INPUTS] == 0


def test_what_is_missed_for_too_long_is_declared_lost_once() -> None:
    node = alone()
    node.packet(0, 0)
    node.packet(0, 3)
    assert node.due_ns() == node.now_ns + 8 * MS
    node.now_ns += 8 * MS - 1
    node.time()
    assert node[NEXT] == 1
    node.now_ns += 1
    node.time()
    assert node.log() == [(0, 0, 0, 0), (0, 0, 1, GAP), (0, 0, 2, GAP), (0, 0, 3, 0)]
    assert node.packet(0, 1) == DUPLICATE
    assert node.due_ns() == NEVER


@pytest.mark.parametrize(("reason", "large"), [(NO_CPU, False), (TOO_LARGE, True)])
def test_what_cannot_be_processed_is_declared_in_its_turn(reason: int, large: bool) -> None:
    node = alone()
    node.packet(0, 1, reason=0 if large else reason, large=large)
    assert node[NEXT] == 0
    node.packet(0, 0)
    assert node.log() == [(0, 0, 0, 0), (0, 0, 1, reason)]


def test_a_new_epoch_of_the_stamper_starts_its_numbers_anew() -> None:
    node = alone()
    for seq in range(3):
        node.packet(0, seq)
    node.packet(0, 1, epoch=1)
    node.packet(0, 0, epoch=1)
    assert node.packet(0, 3) == OLD_EPOCH
    outputs = node.emit()
    assert [output[1] for output in outputs] == sorted(output[1] for output in outputs)
    assert next(output[2] for output in outputs if output[1] == 1) == 0


def test_more_flows_than_there_is_room_for_are_refused() -> None:
    node = alone(max_flows=2)
    assert [node.packet(flow, 0) for flow in range(3)] == [TAKEN, TAKEN, FLOWS_FULL]


def test_a_buffer_that_is_full_says_so_and_nothing_is_lost_in_silence() -> None:
    node = alone(buffer_packets=2)
    fates = [node.packet(0, seq) for seq in range(1, 6)]
    assert fates == [*[TAKEN] * 4, COPY_BUFFER_FULL]
    for _ in range(10):
        node.packet(0, 0)
        node.now_ns += 8 * MS
        node.time()
        node.emit()
    seen = {}
    assert node[NEXT] == 6
    node.packet(0, 6)
    seen.update(node.state())
    assert seen
    assert (node[INPUTS], node[NOTES]) == (0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_an_output_waits_for_the_backup_unless_there_is_none(mode: ReplicationMode) -> None:
    first, second = group(config=replication(mode, batch_packets=1))
    first.packet(0, 0)
    first.time()
    if mode == "none":
        assert first.bound() == 1
        return
    assert first.bound() == 0
    (message,) = first.take_all(1)
    second.read(message)
    assert first.bound() == 0
    (answer,) = second.take_all(0)
    first.read(answer)
    assert first[COMMITTED] == 1
    # In mode "deft" the backup has to know of the commit before.
    assert first.bound() == (0 if mode == "deft" else 1)
    exchange([first, second])
    assert first.bound() == 1


def test_batches_are_closed_by_count_by_age_and_when_the_input_is_empty() -> None:
    first, _ = group(config=replication(batch_packets=3))
    first.packet(0, 0)
    assert first.take(1) is None
    first.idle()
    assert [int(message[4]) for message in first.take_all(1)] == [1]
    for seq in range(1, 8):
        first.packet(0, seq)
    first.time()
    assert [int(message[4]) for message in first.take_all(1)] == [3, 3]
    aged, _ = group(config=replication(batch_packets=3, batch_ns=2 * MS))
    aged.packet(0, 0)
    aged.idle()
    assert aged.take(1) is None
    assert aged.due_ns() == aged.now_ns + 2 * MS
    aged.now_ns += 2 * MS
    aged.time()
    assert [int(message[4]) for message in aged.take_all(1)] == [1]


def test_deft_has_one_batch_under_way() -> None:
    first, second = group(config=replication("deft", batch_packets=2))
    for seq in range(5):
        first.packet(0, seq)
    first.time()
    assert first[CLOSED] == 2
    exchange([first, second])
    assert first[CLOSED] == 2
    assert first.bound() == 2
    first.emit()
    first.time()
    assert first[CLOSED] == 4


def test_deft_goes_on_alone() -> None:
    node = Node(0, replication("deft", batch_packets=2, availability=True))
    node.configure(1, 0)
    for seq in range(5):
        node.packet(0, seq)
    node.time()
    node.emit()
    assert (node[RELEASED], node[CLOSED]) == (5, 2)
    node.time()
    assert node[CLOSED] == 4


@pytest.mark.parametrize("availability", [False, True])
def test_without_any_backup_safety_holds_and_availability_goes_on(availability: bool) -> None:
    node = Node(0, replication(availability=availability))
    node.configure(1, 0)
    node.packet(0, 0)
    node.idle()
    node.time()
    assert node.bound() == int(availability)


def test_entries_that_stay_unanswered_are_sent_again_later_and_later() -> None:
    first, second = group()
    first.packet(0, 0)
    first.idle()
    assert len(first.take_all(1)) == 1
    waits = []
    for _ in range(5):
        waits.append(first.due_ns() - first.now_ns)
        first.now_ns = first.due_ns()
        first.time()
        messages = first.take_all(1)
        assert [int(message[0]) & 0xFF for message in messages] == [LOG]
        assert messages[0][3:5].tolist() == [0, 1]
    assert waits == [wait * MS for wait in (5, 10, 20, 40, 40)]
    second.now_ns = first.now_ns
    second.read(messages[0])
    exchange([first, second])
    assert first.bound() == 1
    assert first.due_ns() == NEVER


def test_a_lease_that_ran_out_is_asked_for_again() -> None:
    first, second = group()
    first.packet(0, 0)
    first.idle()
    (message,) = first.take_all(1)
    second.read(message)
    (answer,) = second.take_all(0)
    advance([first, second], LEASE_NS + 1)
    first.read(answer)
    assert first[COMMITTED] == 1
    assert first.bound() == 0
    assert first.due_ns() == first.now_ns
    first.time()
    assert first.due_ns() == NEVER
    exchange([first, second])
    assert first.bound() == 1


def test_a_full_log_holds_the_input_back_until_the_backup_answers() -> None:
    first, second = group(config=replication(buffer_packets=3, batch_packets=1))
    for seq in range(6):
        first.packet(0, seq)
    assert (first[NEXT], first[INPUTS]) == (3, 3)
    assert first[READY_FIRST] >= 0
    first.time()
    exchange([first, second])
    assert first[NEXT] == 3
    first.emit()
    assert first.due_ns() == first.now_ns
    first.time()
    assert (first[NEXT], first[INPUTS]) == (6, 0)


def test_a_learner_that_has_caught_up_is_waited_for() -> None:
    nodes = group(members=3)
    first, second, third = nodes
    for node in nodes:
        node.configure(2, 0, 0b010, 0b100)
    exchange(nodes)
    assert first.peer(2, P_CAUGHT_UP) == 1
    assert first.peer(2, P_STATE) == REQUIRED
    first.packet(0, 0)
    first.idle()
    exchange([first, second])
    assert first.bound() == 0
    assert third[NEXT] == 0
    advance(nodes, 6 * MS)
    first.time()
    exchange(nodes)
    assert first.bound() == 1


def test_a_new_primary_waits_for_its_promise_unless_the_old_one_is_dead() -> None:
    for confirmed in (0, 1):
        first, second, third = group(2)
        first.packet(0, 0)
        first.idle()
        exchange([first, second, third])
        for node in (second, third):
            node.configure(2, 1, 0b100, confirmed=confirmed)
        exchange([second, third])
        assert second.bound() == confirmed
        advance([second, third], LEASE_NS + LEASE_NS // 200)
        second.time()
        exchange([second, third])
        assert second.bound() == 1


def test_a_new_primary_emits_again_and_goes_on_with_its_copies() -> None:
    nodes = group(2)
    for seq in range(4):
        for node in nodes:
            node.packet(0, seq)
    nodes[0].idle()
    exchange(nodes)
    outputs = nodes[0].emit()
    for node in nodes[1:]:
        node.packet(0, 5)
        node.packet(0, 4)
        node.configure(2, 1, 0b100)
    exchange(nodes[1:])
    again = nodes[1].emit()
    assert again[: len(outputs)] == outputs
    assert nodes[1][NEXT] == 6


def test_a_learner_that_leaves_no_longer_holds_the_log() -> None:
    nodes = group(0, replication(buffer_packets=3, availability=True), members=2)
    first = nodes[0]
    first.configure(2, 0, 0, 0b10)
    nodes[1].configure(2, 0, 0, 0b10)
    first.take_all(1)
    for seq in range(6):
        first.packet(0, seq)
    first.idle()
    first.emit()
    assert (first[NEXT], first[INPUTS]) == (3, 3)
    first.configure(3, 0)
    assert first[INPUTS] == 0


def test_a_hand_over_drains_and_loses_nothing() -> None:
    first, second = group()
    first.packet(0, 0)
    first.drain()
    for node in (first, second):
        node.packet(0, 1)
    assert not first.is_drained()
    assert (first[NEXT], first[INPUTS]) == (1, 1)
    exchange([first, second])
    first.emit()
    assert first.is_drained()
    for node in (first, second):
        node.configure(2, 1, 0b001)
    exchange([first, second])
    assert second[NEXT] == 2
    assert first[NEXT] == 2
    second.emit()
    assert first.state() == second.state()


def test_a_hand_over_that_is_called_off_goes_on_where_it_was() -> None:
    first, second = group()
    first.drain()
    first.packet(0, 0)
    assert first[NEXT] == 0
    first.drain(0)
    assert first[NEXT] == 1
    exchange([first, second])
    assert first.bound() == 1
