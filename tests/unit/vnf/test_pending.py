"""The packets in a server's CPU: first in, first out, with notes of losses in their turn."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from testbed.vnf.dataplane.frames import Head
from testbed.vnf.dataplane.pending import (
    COUNT,
    NOTES_ROOM,
    ROOM,
    has_place,
    new_pending,
    next_done_ns,
    put_note,
    put_packet,
    take_done,
)
from testbed.vnf.replication.member import NEVER, NO_CPU, NOT_LOST

PACKET = np.arange(256, dtype=np.uint8)


def head(seq: int) -> Head:
    return Head(1, path=3, hop=1, member=0, flow=17, bucket=5, epoch=2, seq=seq)


def test_a_note_waits_behind_the_packets_before_it_and_before_those_after_it() -> None:
    pending, packet = new_pending(), np.zeros(2048, np.uint8)
    assert not put_note(pending, head(0), NO_CPU)  # nothing waits: it has its turn at once
    put_packet(pending, 100, head(1), PACKET, 10, 60)
    assert put_note(pending, head(2), NO_CPU)
    put_packet(pending, 200, head(3), PACKET, 20, 61)
    assert next_done_ns(pending) == 100
    assert take_done(pending, packet) == (head(1), NOT_LOST, 60)
    assert packet[:60].tolist() == PACKET[10:70].tolist()
    assert next_done_ns(pending) == 100  # at the time of the one before it
    assert take_done(pending, packet) == (head(2), NO_CPU, 0)
    assert next_done_ns(pending) == 200
    assert take_done(pending, packet) == (head(3), NOT_LOST, 61)
    assert packet[:61].tolist() == PACKET[20:81].tolist()
    assert next_done_ns(pending) == NEVER


def test_notes_leave_half_of_the_places_to_packets() -> None:
    pending = new_pending()
    put_packet(pending, 1, head(0), PACKET, 0, 0)
    noted = sum(put_note(pending, head(seq), NO_CPU) for seq in range(1, ROOM))
    assert noted == NOTES_ROOM - 1
    for seq in range(ROOM - NOTES_ROOM):
        assert has_place(pending)
        put_packet(pending, 2, head(seq), PACKET, 0, 0)
    assert not has_place(pending)


@given(st.lists(st.sampled_from(["packet", "note", "take"]), max_size=60), st.integers(0, ROOM))
def test_entries_come_out_in_the_order_in_which_they_went_in(steps: list[str], used: int) -> None:
    pending, packet = new_pending(), np.zeros(2048, np.uint8)
    for seq in range(used):  # so that the places wrap
        put_packet(pending, 0, head(seq), PACKET, 0, 0)
        take_done(pending, packet)
    waiting: list[tuple[int, int]] = []
    for number, step in enumerate(steps):
        if step == "packet":
            put_packet(pending, number, head(number), PACKET, 0, number)
            waiting.append((number, NOT_LOST))
        elif step == "note" and put_note(pending, head(number), NO_CPU):
            waiting.append((number, NO_CPU))
        elif step == "take" and waiting:
            seq, reason = waiting.pop(0)
            done = take_done(pending, packet)
            assert (done.head.seq, done.reason) == (seq, reason)
        assert pending[COUNT] == len(waiting)
