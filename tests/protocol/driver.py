"""A member of a group for tests in Python: one compiled entry to everything that it can be told.

One entry, because each compiles all of the protocol anew.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from testbed.compiled import compiled
from testbed.vnf.functions.function import PROCESS_TYPE, Process
from testbed.vnf.replication import member as words
from testbed.vnf.replication.handling import on_answer, on_granted, on_packet, release_bound
from testbed.vnf.replication.log import OUTPUT_BIT, entry_at, length_of, output_at, words_of
from testbed.vnf.replication.member import (
    MEMBER,
    NEXT,
    NOT_LOST,
    RELEASED,
    Member,
    ReplicationConfig,
    new_member,
    peer_at,
)
from testbed.vnf.replication.messages import take_message
from testbed.vnf.replication.protocol import (
    configure,
    drain,
    is_drained,
    next_time_ns,
    on_idle,
    on_message,
    on_released,
    on_time,
)
from testbed.vnf.replication.shared import ask_due, take_ask
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.records import Records, contents
from tests.protocol.counting import count_packets, input_length, new_counting_state, write_input

GROUP = 77
MS = 1_000_000
LEASE_NS = 20 * MS
_WORDS = numba.typeof(np.zeros(1, np.int64))
_BYTES = numba.typeof(np.zeros(1, np.uint8))
_MESSAGE_WORDS = 4096

CONFIGURE, PACKET, READ, IDLE, TIME, TAKE, BOUND, EMITTED, DRAIN, DRAINED, DUE = range(11)
ASK, GRANTED, ANSWER = range(11, 14)


@compiled(types.int64(MEMBER, PROCESS_TYPE, types.int64, types.int64, _WORDS, _BYTES, _WORDS))
def drive(
    member: Member, process: Process, what: int, now_ns: int, a: Words, packet: Bytes, out: Words
) -> int:
    """Do `what` with the numbers in `a`."""
    result = 0
    if what == CONFIGURE:
        result = int(configure(member, process, now_ns, a[0], a[1], a[2], a[3], a[4]))
    elif what == PACKET:
        result = on_packet(
            member, process, now_ns, a[0], a[1], a[2], a[3], a[4], packet, 0, a[5], a[6]
        )
    elif what == READ:
        result = int(on_message(member, process, now_ns, a[0], out, a[1], a[2]))
    elif what == IDLE:
        on_idle(member, process, now_ns)
    elif what == TIME:
        on_time(member, process, now_ns)
    elif what == TAKE:
        result = take_message(member, now_ns, a[0], GROUP, out)
    elif what == BOUND:
        result = release_bound(member.words, now_ns)
    elif what == EMITTED:
        on_released(member.words, a[0])
    elif what == DRAIN:
        drain(member, process, now_ns, a[0])
    elif what == DRAINED:
        result = int(is_drained(member.words))
    elif what == DUE:
        result = next_time_ns(member.words, now_ns)
    elif what == ASK:
        result = take_ask(member.words) if ask_due(member.words) else 0
    elif what == GRANTED:
        result = int(on_granted(member, now_ns, out, 0, a[0], a[1]))
    elif what == ANSWER:
        on_answer(member, process, now_ns, a[0])
    return result


def replication(mode: Any = "pipelined", **changed: Any) -> ReplicationConfig:
    """A configuration with times of a few milliseconds."""
    values: dict[str, Any] = {
        "mode": mode,
        "batch_packets": 4,
        "batch_ns": 0,
        "gap_timeout_ns": 8 * MS,
        "retransmit_ns": 5 * MS,
        "lease_ns": LEASE_NS,
        "buffer_packets": 64,
        "max_message_bytes": 4096,
        "max_flows": 8,
    }
    return ReplicationConfig(**(values | changed))


class Node:
    """A member, with the same clock as all others of its test."""

    def __init__(
        self,
        number: int,
        config: ReplicationConfig | None = None,
        process: Process = count_packets,
        records: Records | None = None,
        function_config: int = 0,
    ) -> None:
        self.process = process
        self.member = new_member(
            config or replication(),
            records or new_counting_state(),
            np.array([function_config], np.int64),
            number,
            packet_room_bytes=64,
            operation_words=24,
        )
        self.number = number
        self.now_ns = MS
        self.emitted: list[tuple[int, int, int, bytes]] = []

    def _drive(self, what: int, *numbers: int, packet: Bytes | None = None) -> int:
        arguments = np.array([*numbers, *[0] * (7 - len(numbers))], np.int64)
        used = self.member.packet if packet is None else packet
        return int(
            drive(self.member, self.process, what, self.now_ns, arguments, used, self._message)
        )

    _message: Words = np.zeros(_MESSAGE_WORDS, np.int64)

    def __getitem__(self, word: int) -> int:
        return int(self.member.words[word])

    def peer(self, number: int, word: int) -> int:
        """What it knows of another member."""
        return int(self.member.words[peer_at(number) + word])

    def configure(
        self, epoch: int, primary: int, backups: int = 0, learners: int = 0, confirmed: int = 1
    ) -> bool:
        """The FDU's word."""
        return bool(self._drive(CONFIGURE, epoch, primary, backups, learners, confirmed))

    def packet(
        self, flow: int, seq: int, epoch: int = 0, reason: int = NOT_LOST, large: bool = False
    ) -> int:
        """A copy of an input; what became of it."""
        length = 72 if large else input_length(flow, epoch, seq, 0)
        data = np.zeros(80, np.uint8)
        write_input(data, flow, epoch, seq, length)
        path = 2 + (flow & 1)
        return self._drive(
            PACKET, path, flow, 3 * flow + 1, epoch, seq, length, reason, packet=data
        )

    def read(self, message: Words, group: int = GROUP) -> bool:
        """A message of another member."""
        self._message[: len(message)] = message
        return bool(self._drive(READ, group, 0, len(message)))

    def take(self, to: int) -> Words | None:
        """The next message for another member."""
        size = self._drive(TAKE, to)
        return self._message[:size].copy() if size else None

    def take_all(self, to: int, most: int = 64) -> list[Words]:
        """All messages that another member is due."""
        found: list[Words] = []
        while (message := self.take(to)) is not None and len(found) < most:
            found.append(message)
        return found

    def idle(self) -> None:
        """The input is empty."""
        self._drive(IDLE)

    def time(self) -> None:
        """A time has come."""
        self._drive(TIME)

    def due_ns(self) -> int:
        """When a time comes."""
        return self._drive(DUE)

    def bound(self) -> int:
        """Up to where outputs may go out."""
        return self._drive(BOUND)

    def emit(self) -> list[tuple[int, int, int, bytes]]:
        """Emit what may go out: (flow, epoch, output number, bytes) of each."""
        m = self.member.words
        bound = self.bound()
        found = [self.output(index) for index in range(self[RELEASED], bound) if self.has(index)]
        self._drive(EMITTED, bound)
        self.emitted += found
        assert m[RELEASED] == bound
        return found

    def drain(self, on: int = 1) -> None:
        """Take nothing more into the log."""
        self._drive(DRAIN, on)

    def is_drained(self) -> bool:
        """Whether it can hand over."""
        return bool(self._drive(DRAINED))

    def ask(self) -> tuple[int, list[int]] | None:
        """What is asked for of shared records, with its number, if something is due."""
        begin, size = self[words.AT_ASK], self[words.ASK_FILL]
        number = self._drive(ASK)
        return (number, self.member.words[begin : begin + size].tolist()) if number else None

    def asks(self) -> bool:
        """Whether something is due to be asked for."""
        return bool(ask_due(self.member.words))

    def granted(self, index: int, change: list[int]) -> bool:
        """Change number `index` of shared records; whether it was taken."""
        self._message[: len(change)] = change
        return bool(self._drive(GRANTED, len(change), index))

    def answer(self, number: int) -> None:
        """The answer to ask `number`."""
        self._drive(ANSWER, number)

    def has(self, index: int) -> bool:
        """Whether this entry has an output."""
        m = self.member.words
        return bool(m[entry_at(m, index)] & OUTPUT_BIT)

    def entry(self, index: int) -> list[int]:
        """The words of an entry."""
        m = self.member.words
        at = int(entry_at(m, index))
        return [int(word) for word in m[at : at + int(words_of(m[at]))]]

    def output(self, index: int) -> tuple[int, int, int, bytes]:
        """An entry's output."""
        m = self.member.words
        at = int(entry_at(m, index))
        data = m[int(output_at(m, at)) :].view(np.uint8)[: int(length_of(m[at]))]
        return int(m[at + 2]), (int(m[at + 1]) >> 40) & 0xFFFF, int(m[at + 4]), data.tobytes()

    def log(self) -> list[tuple[int, int, int, int]]:
        """(flow, epoch, seq, reason of a loss) of the entries that are kept."""
        found: list[tuple[int, int, int, int]] = []
        for index in range(self[words.LOG_FIRST], self[NEXT]):
            entry = self.entry(index)
            found.append((entry[2], (entry[1] >> 40) & 0xFFFF, entry[3], (entry[0] >> 32) & 0xFF))
        return found

    def state(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        """The state of the network function."""
        return contents(self.member.records)


def exchange(nodes: list[Node], rounds: int = 50) -> None:
    """Deliver all messages at once, until none is due."""
    for _ in range(rounds):
        moved = False
        for node in nodes:
            for to in nodes:
                for message in node.take_all(to.number):
                    moved = True
                    assert to.read(message)
        if not moved:
            return
    raise AssertionError("the members never stop talking")


def advance(nodes: list[Node], by_ns: int) -> None:
    """Let time pass for all."""
    for node in nodes:
        node.now_ns += by_ns


def group(
    backups: int = 1, config: ReplicationConfig | None = None, members: int | None = None
) -> list[Node]:
    """A configured group: the primary first, then the backups, then members that are out."""
    nodes = [Node(number, config) for number in range(members or backups + 1)]
    mask = sum(1 << number for number in range(1, backups + 1))
    for node in nodes[: backups + 1]:
        node.configure(1, 0, mask)
    exchange(nodes)
    return nodes
