"""One instance of a network function: frames in, the replication machines, frames out.

It owns no loop: `testbed.vnf.runtime` calls it when a socket is readable or a time has come.

Counters. Of the frames that reached the socket, `kernel_drops` were lost there; the others are
`received`, `malformed` or `foreign` (for a hop that is not this instance's). What was received
was refused by the server's CPU (`no_cpu`), waits for its completion (`waiting`) or was handed to
the machine (`handed`). The machine's answers are `emitted`, `emit_failed` and `dropped` by
reason; what it keeps is `buffered` (inputs out of turn, or a backup's copies) and
`unacknowledged` (log entries and their outputs).
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from testbed.results.events import EventLog
from testbed.vnf.cpu import ServerCpu
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.socket import FRAME_BYTES, FrameSocket
from testbed.vnf.functions.base import Function, Result
from testbed.vnf.replication import codec
from testbed.vnf.replication.backup import Backup
from testbed.vnf.replication.primary import Primary
from testbed.vnf.replication.types import (
    Ack,
    Action,
    Drop,
    Emit,
    LogBatch,
    ReplicationConfig,
    Stamp,
    State,
)
from testbed.vnf.state import Value, encode_state

READ_AT_ONCE = 64
"""Frames that are read before timers and other sockets have their turn again."""


class Datagrams(Protocol):
    """A connected, non-blocking datagram socket."""

    def recv(self, size: int, /) -> bytes:
        """The next datagram; BlockingIOError when there is none."""

    def send(self, data: bytes, /) -> int:
        """Send a datagram; returns its length."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the instance is; `hops` says which hop of each path it takes (path -> hop)."""

    name: str
    group: str
    member: int
    mac: str
    hops: dict[int, int]
    reverse_path: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """The server's clock, and what a packet costs on one reference core in each role."""

    clock: ServerCpu
    primary_ns: int
    backup_ns: int


@dataclass(slots=True)
class Counters:
    """See the module's text. `messages_…` are those between the members."""

    received: int = 0
    malformed: int = 0
    foreign: int = 0
    no_cpu: int = 0
    handed: int = 0
    processed: int = 0
    emitted: int = 0
    emit_failed: int = 0
    messages_sent: int = 0
    messages_failed: int = 0
    messages_received: int = 0
    messages_malformed: int = 0


