"""The primary of a replica group: processes packets and releases what the backup holds."""

from __future__ import annotations

from heapq import heappop, heappush

from testbed.vnf.functions.base import Verdict
from testbed.vnf.replication.order import Flow, FlowKey, InputBuffer, Position
from testbed.vnf.replication.sender import LogSender
from testbed.vnf.replication.types import (
    Ack,
    Action,
    Delta,
    Drop,
    Emit,
    LogEntry,
    LossReason,
    ProcessFn,
    ReplicationConfig,
    Stamp,
    State,
)
from testbed.vnf.state import apply_delta


class Primary:
    """One member's machine while it is the primary, protected by a backup or not.

    Each method takes the time, handles one event and returns actions, to be carried out in order.
    After each, `next_timer_ns` says when `on_timer` is due. `state` is changed in place, by the
    deltas that `process` returns.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        state: State,
        process: ProcessFn,
        group_epoch: int = 0,
        protected: bool = True,
        *,
        inputs: InputBuffer | None = None,
        next_index: int = 0,
    ) -> None:
        self.group_epoch = group_epoch
        self._config = config
        self._state = state
        self._process = process
        self._protected = protected and config.mode != "none"
        self._inputs = InputBuffer(config.buffer_packets) if inputs is None else inputs
        self._sender = LogSender(config, group_epoch, next_index)
        # Flows whose next input is there and waits for room in the log, in order of arrival.
        self._ready: dict[FlowKey, Flow] = {}
        # (deadline, flow's key) of gaps, a heap; one that is not the flow's deadline is void.
        self._gaps: list[tuple[int, FlowKey]] = []

    @property
    def protected(self) -> bool:
        """Whether outputs wait for a backup."""
        return self._protected

    @property
    def next_index(self) -> int:
        """How many log entries there have been."""
        return self._sender.next_index

    @property
    def unacknowledged(self) -> int:
        """How many entries wait for the backup."""
        return self._sender.unacknowledged

    @property
    def inputs(self) -> InputBuffer:
        """The flows' marks and the inputs that wait."""
        return self._inputs

    def on_packet(self, now_ns: int, stamp: Stamp, packet: bytes) -> list[Action]:
        """A packet arrived and has its share of CPU."""
        return self._on_input(now_ns, stamp, packet, None)

    def on_lost_input(self, now_ns: int, stamp: Stamp) -> list[Action]:
        """The server dropped this input for lack of CPU: it is lost, no gap is waited for."""
        return self._on_input(now_ns, stamp, None, "no-cpu")

    def on_ack(self, now_ns: int, ack: Ack) -> list[Action]:
        """The backup has applied entries; an acknowledgement of another epoch is ignored."""
        if not self._protected or not self._sender.accepts(ack):
            return []
        actions: list[Action] = [*self._sender.release(now_ns, ack.index)]
        before = self._sender.next_index
        self._drain_ready(now_ns, actions)
        # What waited for room does not wait for an idle moment too.
        self._sender.flush(now_ns, actions, idle=self._sender.next_index > before)
        return actions

    def on_idle(self, now_ns: int) -> list[Action]:
        """The input ran empty: a batch that is open waits no longer, unless it has its own time."""
        actions: list[Action] = []
        self._sender.flush(now_ns, actions, idle=True)
        return actions

    def on_timer(self, now_ns: int) -> list[Action]:
        """The time may have come for a gap, a batch or a retransmission."""
        actions: list[Action] = []
        before = self._sender.next_index
        self._declare_gaps(now_ns, actions)
        self._sender.flush(now_ns, actions, idle=self._sender.next_index > before)
        self._sender.retransmit(now_ns, actions)
        return actions

    def next_timer_ns(self) -> int | None:
        """When `on_timer` is due; None: not before another event."""
        times = [self._sender.next_timer_ns(), self._next_gap_ns()]
        return min((time for time in times if time is not None), default=None)

    def unprotect(self, now_ns: int) -> list[Action]:
        """The backup is gone: go on without it, and release what waits for it."""
        self._protected = False
        actions: list[Action] = [*self._sender.release_all()]
        self._drain_ready(now_ns, actions)
        return actions

    def resume(self, now_ns: int) -> list[Action]:
        """Handle the inputs that a backup has buffered, as far as they are in order."""
        actions: list[Action] = []
        for flow in self._inputs:
            self._advance(now_ns, flow, actions)
        self._sender.flush(now_ns, actions, idle=True)
        return actions

    def _on_input(
        self, now_ns: int, stamp: Stamp, packet: bytes | None, lost: LossReason | None
    ) -> list[Action]:
        actions: list[Action] = []
        flow = self._inputs.flow(stamp.path, stamp.flow)
        if flow.is_next(stamp) and not self._full():
            self._handle(now_ns, flow, stamp, packet, lost, actions)
        else:
            refusal = flow.refusal(stamp)
            if refusal is not None:
                return [Drop(stamp, refusal)]
            self._inputs.put(flow, stamp, packet, lost, now_ns)
        if flow.order or flow.forgotten:
            self._advance(now_ns, flow, actions)
        if self._protected:
            self._sender.flush(now_ns, actions, idle=False)
        return actions

    def _full(self) -> bool:
        return self._protected and self._sender.unacknowledged >= self._config.buffer_packets

    def _advance(self, now_ns: int, flow: Flow, actions: list[Action]) -> None:
        """Handle what waits in `flow` up to a gap, or as far as the log has room."""
        while (first := flow.first_waiting()) is not None:
            if (missing := flow.missing()) is not None:
                self._note_gap(flow, missing[0], flow.waiting[first].arrived_ns)
                return
            if self._full():
                flow.close_gap()
                self._ready[flow.key] = flow
                return
            waiting = self._inputs.take(flow, first)
            if waiting is not None:
                self._handle(now_ns, flow, waiting.stamp, waiting.packet, waiting.lost, actions)
        if (missing := flow.missing()) is not None:
            self._note_gap(flow, missing[0], now_ns)
        else:
            flow.close_gap()

    def _note_gap(self, flow: Flow, turn: Position, noticed_ns: int) -> None:
        if flow.gap_turn == turn:
            return
        flow.gap_turn = turn
        deadline_ns = noticed_ns + self._config.gap_timeout_ns
        if flow.gap_deadline_ns != deadline_ns:
            flow.gap_deadline_ns = deadline_ns
            heappush(self._gaps, (deadline_ns, flow.key))

    def _next_gap_ns(self) -> int | None:
        """The next gap's deadline; None too while the log has no room to declare a loss."""
        if self._full():
            return None
        while self._gaps:
            deadline_ns, key = self._gaps[0]
            if self._inputs.flow(*key).gap_deadline_ns == deadline_ns:
                return deadline_ns
            heappop(self._gaps)
        return None

    def _declare_gaps(self, now_ns: int, actions: list[Action]) -> None:
        while (deadline_ns := self._next_gap_ns()) is not None and deadline_ns <= now_ns:
            flow = self._inputs.flow(*self._gaps[0][1])
            if self._declare_gap(now_ns, flow, actions):
                flow.close_gap()
                self._advance(now_ns, flow, actions)

    def _declare_gap(self, now_ns: int, flow: Flow, actions: list[Action]) -> bool:
        """Declare lost what is missing; False: there is no room for all of it in the log."""
        missing = flow.missing()
        if missing is None:
            return True
        (epoch, first), end = missing
        for seq in range(first, end.seq):
            if self._full():
                return False
            stamp = Stamp(*flow.key, end.bucket, epoch, seq)
            self._handle(now_ns, flow, stamp, None, "gap", actions)
        return True

    def _drain_ready(self, now_ns: int, actions: list[Action]) -> None:
        """Go on with the flows that wait for room; one that must wait again goes to the end."""
        while self._ready and not self._full():
            key = next(iter(self._ready))
            self._advance(now_ns, self._ready.pop(key), actions)

    def _handle(
        self,
        now_ns: int,
        flow: Flow,
        stamp: Stamp,
        packet: bytes | None,
        lost: LossReason | None,
        actions: list[Action],
    ) -> None:
        """Process an input in its turn; its delta, its mark and its entry are one step."""
        action: Emit | Drop
        delta: Delta = ()
        if packet is None:
            action = Drop(stamp, lost or "gap")
        else:
            action, delta = self._run(now_ns, flow, stamp, packet)
        if not self._protected:
            self._sender.skip()
            actions.append(action)
        elif not self._log(now_ns, stamp, action, delta):
            # Nothing of it is applied yet: it can still be declared lost.
            action, delta = Drop(stamp, "too-large"), ()
            self._log(now_ns, stamp, action, delta)
        apply_delta(self._state, delta)
        flow.mark(stamp, isinstance(action, Emit))

    def _log(
        self,
        now_ns: int,
        stamp: Stamp,
        action: Emit | Drop,
        delta: Delta,
    ) -> bool:
        """Log an input's fate, whose action waits for the backup; False: it is too large."""
        index = self._sender.next_index
        if isinstance(action, Emit):
            entry = LogEntry(index, stamp, False, action.stamp.seq, action.packet, delta)
        else:
            entry = LogEntry(index, stamp, action.reason != "verdict", None, None, delta)
        return self._sender.append(now_ns, entry, action)

    def _run(
        self, now_ns: int, flow: Flow, stamp: Stamp, packet: bytes
    ) -> tuple[Emit | Drop, Delta]:
        result = self._process(stamp.path, packet, now_ns)
        if result.verdict is not Verdict.FORWARD or result.packet is None:
            return Drop(stamp, "verdict"), result.delta
        out_seq = flow.next_out_of(stamp.epoch)
        out = Stamp(stamp.path, stamp.flow, stamp.bucket, stamp.epoch, out_seq)
        return Emit(out, result.packet), result.delta


def action_of(entry: LogEntry) -> Emit | Drop:
    """What an entry's commitment releases, as a member other than its writer knows it."""
    stamp = entry.stamp
    if entry.output is not None and entry.out_seq is not None:
        out = Stamp(stamp.path, stamp.flow, stamp.bucket, stamp.epoch, entry.out_seq)
        return Emit(out, entry.output)
    return Drop(stamp, "declared-lost" if entry.lost else "verdict")
