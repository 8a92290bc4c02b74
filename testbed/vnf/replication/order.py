"""Order within a flow: what was handled, what is next, and what waits for its turn."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from testbed.vnf.replication.types import CopyReason, LossReason, Stamp

MAX_GAP = 1 << 20
"""A packet that is further than this ahead of its turn is refused: its stamp cannot be right."""

FlowKey = tuple[int, int]
"""(path, flow)"""

Position = tuple[int, int]
"""(stamper's epoch, sequence number); compares in the order in which a flow is handled."""


class Waiting(NamedTuple):
    """An input that came before its turn; `packet` is None if the input is `lost`."""

    stamp: Stamp
    packet: bytes | None
    lost: LossReason | None
    arrived_ns: int


class Flow:
    """The marks of one flow on one path, and its inputs that wait.

    epoch, expected   the stamper's epoch that is handled, -1 before the first; the next number
    next_out          the next output sequence number
    forgotten         by epoch, the last input that there was no room to note, till its turn
    gap_turn          the position that is missing; None while nothing is missing
    gap_deadline_ns   when it is declared lost
    """

    __slots__ = (
        "epoch",
        "expected",
        "forgotten",
        "gap_deadline_ns",
        "gap_turn",
        "key",
        "next_out",
        "order",
        "waiting",
    )

    def __init__(self, key: FlowKey) -> None:
        self.key = key
        self.epoch = -1
        self.expected = 0
        self.next_out = 0
        self.forgotten: dict[int, Stamp] = {}
        self.gap_turn: Position | None = None
        self.gap_deadline_ns: int | None = None
        self.waiting: dict[Position, Waiting] = {}
        # Positions of `waiting`, a heap; positions that were handled meanwhile may linger.
        self.order: list[Position] = []

    def mark(self, stamp: Stamp, emitted: bool) -> None:
        """The input with this stamp is handled; an epoch's first starts the output anew."""
        if stamp.epoch != self.epoch:
            self.epoch = stamp.epoch
            self.next_out = 0
        self.expected = stamp.seq + 1
        if emitted:
            self.next_out += 1

    def next_out_of(self, epoch: int) -> int:
        """The output sequence number of an input of this epoch."""
        return self.next_out if epoch == self.epoch else 0

    def refusal(self, stamp: Stamp) -> CopyReason | None:
        """Why this copy is not wanted, or None if it is."""
        if stamp.epoch == self.epoch:
            ahead = stamp.seq - self.expected
            if ahead < 0:
                return "duplicate"
        elif stamp.epoch < self.epoch:
            return "old-epoch"
        else:
            ahead = stamp.seq
        if ahead > MAX_GAP:
            return "beyond-window"
        return "duplicate" if (stamp.epoch, stamp.seq) in self.waiting else None

    def first_waiting(self) -> Position | None:
        """The position of the input that waits and comes first."""
        done = (self.epoch, self.expected)
        while self.order and self.order[0] < done:
            heappop(self.order)
        return self.order[0] if self.order else None

    def is_next(self, stamp: Stamp) -> bool:
        """Whether the input with this stamp has its turn now."""
        if stamp.epoch == self.epoch:
            return stamp.seq == self.expected
        if stamp.epoch < self.epoch or stamp.seq != 0:
            return False
        first = self.first_waiting()
        if first is not None and first[0] < stamp.epoch:
            return False
        oldest = self._oldest_forgotten()
        return oldest is None or oldest.epoch >= stamp.epoch

    def turn(self, first: Position) -> Position:
        """What is handled next, where `first` is the first that waits.

        A newer epoch of the stamper has its turn when nothing of an older one waits.
        """
        return (self.epoch, self.expected) if first[0] == self.epoch else (first[0], 0)

    def forget(self, stamp: Stamp) -> None:
        """Note that an input came and is lost; its gap is declared in its turn."""
        last = self.forgotten.get(stamp.epoch)
        if last is None or last.seq < stamp.seq:
            self.forgotten[stamp.epoch] = stamp

    def missing(self) -> tuple[Position, Stamp] | None:
        """What is missing: from a position on, all before the stamp; None: nothing.

        The stamp is that of the first input that waits, or the one after the last forgotten.
        """
        first = self.first_waiting()
        oldest = self._oldest_forgotten() if self.forgotten else None
        if first is not None and (oldest is None or first[0] <= oldest.epoch):
            turn = self.turn(first)
            return (turn, self.waiting[first].stamp) if turn != first else None
        if oldest is None:
            return None
        end = Stamp(oldest.path, oldest.flow, oldest.bucket, oldest.epoch, oldest.seq + 1)
        return self.turn((end.epoch, end.seq)), end

    def _oldest_forgotten(self) -> Stamp | None:
        done = (self.epoch, self.expected)
        for epoch, last in list(self.forgotten.items()):
            if (epoch, last.seq) < done:
                del self.forgotten[epoch]
        return self.forgotten[min(self.forgotten)] if self.forgotten else None

    def close_gap(self) -> None:
        """Nothing is missing any more."""
        self.gap_turn = self.gap_deadline_ns = None


class InputBuffer:
    """All flows of a group member; at most `bound` packets wait, and `bound` notes of losses."""

    def __init__(self, bound: int) -> None:
        self.packets = 0
        self.notes = 0
        self._bound = bound
        self._flows: dict[FlowKey, Flow] = {}

    def flow(self, path: int, flow: int) -> Flow:
        """The flow, made when it is new."""
        key = (path, flow)
        found = self._flows.get(key)
        if found is None:
            found = self._flows[key] = Flow(key)
        return found

    def __iter__(self) -> Iterator[Flow]:
        return iter(self._flows.values())

    def put(
        self,
        flow: Flow,
        stamp: Stamp,
        packet: bytes | None,
        lost: LossReason | None,
        now_ns: int,
    ) -> None:
        """Keep an input that `flow` does not refuse until its turn.

        A packet without room is kept as the note that it is lost; without room for that either
        only the last of them is known.
        """
        if packet is not None and self.packets >= self._bound:
            packet, lost = None, "input-buffer-full"
        if packet is not None:
            self.packets += 1
        elif self.notes >= self._bound:
            flow.forget(stamp)
            return
        else:
            self.notes += 1
        position = (stamp.epoch, stamp.seq)
        flow.waiting[position] = Waiting(stamp, packet, lost, now_ns)
        heappush(flow.order, position)

    def take(self, flow: Flow, position: Position) -> Waiting | None:
        """Remove and return what waits at this position, if anything does."""
        waiting = flow.waiting.pop(position, None)
        if waiting is not None:
            if waiting.packet is not None:
                self.packets -= 1
            else:
                self.notes -= 1
        return waiting

    def discard_handled(self, flow: Flow) -> None:
        """Forget the inputs that wait although their turn is past."""
        done = (flow.epoch, flow.expected)
        while flow.order and flow.order[0] < done:
            self.take(flow, heappop(flow.order))

    def marks(self) -> dict[FlowKey, tuple[int, int, int]]:
        """(epoch, expected, next_out) of each flow of which an input was handled."""
        return {
            flow.key: (flow.epoch, flow.expected, flow.next_out) for flow in self if flow.epoch >= 0
        }