class Instance:
    """A member of a replica group bound to its sockets."""

    def __init__(
        self,
        identity: Identity,
        function: Function,
        replication: ReplicationConfig,
        frames: FrameSocket,
        peer: Datagrams | None,
        capacity: Capacity | None,
        events: EventLog,
        role: str,
    ) -> None:
        if role not in ("primary", "backup"):
            raise ValueError(f"role = {role!r}: expected primary or backup")
        self.counters = Counters()
        self.dropped: Counter[str] = Counter()
        self._identity = identity
        self._function = function
        self._frames = frames
        self._peer = peer
        self._capacity = capacity
        self._events = events
        self._state: State = {}
        mac = nsh.mac_bytes(identity.mac)
        self._prefixes = {
            path: nsh.header_prefix(path, hop + 1, identity.member, mac)
            for path, hop in identity.hops.items()
        }
        # (completion, stamp, packet), in the order of completion: the server clock is a FIFO.
        self._waiting: deque[tuple[int, Stamp, bytes]] = deque()
        self._await_first_release = False
        # Inputs were handed over since the machine was last told that there are no more.
        self._busy = False
        # The primary had an event since its time was last asked for; asking is not free.
        self._touched = True
        self._timer_ns: int | None = None
        # One of the two at a time: which of them says the role.
        self._primary: Primary | None = None
        self._backup: Backup | None = None
        self._machine: Primary | Backup
        if role == "primary":
            protected = peer is not None
            self._primary = Primary(replication, self._state, self._process, protected=protected)
            self._machine = self._primary
        else:
            self._backup = Backup(replication, self._state, self._process)
            self._machine = self._backup
        self._set_cost()

    # ------------------------------------------------------------------ events of the loop

    def read_frames(self) -> None:
        """Read frames until there are none, or as many as one turn may have."""
        recv, waiting, capacity = self._frames.recv, self._waiting, self._capacity
        hops, counters = self._identity.hops, self.counters
        for _ in range(READ_AT_ONCE):
            try:
                data = recv(FRAME_BYTES)
            except OSError:  # nothing more, or the interface went down
                return
            frame = nsh.decode(data)
            if frame is None:
                counters.malformed += 1
                continue
            hop, _member, stamp, packet = frame
            if hops.get(stamp.path) != hop:
                counters.foreign += 1
                continue
            counters.received += 1
            now_ns = time.monotonic_ns()
            if capacity is None:
                self._hand_over(now_ns, stamp, packet)
                continue
            end_ns = capacity.clock.admit(now_ns, self._cost_ns)
            if end_ns is not None:
                waiting.append((end_ns, stamp, packet))
            else:
                counters.no_cpu += 1
                if self._primary is not None:
                    self._touched = True
                    self._perform(self._primary.on_lost_input(now_ns, stamp))

    def read_messages(self) -> None:
        """Read what the other member sent."""
        if self._peer is None:
            return
        counters = self.counters
        for _ in range(READ_AT_ONCE):
            try:
                data = self._peer.recv(codec.MAX_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:  # the peer's port or host is gone: an earlier message was refused
                counters.messages_failed += 1
                continue
            counters.messages_received += 1
            try:
                message = codec.decode(data)
            except ValueError:
                counters.messages_malformed += 1
                continue
            now_ns = time.monotonic_ns()
            if isinstance(message, Ack):
                if self._primary is not None:
                    self._touched = True
                    self._perform(self._primary.on_ack(now_ns, message))
            elif self._backup is not None:
                self._on_log(now_ns, message)

    def step(self, now_ns: int) -> int | None:
        """Do what is due; returns when the next call is wanted though no socket is readable.

        To be called after each reading of sockets, and at that time.
        """
        if self._waiting:
            self._hand_over_due(now_ns)
        primary = self._primary
        if primary is None:
            # A backup's copies cause nothing by themselves: they are handed over, by their
            # completion times, when something else wakes the process up.
            return None
        if self._busy:
            self._busy = False
            if primary.protected:
                self._perform(primary.on_idle(now_ns))
        if self._touched:
            self._touched = False
            self._timer_ns = primary.next_timer_ns()
        timer_ns = self._timer_ns
        if timer_ns is not None and timer_ns <= now_ns:
            self._perform(primary.on_timer(now_ns))
            timer_ns = self._timer_ns = primary.next_timer_ns()
        if not self._waiting:
            return timer_ns
        due_ns = self._waiting[0][0]
        return due_ns if timer_ns is None else min(due_ns, timer_ns)

    # ------------------------------------------------------------------------------ orders

    def promote(self, order: dict[str, Any]) -> dict[str, Any]:
        """Become the primary in group epoch `order["epoch"]`; nothing to do if it is already."""
        epoch = order["epoch"]
        if type(epoch) is not int:
            raise TypeError(f"epoch = {epoch!r}: expected an integer")
        if self._backup is None:
            return {"replayed": 0}
        now_ns = time.monotonic_ns()
        self._hand_over_due(now_ns)
        primary, actions = self._backup.promote(now_ns, epoch)
        self._machine = self._primary = primary
        self._touched = True
        self._backup = None
        self._set_cost()
        replayed = sum(isinstance(action, Emit) for action in actions)
        self._events.write(
            "promoted",
            group=self._identity.group,
            instance=self._identity.name,
            epoch=epoch,
            replayed=replayed,
        )
        self._await_first_release = True
        self._perform(actions)
        return {"replayed": replayed}

    def unprotect(self, order: dict[str, Any]) -> dict[str, Any]:
        """Go on without a backup; nothing to do if there is none. ValueError on a backup."""
        primary = self._primary
        if primary is None:
            raise ValueError("a backup cannot be unprotected: expected the primary")
        if primary.protected:
            self._touched = True
            actions = primary.unprotect(time.monotonic_ns())
            self._events.write(
                "unprotected", group=self._identity.group, instance=self._identity.name
            )
            self._perform(actions)
        return {}

    def stats(self, order: dict[str, Any]) -> dict[str, Any]:
        """Role and counters (see the module's text)."""
        primary, backup = self._primary, self._backup
        machine = self._machine
        return {
            "role": "primary" if primary is not None else "backup",
            "protected": primary is not None and primary.protected,
            **asdict(self.counters),
            "dropped": dict(self.dropped),
            "kernel_drops": self._frames.kernel_drops(),
            "waiting": len(self._waiting),
            "buffered": machine.inputs.packets,
            "log_index": machine.next_index,
            "unacknowledged": primary.unacknowledged if primary is not None else 0,
            "unreleased": backup.unreleased if backup is not None else 0,
        }

    def dump(self) -> dict[str, Any]:
        """Counters, marks and state as JSON values; equal states give equal dumps of state.

        `marks` has [path, flow, epoch, next expected, next output] for each flow; in `state`
        bytes are written as hexadecimal text, in {"hex": ...} where text could stand as well.
        """
        machine = self._machine
        marks = sorted([*key, *mark] for key, mark in machine.inputs.marks().items())
        return {
            "name": self._identity.name,
            "group": self._identity.group,
            "member": self._identity.member,
            "counters": self.stats({}),
            "log_index": machine.next_index,
            "marks": marks,
            "state_sha256": hashlib.sha256(encode_state(self._state)).hexdigest(),
            "state": {key.hex(): _json(value) for key, value in sorted(self._state.items())},
        }

    # ---------------------------------------------------------------------------- internal

    def _process(self, path: int, packet: bytes, now_ns: int) -> Result:
        self.counters.processed += 1
        reverse = path == self._identity.reverse_path
        return self._function.process(packet, self._state, reverse, now_ns)

    def _set_cost(self) -> None:
        capacity = self._capacity
        self._cost_ns = 0
        if capacity is not None:
            primary = self._primary is not None
            self._cost_ns = capacity.primary_ns if primary else capacity.backup_ns

    def _hand_over_due(self, now_ns: int) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= now_ns:
            _, stamp, packet = waiting.popleft()
            self._hand_over(now_ns, stamp, packet)

    def _hand_over(self, now_ns: int, stamp: Stamp, packet: bytes) -> None:
        self.counters.handed += 1
        if self._primary is not None:
            self._busy = self._touched = True
            self._perform(self._primary.on_packet(now_ns, stamp, packet))
        elif self._backup is not None:
            self._perform(self._backup.on_packet(now_ns, stamp, packet))

    def _on_log(self, now_ns: int, batch: LogBatch) -> None:
        self._hand_over_due(now_ns)
        if self._backup is not None:
            self._perform(self._backup.on_log(now_ns, batch))

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Emit):
                self._emit(action)
            elif isinstance(action, Drop):
                self.dropped[action.reason] += 1
            else:
                self._send(codec.encode(action.message))

    def _emit(self, action: Emit) -> None:
        stamp = action.stamp
        try:
            self._frames.send(nsh.encode(self._prefixes[stamp.path], stamp, action.packet))
        except OSError:
            self.counters.emit_failed += 1
            return
        self.counters.emitted += 1
        if self._await_first_release:
            self._await_first_release = False
            self._events.write(
                "first-release", group=self._identity.group, instance=self._identity.name
            )

    def _send(self, data: bytes) -> None:
        if self._peer is None:
            return
        try:
            self._peer.send(data)
        except OSError:
            # Lost like a message on the way is: the protocol sends again.
            self.counters.messages_failed += 1
        else:
            self.counters.messages_sent += 1


def _json(value: Value) -> object:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return value
