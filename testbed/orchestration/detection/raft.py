"""A replicated log: commands that a majority of members has stored, applied by all in one order.

The consensus is PySyncObj's (Raft). Here it is bound to Unix datagram sockets and to one loop:

- Its own transport is TCP: a port open to every user of the host, through which it unpickles
  what it gets. Sockets in the run's folder are the run's own. Their datagrams also arrive in the
  order in which they were sent, whoever sent them, so no acknowledgement is older than an election
  that it could be taken to follow (PySyncObj's acknowledgements carry no term).
- It has no thread: `Consensus.run_once` waits for all sockets of the process and carries on.

A member that was killed may start again from its journal. Without its journal it must not: it
would have forgotten its votes and what it acknowledged. (The journal outlives the process, not the
host: nothing is flushed to disk.)
"""

from __future__ import annotations

import _socket
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgpack
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.poller import POLL_EVENT_TYPE
from pysyncobj.transport import Transport

from testbed.orchestration.messages.datagrams import bound_socket, sending_socket

# PySyncObj 0.3.17 puts a function for Windows in its place on every system.
socket.inet_ntop = _socket.inet_ntop

HEARTBEAT_S = 0.05
"""Between the leader's messages when there is nothing to say."""
ELECTION_S = (0.25, 0.5)
"""A follower that hears nothing of a leader for a random time in this range stands for election."""
FALLBACK_S = 1.0
"""A leader that hears nothing of a majority for so long is none any more."""
GREET_S = 0.1
"""Between attempts to reach a member that is not there."""
MESSAGES_AT_ONCE = 256
MESSAGE_BYTES = 1 << 20
KEPT_MESSAGES = 10_000
"""For a member that does not read; more, and it counts as gone."""
BATCH = 16
"""Commands that are proposed as one. A member has one such batch on the way, so few entries are:
while some are, PySyncObj sends the later ones twice, and the receiver takes back what it has from
the first of them on before it stores them again. That is safe while they are one message."""
MESSAGE_ENTRY_BYTES = 1 << 17
"""Of entries in a message: more than all members' batches together."""
LOST_S = 1.0
"""A batch that is not answered for so long is not waited for."""
NEVER = 1 << 40
"""Of entries and of seconds: the log is kept whole; a run has some thousands of commands."""

Command: TypeAlias = dict[str, Any]
"""What is replicated: anything that pickle can carry; here, what JSON can."""


class UnixTransport(Transport):
    """PySyncObj's messages as Unix datagrams. A member is connected while its socket exists.

    Until then nothing is lost: what a slow member does not take waits here. PySyncObj mends a gap
    by sending again what came after, and acknowledged entries would be taken back for a moment.
    """

    def __init__(self, sync: SyncObj, own: Node, others: Iterable[Node]) -> None:
        super().__init__(sync, own, others)
        self._own = own.id
        self._nodes = {node.id: node for node in others}
        self._senders = {node.id: sending_socket() for node in others}
        self._unsent: dict[str, deque[bytes]] = {node.id: deque() for node in others}
        self._connected: set[str] = set()
        self._greet_at = 0.0
        self._endpoint = bound_socket(own.path)
        sync._poller.subscribe(self._endpoint.fileno(), self._receive, POLL_EVENT_TYPE.READ)
        sync.addOnTickCallback(self._on_tick)

    def send(self, node: Node, message: Any) -> bool:
        """Send, or keep until it can be sent; False if the member is gone."""
        unsent = self._unsent[node.id]
        unsent.append(msgpack.packb((self._own, message)))
        if len(unsent) > KEPT_MESSAGES:
            self._lose(node)  # it was stopped for minutes
            return False
        return self._flush(node)

    def _flush(self, node: Node) -> bool:
        unsent, sender = self._unsent[node.id], self._senders[node.id]
        while unsent:
            try:
                sender.sendto(unsent[0], node.path)
            except BlockingIOError:
                return True
            except (FileNotFoundError, ConnectionRefusedError):
                self._lose(node)
                return False
            unsent.popleft()
        return True

    def _lose(self, node: Node) -> None:
        self._unsent[node.id].clear()
        if node.id in self._connected:
            self._connected.discard(node.id)
            self._onNodeDisconnected(node)

    def destroy(self) -> None:
        """Close the sockets."""
        for endpoint in (self._endpoint, *self._senders.values()):
            endpoint.close()

    def _on_tick(self) -> None:
        for name, unsent in self._unsent.items():
            if unsent:
                self._flush(self._nodes[name])
        now = time.monotonic()
        if now >= self._greet_at:
            self._greet_at = now + GREET_S
            self._greet()

    def _greet(self) -> None:
        """Look for members that are not there."""
        for name, node in self._nodes.items():
            if name not in self._connected and self.send(node, None):
                self._connect(node)

    def _connect(self, node: Node) -> None:
        if node.id not in self._connected:
            self._connected.add(node.id)
            self._onNodeConnected(node)

    def _receive(self, descriptor: int, event: int) -> None:
        for _ in range(MESSAGES_AT_ONCE):
            try:
                data = self._endpoint.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return
            sender, message = msgpack.unpackb(data)
            node = self._nodes[sender]
            self._connect(node)
            if message is not None:
                self._onMessageReceived(node, message)


