"""Messages that overtake each other: each is of use when it comes, and nothing is asked for twice.

In none of these tests does time pass, so no timer can have helped.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.vnf.replication.early import SLACK_WORDS
from testbed.vnf.replication.log import words_of
from testbed.vnf.replication.member import (
    EARLY_END,
    EARLY_FILL,
    FOLLOWER,
    GROUP_EPOCH,
    LOG_FIRST,
    NEEDS_SNAPSHOT,
    NEXT,
    P_ACKED,
    P_CAUGHT_UP,
    P_SENT,
    RELEASED,
    ROLE,
    SNAPSHOT_GOT,
)
from testbed.vnf.replication.messages import AGAIN, LOG, SNAPSHOT
from testbed.vnf.state.arrays import Words
from tests.protocol.driver import Node, exchange, group, replication

ONE_EACH = replication(batch_packets=1)
"""A message for each entry."""


def entries(first: Node, count: int, begin: int = 0) -> list[Words]:
    """The messages of so many inputs more to the backup, an entry in each."""
    for seq in range(begin, begin + count):
        first.packet(seq % 3, seq // 3)
        first.idle()
    messages = first.take_all(1)
    assert [message[4] for message in messages] == [1] * count
    return messages


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.permutations(list(range(12))), st.integers(0, 11))
def test_entries_in_any_order_are_all_taken(order: list[int], again: int) -> None:
    first, second = group(config=ONE_EACH)
    messages = entries(first, 12)
    for number in [*order[: again + 1], *order[again:]]:
        assert second.read(messages[number])
    assert second[NEXT] == 12
    assert second.state() == first.state()
    assert [second.entry(i) for i in range(12)] == [first.entry(i) for i in range(12)]
    for answer in second.take_all(0):
        first.read(answer)
    assert first.peer(1, P_ACKED) == 12
    assert first.bound() == 12


def test_answers_in_any_order_count_as_the_last_one() -> None:
    first, second = group(config=ONE_EACH)
    answers = []
    for message in entries(first, 6):
        second.read(message)
        answers += second.take_all(0)
    for answer in (answers[4], answers[5], *answers[:4]):
        first.read(answer)
    assert first.peer(1, P_ACKED) == 6
    assert first.bound() == 6
    assert first.take(1) is None


def test_what_waits_for_long_takes_no_room_without_end() -> None:
    """Each message comes after the next but one: something always waits."""
    first, second = group(config=ONE_EACH)
    held: list[Words] = []
    largest = 0
    for seq in range(400):
        held += entries(first, 1, seq)
        largest = max(largest, int(words_of(int(held[-1][10]))))
        if len(held) == 4:
            assert second.read(held.pop(3))
            assert second.read(held.pop(0))
            assert second[EARLY_END] > second[NEXT]
            assert second[EARLY_FILL] <= SLACK_WORDS + 8 * largest
        for answer in second.take_all(0):
            first.read(answer)
        first.emit()
    for message in held:
        second.read(message)
    assert second[NEXT] == 400
    assert second.state() == first.state()


def test_an_index_that_no_primary_can_have_reached_is_not_kept() -> None:
    first, second = group(config=ONE_EACH)
    (message,) = entries(first, 1)
    for index in (200, 1 << 40, (1 << 63) - 1):
        message[3] = index
        assert second.read(message)
        assert second[EARLY_END] <= second[NEXT]


def test_room_that_the_message_itself_gives_back_is_used() -> None:
    """A follower whose log is full learns with the next entry that the old ones may go."""
    first, second = group(config=replication(batch_packets=1, buffer_packets=4))
    for message in entries(first, 4):
        second.read(message)
    for answer in second.take_all(0):
        first.read(answer)
    first.emit()
    assert second[NEXT] - second[LOG_FIRST] == 4
    (message,) = entries(first, 1, 4)
    assert message[6] == 4
    assert second.read(message)
    assert second[NEXT] == 5


def test_what_came_early_is_void_with_the_log_that_it_is_of() -> None:
    """The second member leads, and has other entries with the numbers that wait at the third."""
    first, second, third = group(2, ONE_EACH)
    for seq in range(3):
        first.packet(0, seq)
        first.idle()
    one, two, three = first.take_all(2)
    assert third.read(three)
    assert third.read(two)
    assert third[EARLY_END] == 3
    second.packet(1, 0)
    second.packet(1, 1)
    for node in (second, third):
        node.configure(2, 1, 0b100)
    exchange([second, third])
    assert third[EARLY_END] <= third[NEXT]
    assert third.state() == second.state()
    assert not third.read(one) or third.state() == second.state()


def test_a_follower_that_leads_forgets_what_came_early() -> None:
    first, second = group(config=ONE_EACH)
    messages = entries(first, 3)
    assert second.read(messages[2])
    second.configure(2, 1, 0)
    second.packet(0, 0)
    assert second[EARLY_END] <= second[NEXT]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False), st.integers(256, 500))
def test_parts_of_a_snapshot_in_any_order_are_all_taken(rng: random.Random, size: int) -> None:
    nodes = group(members=3, config=replication(max_message_bytes=size))
    first, _, third = nodes
    for seq in range(18):
        first.packet(seq % 6, seq // 6)
    first.idle()
    exchange(nodes)
    for node in nodes:
        node.configure(2, 0, 0b010, 0b100)
    parts = first.take_all(2)
    assert len(parts) > 3
    rng.shuffle(parts)
    for part in [*parts, *parts]:
        assert third.read(part)
    assert (third[NEEDS_SNAPSHOT], third[NEXT]) == (0, 18)
    assert third.state() == first.state()
    exchange(nodes)
    assert first.peer(2, P_CAUGHT_UP)


def test_a_late_part_of_a_snapshot_that_was_given_up_changes_nothing() -> None:
    nodes = group(members=3, config=replication(max_message_bytes=256))
    first, second, third = nodes
    for seq in range(9):
        first.packet(0, seq)
    first.idle()
    exchange([first, second])
    for node in nodes:
        node.configure(2, 0, 0b010, 0b100)
    old = first.take_all(2)
    assert {part[0] & 0xFF for part in old} == {SNAPSHOT}
    third.read(old[0])
    for node in nodes:
        node.configure(3, 0, 0b010)
    first.packet(0, 9)
    first.idle()
    exchange([first, second])
    for node in nodes:
        node.configure(4, 0, 0b010, 0b100)
    new = first.take_all(2)
    third.read(new[0])
    got = third[SNAPSHOT_GOT]
    assert got > 0
    old[1][1] = 4  # as if it had been sent again just then
    third.read(old[1])
    assert third[SNAPSHOT_GOT] == got
    for part in new[1:]:
        third.read(part)
    assert third[NEXT] == 10


@pytest.mark.parametrize("learner", [False, True])
def test_what_comes_before_the_word_of_the_fdu_is_asked_for_again(learner: bool) -> None:
    """A member that is out heeds the FDU alone: what a primary sends it before is void."""
    nodes = group(members=3)
    first, _, third = nodes
    for seq in range(5):
        first.packet(0, seq)
    first.idle()
    exchange(nodes)
    masks = (0b010, 0b100) if learner else (0b110, 0)
    for node in nodes[:2]:
        node.configure(2, 0, *masks)
    early = first.take_all(2)
    assert early
    for message in early:
        assert third.read(message)
    assert third.take(0) is None
    third.configure(2, 0, *masks)
    (answer,) = third.take_all(0)
    assert answer[5] & AGAIN
    lease = answer[4]
    assert lease < 0  # nothing was promised
    first.read(answer)
    exchange(nodes)
    assert third[NEXT] == 5
    assert third.state() == first.state()
    assert first.due_ns() > first.now_ns


def test_a_primary_that_is_to_follow_asks_for_what_came_before_it_knew() -> None:
    first, second = group()
    first.packet(0, 0)
    first.idle()
    exchange([first, second])
    first.emit()
    second.configure(2, 1, 0b01)
    second.packet(0, 1)
    second.idle()
    for message in second.take_all(0):
        assert message[0] & 0xFF == LOG
        first.read(message)
    assert second.peer(0, P_SENT) == 2
    first.configure(2, 1, 0b01)
    assert first[ROLE] == FOLLOWER
    exchange([first, second])
    assert (first[NEXT], first[GROUP_EPOCH]) == (2, 2)
    assert second.peer(0, P_ACKED) == 2
    assert second.bound() == 2
    assert second[RELEASED] < 2


def test_a_call_of_an_epoch_that_is_over_is_not_answered() -> None:
    nodes = group(members=3)
    first, second, third = nodes
    for node in nodes[:2]:
        node.configure(2, 0, 0b010, 0b100)
    for message in first.take_all(2):
        third.read(message)
    third.configure(3, 0, 0b010, 0b100)
    assert third.take(0) is None
    for node in (first, second):
        node.configure(3, 0, 0b010, 0b100)
    exchange(nodes)
    assert third[NEXT] == first[NEXT]
