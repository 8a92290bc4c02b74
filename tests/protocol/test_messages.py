"""Messages between members: what is due is sent once, and what is not sound changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from testbed.vnf.replication.following import promised_ns
from testbed.vnf.replication.member import (
    COMMITTED,
    GROUP_EPOCH,
    LOG_FIRST,
    NEEDS_SNAPSHOT,
    NEXT,
    P_ACKED,
    P_LEASE_NS,
    P_STATE,
    P_SYNC,
    PROMISE_NS,
    RELEASED,
    REQUIRED,
    ROLE,
    S_LEASE_NS,
    SEEN_EPOCH,
    WANTED,
)
from testbed.vnf.replication.messages import ACK, HEAD_WORDS, LOG, SNAPSHOT
from testbed.vnf.state.arrays import Words
from tests.protocol.driver import GROUP, MS, Node, advance, exchange, group, replication

numbers = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-3, 70),
    st.integers(0, 1 << 20),
)


def head(kind: int, sender: int, *rest: int, group_name: int = GROUP) -> Words:
    message = np.zeros(HEAD_WORDS, np.int64)
    message[0] = kind | sender << 8 | (group_name & 0xFFFFFFFF) << 16
    message[1 : 1 + len(rest)] = rest
    return message


def busy_group() -> list[Node]:
    """A primary, a backup that lags, and a learner; all have something to lose."""
    nodes = group(members=3)
    for seq in range(6):
        for node in nodes[:2]:
            node.packet(seq % 2, seq // 2)
    nodes[0].idle()
    exchange(nodes)
    for node in nodes:
        node.configure(2, 0, 0b010, 0b100)
    nodes[0].packet(0, 3)
    nodes[1].packet(0, 5)
    return nodes


@settings(max_examples=600, deadline=None, derandomize=True)
@given(
    st.sampled_from([0, 1, 2]),
    st.sampled_from([0, LOG, ACK, SNAPSHOT, 4, 255]),
    st.integers(0, 255),
    st.lists(numbers, max_size=60),
    st.booleans(),
)
@example(1, LOG, 0, [2, 0, 6, 1 << 62, 0, 0, 0, 1, 0], True)
@example(1, LOG, 0, [2, 0, (1 << 63) - 1, 5, 0, 0, 0, 1, 0], True)
@example(1, SNAPSHOT, 0, [2, 2, 0, 5, 0, (1 << 63) - 1, 0, 1, 0, 0], True)
@example(0, ACK, 1, [2, 1 << 62, 1 << 62, 1 << 62, 0, 0, 0, 1, 0], True)
def test_any_words_do_no_harm(
    to: int, kind: int, sender: int, rest: list[int], own_group: bool
) -> None:
    node = busy_group()[to]
    before = {word: node[word] for word in (ROLE, NEXT, RELEASED, COMMITTED, LOG_FIRST)}
    state = node.state()
    message = np.array([0, *rest], np.int64)
    message[0] = kind | sender << 8 | (GROUP if own_group else GROUP + 1) << 16
    known = node.read(message)
    if not own_group or sender >= 8 or kind not in (LOG, ACK, SNAPSHOT) or len(message) < 10:
        assert not known
        assert {word: node[word] for word in before} == before
        assert node.state() == state
    # A role is the FDU's word alone, and what is released or committed is never taken back.
    assert node[ROLE] == before[ROLE]
    assert node[RELEASED] >= before[RELEASED] or kind == SNAPSHOT
    assert node[LOG_FIRST] <= node[NEXT]
    assert node[RELEASED] <= node[COMMITTED] <= node[NEXT] or to == 1
    # It goes on: nothing is out of its place.
    for seq in range(3, 6):
        node.packet(1, seq)
    node.now_ns += 50 * MS
    node.time()
    for peer in range(3):
        node.take_all(peer)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 400), numbers, st.integers(0, 2))
def test_a_word_that_is_wrong_in_a_log_message_does_no_harm(
    place: int, value: int, times: int
) -> None:
    first, second, _ = busy_group()
    first.idle()
    message = first.take(1)
    assert message is not None
    message[1 + place % (len(message) - 1)] = value
    for _ in range(times):
        second.read(message)
    assert 0 <= second[LOG_FIRST] <= second[RELEASED] <= second[NEXT]
    second.packet(0, 4)


def test_a_message_of_another_group_is_none() -> None:
    first, second, _ = busy_group()
    first.idle()
    message = first.take(1)
    assert message is not None
    assert not second.read(message, group=GROUP + 1)
    assert second[NEXT] == 6
    assert second.read(message)
    assert second[NEXT] == 7


def test_entries_that_come_twice_or_too_early_are_not_applied() -> None:
    first, second = group(config=replication(batch_packets=1))
    for seq in range(3):
        first.packet(0, seq)
    first.idle()
    one, two, three = first.take_all(1)
    for message in (three, one, one, three, two, one, three):
        assert second.read(message)
    assert second[NEXT] == 3
    assert second.state() == first.state()


def test_an_acknowledgement_renews_the_lease_from_the_sending_on() -> None:
    first, second = group()
    first.packet(0, 0)
    first.idle()
    sent_ns = first.now_ns
    (message,) = first.take_all(1)
    advance([first, second], 3 * MS)
    second.read(message)
    assert second[PROMISE_NS] == second.now_ns + promised_ns(second[S_LEASE_NS])
    (answer,) = second.take_all(0)
    advance([first, second], 3 * MS)
    first.read(answer)
    assert first.peer(1, P_LEASE_NS) == sent_ns + first[S_LEASE_NS]
    assert first.bound() == 1
    first.now_ns = sent_ns + first[S_LEASE_NS]
    assert first.bound() == 0


def test_an_answer_to_an_old_epoch_renews_no_lease() -> None:
    """Its sender has promised nothing: it may be about to take over."""
    first, second, third = group(members=3)
    first.packet(0, 0)
    first.idle()
    (message,) = first.take_all(1)
    lease_ns = first.peer(1, P_LEASE_NS)
    promise_ns = second[PROMISE_NS]
    advance([first, second, third], 5 * MS)
    second.configure(2, 0, 0b010, 0b100)
    second.read(message)
    assert second[PROMISE_NS] == promise_ns
    (answer,) = second.take_all(0)
    first.configure(2, 0, 0b010, 0b100)
    first.read(answer)
    assert first.peer(1, P_LEASE_NS) == lease_ns


def test_the_promise_outlasts_the_lease_on_clocks_that_differ() -> None:
    for lease_ns in (1, 1000, 250 * MS):
        slow, fast = 1 - 1 / 520, 1 + 1 / 520
        assert lease_ns / slow <= promised_ns(lease_ns) / fast


@pytest.mark.parametrize("needs", [0, 1])
def test_an_acknowledgement_of_another_log_counts_for_nothing(needs: int) -> None:
    first, _, _ = busy_group()
    acked = first.peer(1, P_ACKED)
    answer = head(ACK, 1, 2, 7, 0, first.now_ns, needs, 0, 0, 9, 0)
    first.packet(0, 4)
    first.read(answer)
    assert first.peer(1, P_ACKED) == acked
    assert (first.peer(1, P_SYNC) == WANTED) == bool(needs)


def test_a_newer_epoch_fences_a_primary() -> None:
    first, _, _ = busy_group()
    first.read(head(ACK, 1, 9))
    assert (first[SEEN_EPOCH], first[GROUP_EPOCH]) == (9, 2)
    before = first[NEXT]
    first.packet(0, 4)
    assert first[NEXT] == before
    assert first.bound() == first[RELEASED]


def test_a_follower_with_entries_that_the_new_primary_never_had_needs_a_snapshot() -> None:
    first, second, third = group(2)
    first.packet(0, 0)
    first.idle()
    for message in first.take_all(2):
        third.read(message)
    assert (second[NEXT], third[NEXT]) == (0, 1)
    second.packet(1, 0)
    second.packet(1, 1)
    for node in (second, third):
        node.configure(2, 1, 0b100)
    exchange([second, third])
    assert third.state() == second.state()
    assert (third[NEXT], third[NEEDS_SNAPSHOT]) == (2, 0)


def test_so_does_one_that_missed_the_epoch_in_which_the_logs_parted() -> None:
    """The base of a later epoch says nothing about it: tenures are compared."""
    first, second, third = group(2)
    first.packet(0, 0)
    first.idle()
    for message in first.take_all(2):
        third.read(message)
    second.configure(2, 1, 0b100)
    for seq in range(4):
        second.packet(1, seq)
    # The third member hears of none of this before the group changes again.
    for node in (second, third):
        node.configure(3, 1, 0b100, 0b1000)
    exchange([second, third])
    assert third.state() == second.state()
    assert second.peer(2, P_STATE) == REQUIRED


def test_a_member_that_the_primary_left_behind_gets_a_snapshot() -> None:
    nodes = group(1, replication(buffer_packets=4), members=3)
    first, _, third = nodes
    for node in nodes:
        node.configure(2, 0, 0b010, 0b100)
    exchange(nodes)
    third.configure(3, 0, 0b010)
    for node in nodes[:2]:
        node.configure(3, 0, 0b010)
    for seq in range(9):
        first.packet(0, seq)
        first.idle()
        exchange(nodes[:2])
        first.emit()
    for node in nodes:
        node.configure(4, 0, 0b010, 0b100)
    exchange(nodes)
    assert third[NEXT] == 9
    assert third.state() == first.state()
