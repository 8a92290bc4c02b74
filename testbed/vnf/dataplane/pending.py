"""The packets that are in the server's CPU, each until its service is over; compiled.

A packet that the CPU refuses is known to be lost at once, but those before it still wait: its note
waits behind them, so that no gap is seen where there is none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.dataplane.frames import Head
from testbed.vnf.replication.copying import copy_from_words, copy_to_words
from testbed.vnf.replication.member import NEVER
from testbed.vnf.state.arrays import Bytes, Words

ROOM = 1024
"""Packets, and notes, that may wait at a time."""
NOTES_ROOM = ROOM // 2
"""Notes wait only while fewer than this many places are taken: packets go before them."""

FIRST, COUNT = 0, 1
_ENTRIES = 8
# An entry: when it is done, its head, what is lost of it, its length; the packet follows.
_DONE_NS, _HEAD, _REASON, _LENGTH, _PACKET = 0, 1, 8, 9, 10
_ENTRY_WORDS = _PACKET + 192


class Done(NamedTuple):
    """An entry that was taken; its packet is where it was asked to be."""

    head: Head
    reason: int
    length: int


def new_pending() -> Words:
    """A CPU with nothing in it."""
    return np.zeros(_ENTRIES + ROOM * _ENTRY_WORDS, np.int64)


@compiled
def _place(pending: Words, number: int) -> int:
    return _ENTRIES + (pending[FIRST] + number) % ROOM * _ENTRY_WORDS


@compiled
def has_place(pending: Words) -> bool:
    """Whether one more packet may wait."""
    return pending[COUNT] < ROOM


@compiled
def next_done_ns(pending: Words) -> int:
    """When the first is done; NEVER if there is none."""
    return NEVER if pending[COUNT] == 0 else pending[_place(pending, 0) + _DONE_NS]


@compiled
def put_packet(
    pending: Words, done_ns: int, head: Head, packet: Bytes, begin: int, length: int
) -> None:
    """A packet is in the CPU until `done_ns`; there must be a place."""
    at = _put(pending, done_ns, head)
    pending[at + _REASON] = 0
    pending[at + _LENGTH] = length
    copy_to_words(packet, begin, pending, at + _PACKET, length)


@compiled
def put_note(pending: Words, head: Head, reason: int) -> bool:
    """Note behind those that wait that an input is lost; False if it need or can not wait."""
    if pending[COUNT] == 0 or pending[COUNT] >= NOTES_ROOM:
        return False
    last_ns = pending[_place(pending, pending[COUNT] - 1) + _DONE_NS]
    at = _put(pending, last_ns, head)
    pending[at + _REASON] = reason
    pending[at + _LENGTH] = 0
    return True


@compiled
def _put(pending: Words, done_ns: int, head: Head) -> int:
    at = _place(pending, pending[COUNT])
    pending[at + _DONE_NS] = done_ns
    pending[at + _HEAD] = head.path
    pending[at + _HEAD + 1] = head.hop
    pending[at + _HEAD + 2] = head.member
    pending[at + _HEAD + 3] = head.flow
    pending[at + _HEAD + 4] = head.bucket
    pending[at + _HEAD + 5] = head.epoch
    pending[at + _HEAD + 6] = head.seq
    pending[COUNT] += 1
    return at


@compiled
def take_done(pending: Words, packet: Bytes) -> Done:
    """Take the first out, its bytes into `packet`; there must be one."""
    at = _place(pending, 0)
    length = pending[at + _LENGTH]
    copy_from_words(pending, at + _PACKET, packet, 0, length)
    pending[FIRST] = (pending[FIRST] + 1) % ROOM
    pending[COUNT] -= 1
    head = Head(
        1,
        pending[at + _HEAD],
        pending[at + _HEAD + 1],
        pending[at + _HEAD + 2],
        pending[at + _HEAD + 3],
        pending[at + _HEAD + 4],
        pending[at + _HEAD + 5],
        pending[at + _HEAD + 6],
    )
    return Done(head, pending[at + _REASON], length)
