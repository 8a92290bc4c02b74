"""The primary's log on its way to the backup: batches, acknowledgement, retransmission.

Go-back-N over datagrams. Each entry carries the action that its acknowledgement releases.
"""

from __future__ import annotations

from typing import NamedTuple

from testbed.vnf.replication.codec import BATCH_OVERHEAD_BYTES, entry_bytes
from testbed.vnf.replication.types import (
    Ack,
    Action,
    Drop,
    Emit,
    LogBatch,
    LogEntry,
    ReplicationConfig,
    Send,
)

DEFT_BATCH_NS = 5_000_000
"""How long a batch of mode "deft" waits for more when `batch_ns` is 0. DEFT fills its batches and
names no time, so that the last packets of a burst would never leave. 5 ms at each of a chain's
eight functions at most is still less than the usual gap timeout of 50 ms: waiting for a batch is
not taken for loss further down the chain."""

MAX_BACKOFF = 3
"""The time between retransmissions doubles this often at most."""


class _Pending(NamedTuple):
    entry: LogEntry
    action: Emit | Drop
    size_bytes: int
    appended_ns: int


class LogSender:
    """Entries [acked, next_index) that wait for the backup.

    acked <= sent <= closed <= next_index: `sent` is what is sent next, and goes back to `acked`
    when an acknowledgement stays away; `closed` is the end of the last batch that is due.
    """

    def __init__(self, config: ReplicationConfig, group_epoch: int, next_index: int) -> None:
        self.next_index = next_index
        self._group_epoch = group_epoch
        self._batch_packets = config.batch_packets
        self._is_deft = config.mode == "deft"
        self._batch_ns = config.batch_ns or (DEFT_BATCH_NS if self._is_deft else 0)
        self._retransmit_ns = config.retransmit_ns
        self._room_bytes = config.max_message_bytes - BATCH_OVERHEAD_BYTES
        self._log: dict[int, _Pending] = {}
        self._acked = self._sent = self._closed = self._sent_ever = next_index
        self._resend_ns: int | None = None
        self._resent = 0
        # While lost entries are sent again: how many may follow now. None: all.
        self._credit: int | None = None

    @property
    def unacknowledged(self) -> int:
        """Entries that wait for their acknowledgement, sent or not."""
        return self.next_index - self._acked

    def append(self, now_ns: int, entry: LogEntry, action: Emit | Drop) -> bool:
        """Add the entry numbered `next_index`, with what its acknowledgement releases.

        False, and nothing is added: no message has room for it.
        """
        size_bytes = entry_bytes(entry)
        if size_bytes > self._room_bytes:
            return False
        self._log[entry.index] = _Pending(entry, action, size_bytes, now_ns)
        self.next_index += 1
        return True

    def skip(self) -> None:
        """Count an entry that nobody has to be sent."""
        self.next_index += 1
        self._acked = self._sent = self._closed = self._sent_ever = self.next_index

    def accepts(self, ack: Ack) -> bool:
        """Whether the acknowledgement is of this epoch, new, and of what was sent."""
        return ack.group_epoch == self._group_epoch and self._acked < ack.index <= self._sent_ever

    def release(self, now_ns: int, index: int) -> list[Emit | Drop]:
        """The actions of the entries below `index`, which are forgotten."""
        released = [self._log.pop(number).action for number in range(self._acked, index)]
        self._acked = index
        self._sent = max(self._sent, index)
        self._resend_ns = now_ns + self._retransmit_ns if index < self._sent_ever else None
        self._resent = 0
        if self._credit is not None:
            self._credit = 2 * self._batch_packets
        return released

    def release_all(self) -> list[Emit | Drop]:
        """The actions of all entries, acknowledged or not: there is no backup any more."""
        released = [pending.action for pending in self._log.values()]
        self._log.clear()
        self._acked = self._sent = self._closed = self._sent_ever = self.next_index
        self._resend_ns = self._credit = None
        return released

    def flush(self, now_ns: int, actions: list[Action], *, idle: bool) -> None:
        """Close batches that are due, and send what is closed. `idle`: no more input for now."""
        if self._closed < self.next_index:
            self._close(now_ns, idle)
        if self._sent < self._closed:
            self._send(now_ns, actions)

    def retransmit(self, now_ns: int, actions: list[Action]) -> None:
        """Send the first batch again if its acknowledgement has stayed away too long.

        The batches after it follow as acknowledgements come in, two for each, so that a loss in
        a full queue is not answered by filling it at once.
        """
        if self._resend_ns is None or now_ns < self._resend_ns:
            return
        self._resent += 1
        self._sent = self._acked
        self._resend_ns = None
        self._credit = self._batch_packets
        self._send(now_ns, actions)

    def next_timer_ns(self) -> int | None:
        """When a batch has to be closed or sent again."""
        times = [self._resend_ns]
        if self._closed < self.next_index and self._batch_ns and not self._in_flight():
            times.append(self._log[self._closed].appended_ns + self._batch_ns)
        return min((time for time in times if time is not None), default=None)

    def _in_flight(self) -> bool:
        """Mode "deft" has one batch under way at a time."""
        return self._is_deft and self._acked < self._closed

    def _close(self, now_ns: int, idle: bool) -> None:
        if self._in_flight():
            return
        open_entries = self.next_index - self._closed
        due = idle and self._batch_ns == 0
        if not due and self._batch_ns:
            due = now_ns >= self._log[self._closed].appended_ns + self._batch_ns
        if self._is_deft:
            if due or open_entries >= self._batch_packets:
                self._closed += min(open_entries, self._batch_packets)
        elif due:
            self._closed = self.next_index
        else:
            self._closed += open_entries - open_entries % self._batch_packets

    def _send(self, now_ns: int, actions: list[Action]) -> None:
        end = self._closed
        if self._credit is not None:
            end = min(end, self._sent + self._credit)
            self._credit -= end - self._sent
        self._send_upto(now_ns, end, actions)
        if self._sent == self._closed:
            self._credit = None

    def _send_upto(self, now_ns: int, end: int, actions: list[Action]) -> None:
        while self._sent < end:
            entries = self._message_entries(end)
            self._sent += len(entries)
            actions.append(Send(LogBatch(self._group_epoch, entries, self._acked)))
        self._sent_ever = max(self._sent_ever, self._sent)
        if self._resend_ns is None and self._acked < self._sent_ever:
            backoff = min(self._resent, MAX_BACKOFF)
            self._resend_ns = now_ns + (self._retransmit_ns << backoff)

    def _message_entries(self, end: int) -> tuple[LogEntry, ...]:
        """The entries from `sent` on that fit into one message; each fits alone."""
        entries: list[LogEntry] = []
        size_bytes = 0
        for index in range(self._sent, min(end, self._sent + self._batch_packets)):
            pending = self._log[index]
            size_bytes += pending.size_bytes
            if entries and size_bytes > self._room_bytes:
                break
            entries.append(pending.entry)
        return tuple(entries)
