"""The backup of a replica group: keeps copies of packets, applies the log, can take over."""

from __future__ import annotations

from testbed.vnf.replication.order import InputBuffer
from testbed.vnf.replication.primary import Primary, action_of
from testbed.vnf.replication.types import (
    Ack,
    Action,
    Drop,
    LogBatch,
    LogEntry,
    ProcessFn,
    ReplicationConfig,
    Send,
    Stamp,
    State,
)
from testbed.vnf.state import apply_delta


class Backup:
    """One member's machine while it is the backup.

    `process` is not run before the promotion: `state` follows the log's deltas alone.
    """

    def __init__(
        self, config: ReplicationConfig, state: State, process: ProcessFn, group_epoch: int = 0
    ) -> None:
        self.group_epoch = group_epoch
        self._config = config
        self._state = state
        self._process = process
        self._inputs = InputBuffer(config.buffer_packets)
        self._next_index = 0
        self._released = 0
        # The entries from `released` on, by index: their outputs may not have gone out.
        self._unreleased: dict[int, LogEntry] = {}

    @property
    def next_index(self) -> int:
        """How many log entries are applied."""
        return self._next_index

    @property
    def unreleased(self) -> int:
        """How many entries are kept to be emitted again after a promotion."""
        return len(self._unreleased)

    @property
    def inputs(self) -> InputBuffer:
        """The flows' marks and the copies that wait."""
        return self._inputs

    def on_packet(self, now_ns: int, stamp: Stamp, packet: bytes) -> list[Action]:
        """A copy of the primary's input arrived.

        It is kept until the log covers it. No action if the log does already: that is no loss.
        """
        flow = self._inputs.flow(stamp.path, stamp.flow)
        refusal = flow.refusal(stamp)
        if refusal == "beyond-window":
            return [Drop(stamp, refusal)]
        if refusal is not None:
            return []
        if self._inputs.packets >= self._config.buffer_packets:
            flow.forget(stamp)
            return [Drop(stamp, "copy-buffer-full")]
        self._inputs.put(flow, stamp, packet, None, now_ns)
        return []

    def on_log(self, now_ns: int, batch: LogBatch) -> list[Action]:
        """Apply the entries that continue the log, and acknowledge all that is applied.

        A batch of another group epoch is ignored: its sender is, or will be, the primary no more.
        """
        if batch.group_epoch != self.group_epoch:
            return []
        for entry in batch.entries:
            if entry.index == self._next_index:
                self._apply(entry)
        self._forget(batch.released)
        return [Send(Ack(self.group_epoch, self._next_index))]

    def promote(self, now_ns: int, group_epoch: int) -> tuple[Primary, list[Action]]:
        """Become the group's primary, without a backup.

        Its first actions emit again what is committed and not known to be released; then follows
        what comes of the copies that are in order. Raises ValueError if `group_epoch` is not
        above the present one. Batches of the old primary are refused from here on.
        """
        if group_epoch <= self.group_epoch:
            raise ValueError(f"group_epoch = {group_epoch}: expected above {self.group_epoch}")
        self.group_epoch = group_epoch
        primary = Primary(
            self._config,
            self._state,
            self._process,
            group_epoch,
            protected=False,
            inputs=self._inputs,
            next_index=self._next_index,
        )
        actions = self._emit_again()
        return primary, actions + primary.resume(now_ns)

    def _apply(self, entry: LogEntry) -> None:
        """Delta, mark and the output to keep are one step: no event comes in between."""
        stamp = entry.stamp
        apply_delta(self._state, entry.delta)
        flow = self._inputs.flow(stamp.path, stamp.flow)
        flow.mark(stamp, entry.output is not None)
        self._inputs.discard_handled(flow)
        self._unreleased[entry.index] = entry
        self._next_index += 1

    def _forget(self, released: int) -> None:
        known = min(released, self._next_index)
        for index in range(self._released, known):
            del self._unreleased[index]
        self._released = max(self._released, known)

    def _emit_again(self) -> list[Action]:
        actions: list[Action] = [action_of(entry) for entry in self._unreleased.values()]
        self._forget(self._next_index)
        return actions
