"""Snapshots: what is taken is what is installed; what is not sound changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.vnf.replication.flow_table import find_flow
from testbed.vnf.replication.member import (
    AT_SNAPSHOT,
    COMMITTED,
    F_EPOCH,
    F_EXPECTED,
    F_OUT,
    INPUTS,
    LOG_FIRST,
    NEEDS_SNAPSHOT,
    NEXT,
    P_CAUGHT_UP,
    RELEASED,
    SNAPSHOT_GOT,
    SNAPSHOT_WORDS,
)
from testbed.vnf.replication.messages import HEAD_WORDS, SNAPSHOT
from testbed.vnf.replication.snapshot import install_snapshot, take_snapshot
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import contents
from tests.protocol.driver import Node, advance, exchange, group, replication


def marks(node: Node) -> dict[int, tuple[int, ...]]:
    m = node.member.words
    found = {}
    for flow in range(8):
        at = int(find_flow(m, 2 + (flow & 1), flow, False))
        if at >= 0 and m[at + F_EPOCH] >= 0:
            found[flow] = tuple(int(m[at + word]) for word in (F_EPOCH, F_EXPECTED, F_OUT))
    return found


def busy_primary(released: int = 3) -> list[Node]:
    """A primary and its backup; some outputs are emitted, and some inputs wait."""
    nodes = group(members=3)
    for seq in range(9):
        for node in nodes[:2]:
            node.packet(seq % 3, seq // 3)
    nodes[0].packet(4, 2)
    nodes[0].idle()
    exchange(nodes)
    for index in range(released):
        nodes[0].member.words[RELEASED] = index + 1
    return nodes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 9))
def test_what_is_taken_is_what_is_installed(released: int) -> None:
    first, _, third = busy_primary(released)
    third.packet(1, 1)
    third.configure(1, 0, 0b010, 0b100)
    third.packet(1, 7)
    assert take_snapshot(first.member)
    at = third[AT_SNAPSHOT]
    size = first[SNAPSHOT_WORDS]
    third.member.words[at : at + size] = first.member.words[first[AT_SNAPSHOT] :][:size]
    third.member.words[SNAPSHOT_WORDS] = size
    third.member.words[SNAPSHOT_WORDS - 1] = first[NEXT]
    assert install_snapshot(third.member)
    assert contents(third.member.records) == contents(first.member.records)
    assert marks(third) == marks(first)
    assert (third[NEXT], third[RELEASED], third[LOG_FIRST]) == (9, released, released)
    held = range(released, 9)
    assert [third.entry(i) for i in held] == [first.entry(i) for i in held]
    assert third[COMMITTED] == released
    assert third[INPUTS] == 1


def test_a_learner_gets_a_snapshot_and_then_the_log() -> None:
    nodes = busy_primary()
    first, second, third = nodes
    for node in nodes:
        node.configure(2, 0, 0b010, 0b100)
    exchange(nodes)
    assert first.peer(2, P_CAUGHT_UP)
    assert (third[NEXT], third[RELEASED], third[NEEDS_SNAPSHOT]) == (9, 3, 0)
    assert third.state() == first.state() == second.state()
    first.packet(0, 3)
    first.idle()
    exchange(nodes)
    assert third[NEXT] == 10
    assert third.state() == first.state()


def test_an_admitted_member_emits_what_the_snapshot_held() -> None:
    nodes = busy_primary()
    first, _, third = nodes
    expected = [first.output(index) for index in range(3, 9) if first.has(index)]
    for node in nodes:
        node.configure(2, 0, 0b010, 0b100)
    exchange(nodes)
    for node in nodes:
        node.configure(3, 0, 0b110)
    for node in nodes[1:]:
        node.configure(4, 2, 0b010)
    exchange(nodes[1:])
    assert third.emit() == expected


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(256, 700), st.randoms(use_true_random=False))
def test_a_snapshot_comes_through_in_parts_of_any_size(size: int, rng: object) -> None:
    """Parts are lost and come in any order; they are sent again, and taken in order."""
    nodes = group(members=3, config=replication(max_message_bytes=size))
    first, second, third = nodes
    for seq in range(12):
        first.packet(seq % 4, seq // 4)
    first.idle()
    exchange(nodes)
    for node in nodes:
        node.configure(2, 0, 0b010, 0b100)
    for _ in range(60):
        advance(nodes, 6_000_000)
        first.time()
        chunks = first.take_all(2)
        rng.shuffle(chunks)  # type: ignore[attr-defined]
        for chunk in chunks[: 1 + len(chunks) // 2]:
            assert third.read(chunk)
        for answer in third.take_all(0):
            first.read(answer)
        exchange([first, second])
        if first.peer(2, P_CAUGHT_UP):
            break
    assert third[NEXT] == first[NEXT]
    assert third.state() == first.state()
    assert marks(third) == marks(first)


def _lie(word: int, value: int) -> Callable[[Words], None]:
    def change(snapshot: Words) -> None:
        snapshot[word] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _lie(0, -1),
        _lie(0, 1 << 40),
        _lie(1, -1),
        _lie(2, -1),
        _lie(2, 1 << 40),
        _lie(2, 2),
        lambda snapshot: snapshot.fill(0),
        lambda snapshot: snapshot.fill(-1),
    ],
)
def test_a_snapshot_that_is_not_sound_changes_nothing(change: Callable[[Words], None]) -> None:
    first, second, third = busy_primary()
    third.configure(2, 0, 0b010, 0b100)
    second_state = second.state()
    first.configure(2, 0, 0b010, 0b100)
    message = first.take(2)
    assert message is not None
    assert message[0] & 0xFF == SNAPSHOT
    assert message[6] == message[4]
    body = message[HEAD_WORDS:]
    before = third.member.words.copy()
    change(body)
    assert not third.read(message)
    after = third.member.words
    for word in (NEXT, RELEASED, COMMITTED, LOG_FIRST, SNAPSHOT_GOT):
        assert after[word] == before[word]
    assert third.state() == {}
    assert third[NEEDS_SNAPSHOT] == 1
    assert second.state() == second_state


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 30), st.integers(1, 6))
def test_noise_in_a_snapshot_never_breaks_a_member(seed: int, words: int) -> None:
    rng = np.random.default_rng(seed)
    first, _, third = busy_primary()
    third.configure(2, 0, 0b010, 0b100)
    first.configure(2, 0, 0b010, 0b100)
    message = first.take(2)
    assert message is not None
    places = rng.integers(HEAD_WORDS, len(message), words)
    message[places] = rng.integers(-(1 << 62), 1 << 62, words) >> rng.integers(0, 62, words)
    third.read(message)
    assert 0 <= third[RELEASED] <= third[NEXT]
    third.packet(1, 0)
