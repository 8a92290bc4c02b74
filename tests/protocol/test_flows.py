"""Order within a flow, the buffer of inputs that wait, the table of flows, against plain models."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.vnf.replication import flow_table, flows
from testbed.vnf.replication.member import (
    AT_FLOWS,
    BEYOND_WINDOW,
    BUFFER_FULL,
    COPIES_DROPPED,
    COPY_BUFFER_FULL,
    DUPLICATE,
    F_EPOCH,
    F_GAP_NS,
    F_HEAD,
    F_KEY,
    FLOW_WORDS,
    FLOWS,
    GAP_FIRST,
    I_EPOCH,
    I_NEXT,
    I_REASON,
    I_SEQ,
    INPUTS,
    NEVER,
    NO_CPU,
    NOT_LOST,
    NOTES,
    OLD_EPOCH,
    TAKEN,
)
from testbed.vnf.state.arrays import Words
from tests.protocol.driver import Node, replication

PACKET = np.arange(64, dtype=np.uint8)


def words(buffer: int = 4, max_flows: int = 8) -> Words:
    config = replication(buffer_packets=buffer, max_flows=max_flows)
    return Node(0, config).member.words


def flow_of(m: Words, flow: int = 1, path: int = 2) -> int:
    return int(flow_table.find_flow(m, path, flow, True))


def put(m: Words, at: int, epoch: int, seq: int, reason: int = NOT_LOST) -> int:
    return int(flows.put(m, at, 2, epoch, seq, PACKET, 0, 16, reason))


def waiting(m: Words, at: int) -> list[tuple[int, int, int]]:
    found = []
    slot = int(m[at + F_HEAD])
    while slot >= 0:
        found.append((int(m[slot + I_EPOCH]), int(m[slot + I_SEQ]), int(m[slot + I_REASON])))
        slot = int(m[slot + I_NEXT])
    return found


def test_what_waits_is_in_order_whatever_it_came_in() -> None:
    m = words()
    at = flow_of(m)
    for epoch, seq in [(0, 5), (1, 0), (0, 2), (0, 9)]:
        assert put(m, at, epoch, seq) == TAKEN
    assert [entry[:2] for entry in waiting(m, at)] == [(0, 2), (0, 5), (0, 9), (1, 0)]
    assert put(m, at, 0, 5) == DUPLICATE


def test_without_room_a_note_is_kept_and_then_only_the_last() -> None:
    m = words(buffer=2)
    at = flow_of(m)
    fates = [put(m, at, 0, seq) for seq in (1, 2, 3, 4, 5, 6)]
    assert fates == [*[TAKEN] * 4, *[COPY_BUFFER_FULL] * 2]
    kept = waiting(m, at)
    assert kept == [(0, 1, 0), (0, 2, 0), (0, 3, BUFFER_FULL), (0, 4, BUFFER_FULL)]
    assert (m[INPUTS], m[NOTES]) == (2, 2)
    while m[at + F_HEAD] >= 0:
        flows.mark(m, at, 0, int(m[int(m[at + F_HEAD]) + I_SEQ]), False, 1)
        flows.free(m, flows.take_head(m, at))
    assert flows.missing(m, at) == (0, 5, 7)
    assert (m[INPUTS], m[NOTES]) == (0, 0)


def test_of_two_epochs_that_lost_something_the_newer_is_remembered() -> None:
    m = words(buffer=1)
    at = flow_of(m)
    flows.mark(m, at, 0, 0, False, 1)
    put(m, at, 0, 2)
    put(m, at, 0, 3)
    put(m, at, 0, 5)
    put(m, at, 1, 4)
    for seq in (2, 3):
        flows.mark(m, at, 0, seq, False, 1)
        flows.free(m, flows.take_head(m, at))
    assert flows.missing(m, at) == (1, 0, 5)


def test_copies_that_are_refused() -> None:
    m = words()
    at = flow_of(m)
    flows.mark(m, at, 1, 4, True, 1)
    assert flows.refusal(m, at, 1, 4) == DUPLICATE
    assert flows.refusal(m, at, 0, 9) == OLD_EPOCH
    assert flows.refusal(m, at, 1, 5) == TAKEN
    assert flows.refusal(m, at, 1, 5 + flows.MAX_GAP + 1) == BEYOND_WINDOW
    assert flows.refusal(m, at, 2, flows.MAX_GAP + 1) == BEYOND_WINDOW


def test_a_new_epoch_waits_for_what_is_left_of_the_old_one() -> None:
    m = words()
    at = flow_of(m)
    assert flows.is_next(m, at, 0, 0)
    assert not flows.is_next(m, at, 0, 1)
    flows.mark(m, at, 0, 0, False, 1)
    put(m, at, 0, 2)
    assert not flows.is_next(m, at, 1, 0)
    flows.free(m, flows.take_head(m, at))
    assert flows.is_next(m, at, 1, 0)
    flows.forget(m, at, 0, 7)
    assert not flows.is_next(m, at, 1, 0)


def test_gaps_are_listed_by_deadline() -> None:
    m = words()
    one, two, three = (flow_of(m, flow) for flow in (1, 2, 3))
    for time_ns, at in enumerate((one, two, three)):
        put(m, at, 0, 3)
        flows.watch_gap(m, at, time_ns)
    flows.close_gap(m, two)
    assert m[GAP_FIRST] == one
    flows.close_gap(m, one)
    assert m[GAP_FIRST] == three
    assert m[two + F_GAP_NS] == NEVER
    flows.close_gap(m, three)
    assert m[GAP_FIRST] == -1


def test_a_flow_that_the_log_does_not_name_gives_way() -> None:
    m = words(max_flows=2)
    handled, unknown = flow_of(m, 1), flow_of(m, 2)
    flows.mark(m, handled, 0, 0, True, 1)
    put(m, unknown, 0, 3)
    flows.watch_gap(m, unknown, 5)
    assert flow_table.find_flow(m, 2, 3, True) == -1
    assert flow_table.find_logged(m, 2, 3) == unknown
    assert (m[INPUTS], m[COPIES_DROPPED], m[GAP_FIRST]) == (0, 1, -1)
    assert flow_table.find_flow(m, 2, 2, False) == -1
    assert flow_table.find_flow(m, 2, 1, False) == handled
    flows.mark(m, unknown, 0, 0, True, 1)
    assert flow_table.find_logged(m, 2, 4) == -1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(2, 5), st.integers(0, 40)), max_size=60))
def test_the_table_of_flows_finds_each_that_it_holds(names: list[tuple[int, int]]) -> None:
    m = words(max_flows=8)
    held: dict[tuple[int, int], int] = {}
    for path, flow in names:
        at = int(flow_table.find_logged(m, path, flow))
        assert at >= 0
        gone = [name for name, place in held.items() if place == at and name != (path, flow)]
        for name in gone:
            del held[name]
            assert flow_table.find_flow(m, *name, False) == -1
        held[path, flow] = at
        assert len(held) == m[FLOWS] <= 8
    for (path, flow), at in held.items():
        assert flow_table.find_flow(m, path, flow, False) == at
        assert flow_table.find_flow(m, path | 3 << 20, flow, False) == at
        assert m[at + F_KEY] == path << 32 | flow


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.sampled_from([0, NO_CPU]))),
)
def test_the_buffer_against_a_sorted_list(
    buffer: int, arrivals: list[tuple[int, int, int]]
) -> None:
    m = words(buffer=buffer)
    at = flow_of(m)
    model: dict[tuple[int, int], int] = {}
    for epoch, seq, reason in arrivals:
        packets = sum(kept == NOT_LOST for kept in model.values())
        notes = len(model) - packets
        fate = put(m, at, epoch, seq, reason)
        if (epoch, seq) in model:
            assert fate == DUPLICATE
        elif reason == NOT_LOST and packets < buffer:
            assert fate == TAKEN
            model[epoch, seq] = reason
        elif notes < buffer:
            assert fate == TAKEN
            model[epoch, seq] = reason or BUFFER_FULL
        else:
            assert fate == COPY_BUFFER_FULL
    assert waiting(m, at) == [(*name, model[name]) for name in sorted(model)]
    assert m[AT_FLOWS] <= at < m[AT_FLOWS] + m[FLOWS] * FLOW_WORDS
    assert m[at + F_EPOCH] == -1