class _Log(SyncObj):
    def __init__(
        self,
        own: Node,
        others: list[Node],
        journal: Path | None,
        apply: Callable[[Command], object],
    ) -> None:
        self._apply = apply
        conf = SyncObjConf(
            autoTick=False,
            # A command goes out at once, and wakes the process up.
            appendEntriesUseBatch=False,
            appendEntriesBatchSizeBytes=MESSAGE_ENTRY_BYTES,
            appendEntriesPeriod=HEARTBEAT_S,
            raftMinTimeout=ELECTION_S[0],
            raftMaxTimeout=ELECTION_S[1],
            leaderFallbackTimeout=FALLBACK_S,
            connectionTimeout=FALLBACK_S,
            logCompactionMinEntries=NEVER,
            logCompactionMinTime=NEVER,
            journalFile=None if journal is None else str(journal),
        )
        super().__init__(own, others, conf, transportClass=UnixTransport)

    @replicated
    def carry_out(self, commands: list[Command]) -> None:
        """Apply commands that a majority has stored."""
        for command in commands:
            self._apply(command)


class Consensus:
    """One of the members of a replicated log. `own` is its name in `members` (name: socket).

    `apply` gets each command, in the same order at every member, and must depend on nothing
    else; it must not raise. To be used from one thread.
    """

    def __init__(
        self,
        own: str,
        members: Mapping[str, str],
        apply: Callable[[Command], object],
        journal: Path | None = None,
    ) -> None:
        nodes = {name: Node(name, path=path) for name, path in members.items()}
        others = [node for name, node in nodes.items() if name != own]
        self._log = _Log(nodes[own], others, journal, apply)
        self.majority = len(nodes) // 2 + 1
        self._queue: deque[Command] = deque()
        self._asked = 0
        """Numbers batches, so that a late answer is not taken for that of the last."""
        self._ask_again_at: float | None = None

    def propose(self, command: Command) -> None:
        """Ask for a command to be committed, here or by the leader.

        It may get lost, for one when the leader changes, and is not kept while there is no
        majority: propose it again if it is not applied and still wanted. Then it may be applied
        twice.
        """
        if not self.has_majority:
            return
        self._queue.append(command)
        if self._ask_again_at is None:
            self._ask()

    def _ask(self) -> None:
        """Hand over the next commands, as one: see BATCH."""
        if not self._queue:
            self._ask_again_at = None
            return
        batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        self._asked += 1
        self._ask_again_at = time.monotonic() + LOST_S
        number = self._asked
        self._log.carry_out(batch, callback=lambda *_: self._answered(number))

    def _answered(self, number: int) -> None:
        if number == self._asked:
            self._ask()

    def watch(self, endpoint: socket.socket | int, read: Callable[[], None]) -> None:
        """Call `read` in `run_once` when `endpoint` is readable."""
        descriptor = endpoint if isinstance(endpoint, int) else endpoint.fileno()
        self._log._poller.subscribe(descriptor, lambda _d, _e: read(), POLL_EVENT_TYPE.READ)

    def run_once(self, timeout_s: float) -> None:
        """Do what is due, then wait for a socket to become readable, at most `timeout_s`.

        To be called again at once: what was read is acted on at the beginning of the next call.
        """
        if self._ask_again_at is not None and time.monotonic() > self._ask_again_at:
            self._ask()
        self._log.doTick(max(0.0, timeout_s))

    @property
    def is_leader(self) -> bool:
        """Whether this member leads; another may have been elected meanwhile."""
        return bool(self._log._isLeader())

    @property
    def leader(self) -> str | None:
        """The leader, as far as this member knows."""
        node = self._log._getLeader()
        return None if node is None else str(node.id)

    @property
    def term(self) -> int:
        """The number of the election that this member knows of."""
        return int(self._log.raftCurrentTerm)

    @property
    def commits(self) -> int:
        """How many entries of the log are committed, as far as this member knows."""
        return int(self._log.raftCommitIndex)

    @property
    def has_majority(self) -> bool:
        """Whether there is a leader and a majority that can be reached: commands make sense."""
        return self.leader is not None and bool(self._log.hasQuorum)

    def close(self) -> None:
        """Leave; the other members go on."""
        self._log.destroy()
