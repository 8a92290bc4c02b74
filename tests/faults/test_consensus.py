"""The replicated log: what is applied is the same everywhere, whoever stops, dies or comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgpack
import pytest
from pysyncobj.node import Node
from pysyncobj.poller import createPoller

from testbed.orchestration.detection.raft import Consensus, UnixTransport
from testbed.orchestration.messages.datagrams import bound_socket, long_queues
from tests.support.fdu_lab import FORK, wait_for

NAMES = ("a", "b", "c")


def member(name: str, folder: Path, orders: Connection) -> None:
    """A member that proposes what it is sent, and tells all that it applied when it is asked."""
    applied: list[str] = []
    with long_queues() if os.geteuid() == 0 else contextlib.nullcontext():
        sockets = {other: str(folder / f"{other}.sock") for other in NAMES}
        log = Consensus(
            name, sockets, lambda command: applied.append(command["text"]), folder / f"{name}.log"
        )

    def read() -> None:
        texts = orders.recv()
        if texts is None:
            orders.send((list(applied), log.leader if log.has_majority else None, log.term))
            return
        for text in texts:
            log.propose({"text": text})

    log.watch(orders.fileno(), read)
    while True:
        log.run_once(0.02)


class Trio:
    """Three members."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._members: dict[str, tuple[BaseProcess, Connection]] = {}
        for name in NAMES:
            self.start(name)

    def start(self, name: str) -> None:
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=member, args=(name, self._folder, theirs), daemon=True)
        process.start()
        theirs.close()
        self._members[name] = (process, ours)

    def signal(self, name: str, number: signal.Signals) -> None:
        process = self._members[name][0]
        assert process.pid is not None
        os.kill(process.pid, number)
        if number == signal.SIGKILL:
            process.join(10)

    def propose(self, name: str, *texts: str) -> None:
        self._members[name][1].send(texts)

    def state(self, name: str) -> tuple[list[str], str | None, int]:
        self._members[name][1].send(None)
        answer: Any = self._members[name][1].recv()
        return answer[0], answer[1], answer[2]

    def leader(self, *among: str) -> str:
        """The leader that they agree on, and that is one of them."""

        def agreed() -> str | None:
            leaders = {self.state(name)[1] for name in among}
            found = leaders.pop()
            return found if not leaders and found in among else None

        return str(wait_for(agreed, "no leader"))

    def commit(self, name: str, text: str, *among: str) -> None:
        """Propose until it is applied, as a user of the log has to."""

        def done() -> bool:
            self.propose(name, text)
            return all(text in self.state(other)[0] for other in among)

        wait_for(done, f"{text} was not committed")

    def close(self) -> None:
        for process, _ in self._members.values():
            process.kill()
            process.join(10)


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    trio = Trio(tmp_path)
    yield trio
    trio.close()


def test_all_apply_the_same_in_the_same_order(trio: Trio) -> None:
    trio.leader(*NAMES)
    for name in NAMES:
        trio.propose(name, *(f"{name}{number}" for number in range(500)))
    wait_for(lambda: all(len(trio.state(name)[0]) >= 1500 for name in NAMES), "not all applied")
    first, *others = (trio.state(name)[0] for name in NAMES)
    assert all(other == first for other in others)
    assert len(set(first)) == 1500
    for name in NAMES:
        own = [text for text in first if text[0] == name]
        assert own == [f"{name}{number}" for number in range(500)]


def test_a_stopped_member_misses_nothing(trio: Trio) -> None:
    leader = trio.leader(*NAMES)
    stopped, other = (name for name in NAMES if name != leader)
    trio.signal(stopped, signal.SIGSTOP)
    # More than the sockets hold.
    texts = [f"x{number}".ljust(2000) for number in range(1000)]
    trio.propose(leader, *texts)
    wait_for(lambda: trio.state(other)[0] == texts, "two of three do not suffice")
    trio.signal(stopped, signal.SIGCONT)
    wait_for(lambda: trio.state(stopped)[0] == texts, "it did not catch up")


def test_a_leader_that_was_stopped_follows_the_next(trio: Trio) -> None:
    leader = trio.leader(*NAMES)
    others = [name for name in NAMES if name != leader]
    trio.commit(leader, "before", *NAMES)
    trio.signal(leader, signal.SIGSTOP)
    # What it was asked for meanwhile must not be applied twice, or in another order.
    trio.propose(leader, "meanwhile")
    trio.leader(*others)
    trio.commit(others[0], "after", *others)
    trio.signal(leader, signal.SIGCONT)
    trio.commit(leader, "again", *NAMES)
    wait_for(
        lambda: trio.state(leader)[0] == trio.state(others[0])[0] == trio.state(others[1])[0],
        "they differ",
    )


class Loop:
    """What a transport uses of PySyncObj."""

    def __init__(self) -> None:
        self._poller = createPoller("auto")
        self.ticks: list[Callable[[], None]] = []

    def addOnTickCallback(self, callback: Callable[[], None]) -> None:
        self.ticks.append(callback)


def test_messages_wait_for_a_member_that_does_not_read(tmp_path: Path) -> None:
    nodes = [Node(name, path=str(tmp_path / name)) for name in ("a", "b")]
    loop = Loop()
    peer = bound_socket(nodes[1].path)
    transport = UnixTransport(loop, nodes[0], nodes[1:])
    for number in range(3000):
        assert transport.send(nodes[1], number)
    got: list[int] = []

    def read() -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                got.append(msgpack.unpackb(peer.recv(100))[1])
        loop.ticks[0]()
        return len(got) >= 3000

    wait_for(read, "some are missing")
    # The greeting of a member that was not heard of yet comes in between.
    assert [number for number in got if number is not None] == list(range(3000))
    peer.close()
    assert not transport.send(nodes[1], 0)
    transport.destroy()


def test_one_of_three_commits_nothing(trio: Trio) -> None:
    leader = trio.leader(*NAMES)
    dead = [name for name in NAMES if name != leader]
    for name in dead:
        trio.signal(name, signal.SIGKILL)
    wait_for(lambda: trio.state(leader)[1] is None, "it still thinks that it leads")
    trio.propose(leader, "alone")
    assert "alone" not in trio.state(leader)[0]
    trio.start(dead[0])
    trio.commit(dead[0], "together", leader, dead[0])
    # It was not kept: whoever wants it proposes it again.
    trio.commit(dead[0], "later", leader, dead[0])
    assert "alone" not in trio.state(leader)[0]


def test_what_was_committed_outlives_all_members(trio: Trio) -> None:
    trio.leader(*NAMES)
    for number in range(5):
        trio.commit("a", f"x{number}", *NAMES)
    before = trio.state("a")[0]
    for name in NAMES:
        trio.signal(name, signal.SIGKILL)
    for name in NAMES:
        trio.start(name)
    wait_for(
        lambda: all(trio.state(name)[0][: len(before)] == before for name in NAMES), "it is lost"
    )


def test_the_sockets_of_the_process_stay_what_they_are() -> None:
    assert socket.inet_ntop(socket.AF_INET6, bytes(15) + b"\1") == "::1"
