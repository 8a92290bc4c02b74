"""The ring of log entries: each stays what it was until it is forgotten, and none is split."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.vnf.replication import log
from testbed.vnf.replication.member import (
    AT_LOG,
    GAP,
    LOG_END,
    LOG_FIRST,
    LOSSES,
    MOST_ENTRY_WORDS,
    NEXT,
    S_BOUND,
)
from testbed.vnf.state.records import contents
from tests.protocol.driver import Node, group, replication


def alone(buffer: int = 8, log_words: int | None = None) -> Node:
    node = Node(0, replication("none", buffer_packets=buffer))
    if log_words is not None:
        m = node.member.words
        m[LOG_END] = m[AT_LOG] + log_words
    node.configure(1, 0)
    return node


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(1, 8), st.integers(0, 150), st.lists(st.integers(0, 4), max_size=60))
def test_entries_stay_what_they_were(buffer: int, more: int, emits: list[int]) -> None:
    node = alone(buffer)
    m = node.member.words
    m[LOG_END] = m[AT_LOG] + min(int(m[LOG_END] - m[AT_LOG]), int(m[MOST_ENTRY_WORDS]) + more)
    written: dict[int, list[int]] = {}
    for seq, emit in enumerate(emits):
        before = node[NEXT]
        node.packet(seq % 3, seq // 3)
        for index in range(before, node[NEXT]):
            written[index] = node.entry(index)
        assert node[NEXT] - node[LOG_FIRST] <= node[S_BOUND]
        for index in range(node[LOG_FIRST], node[NEXT]):
            at = int(log.entry_at(m, index))
            assert m[AT_LOG] <= at
            assert at + len(written[index]) <= m[LOG_END]
            assert node.entry(index) == written[index]
        log.forget_log(m, min(node[LOG_FIRST] + emit, node[NEXT]))


def test_without_room_an_input_waits_and_goes_on_later() -> None:
    node = alone(buffer=2)
    for seq in range(4):
        node.packet(0, seq)
    assert node[NEXT] == 2
    assert [output[2] for output in node.emit()] == [0, 1]
    node.idle()
    assert node[NEXT] == 4


def test_a_backup_carries_out_what_the_entry_says() -> None:
    first, second = group()
    for seq in range(5):
        first.packet(1, seq)
    first.packet(1, 7)
    first.now_ns = second.now_ns = 100_000_000
    first.time()
    first.idle()
    for message in first.take_all(1):
        assert second.read(message)
    assert second[NEXT] == first[NEXT] == 8
    assert second[LOSSES] == first[LOSSES] == 2
    assert [entry[3] for entry in second.log()][5:7] == [GAP, GAP]
    assert contents(second.member.records) == contents(first.member.records)
    assert [second.entry(index) for index in range(8)] == [first.entry(i) for i in range(8)]


@pytest.mark.parametrize(
    ("word", "value"),
    [(0, -1), (0, 0xFFFF), (0, 0xFFFF << 16), (1, -1), (3, -1), (4, -5), (5, 7), (5, 1 << 48)],
)
def test_an_entry_that_is_not_sound_is_refused(word: int, value: int) -> None:
    node = alone()
    node.packet(0, 0)
    words = node.member.words
    at = int(log.entry_at(words, 0))
    size = len(node.entry(0))
    assert log.sound_entry(node.member, words, at, at + size) == size
    assert log.sound_entry(node.member, words, at, at + size - 1) == 0
    words[at + word] = value
    assert log.sound_entry(node.member, words, at, at + size) == 0
