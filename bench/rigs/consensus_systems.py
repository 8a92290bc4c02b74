"""The systems that `bench.consensus` compares: PySyncObj, tuned and not, and etcd."""

from __future__ import annotations

import base64
import http.client
import json
import multiprocessing
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import psutil
from pysyncobj import SyncObj, SyncObjConf, SyncObjException, replicated

from testbed.orchestration.detection.raft import ELECTION_S, HEARTBEAT_S, Consensus
from testbed.orchestration.messages.datagrams import long_queues

MEMBERS = 3
TICK_S = 0.025
POLL_S = 0.001
AGAIN_S = 0.01
START_S = 30.0
CONNECTIONS = 16
FORK = multiprocessing.get_context("fork")


class Cluster(Protocol):
    """Three members of a consensus."""

    def commit_times_s(self, count: int) -> list[float]:
        """How long each of `count` commits took, one after the other, at a follower."""

    def pipeline_s(self, count: int) -> float:
        """How long `count` commits took that were asked for at once."""

    def processes(self) -> dict[str, psutil.Process]:
        """The members."""

    def leader(self) -> str:
        """Who leads."""

    def first_commit(self, member: str) -> None:
        """Return when a commit that a member was asked for is done, however often it is asked."""

    def restart(self, member: str) -> None:
        """Start a member that was killed."""


# ------------------------------------------------------------------------------ PySyncObj


class TunedMember:
    """A member as the FDU runs it; its driver sends (request, number)."""

    def __init__(self, name: str, members: dict[str, str], orders: Connection) -> None:
        self._name = name
        self._applied = 0
        self._applied_at = 0.0
        with long_queues():
            self._log = Consensus(name, members, self._apply, Path(f"{members[name]}.journal"))
        self._orders = orders
        self._requests: list[tuple[str, int]] = []
        self._log.watch(orders.fileno(), lambda: self._requests.append(orders.recv()))

    def serve(self) -> None:
        """Do what the driver asks, for ever."""
        while True:
            self._log.run_once(TICK_S)
            while self._requests:
                self._obey(*self._requests.pop())

    def _apply(self, command: dict[str, Any]) -> None:
        self._applied += command["by"] == self._name
        self._applied_at = time.perf_counter()

    def _commit(self, count: int, again_s: float) -> float:
        begin, target = time.perf_counter(), self._applied + count
        for _ in range(count):
            self._log.propose({"by": self._name})
        asked = begin
        while self._applied < target:
            self._log.run_once(POLL_S)
            if time.perf_counter() - asked > again_s:
                asked = time.perf_counter()
                self._log.propose({"by": self._name})
        return self._applied_at - begin

    def _obey(self, request: str, number: int) -> None:
        if request == "leader":
            self._orders.send(self._log.leader if self._log.has_majority else None)
        elif request == "each":
            self._orders.send([self._commit(1, START_S) for _ in range(number)])
        else:
            self._orders.send(self._commit(number, AGAIN_S if number == 1 else START_S))


class DefaultMember:
    """A member with PySyncObj's defaults."""

    class Log(SyncObj):
        """Counts."""

        def __init__(self, own: str, others: list[str]) -> None:
            super().__init__(own, others, SyncObjConf(connectionRetryTime=0.5))
            self.count = 0

        @replicated
        def command(self) -> int:
            """A command."""
            self.count += 1
            return self.count

    def __init__(self, name: str, members: dict[str, str], orders: Connection) -> None:
        others = [address for other, address in members.items() if other != name]
        self._log = self.Log(members[name], others)
        self._names = {address: other for other, address in members.items()}
        self._orders = orders

    def serve(self) -> None:
        """Do what the driver asks, for ever."""
        while True:
            request, number = self._orders.recv()
            if request == "leader":
                leader = self._log._getLeader()
                self._orders.send(None if leader is None else self._names[str(leader.id)])
            elif request == "each":
                self._orders.send([self._at_once(1) for _ in range(number)])
            else:
                self._orders.send(self._at_once(number))

    def _at_once(self, count: int) -> float:
        begin = time.perf_counter()
        while count == 1:
            try:
                self._log.command(sync=True, timeout=0.5)
                return time.perf_counter() - begin
            except SyncObjException:
                continue  # the leader changes: ask again
        done = threading.Semaphore(0)
        for _ in range(count):
            self._log.command(callback=lambda *_: done.release())
        for _ in range(count):
            done.acquire()
        return time.perf_counter() - begin


class PySyncObjCluster:
    """Members in processes of their own, each with a pipe for requests."""

    def __init__(self, kind: type[TunedMember | DefaultMember], members: dict[str, str]) -> None:
        self._kind = kind
        self._members = members
        self._children: dict[str, tuple[BaseProcess, Connection]] = {}
        for name in members:
            self.restart(name)

    def restart(self, member: str) -> None:
        """See `Cluster`."""
        ours, theirs = FORK.Pipe()
        child = FORK.Process(target=self._main, args=(member, theirs), daemon=True)
        child.start()
        theirs.close()
        self._children[member] = (child, ours)

    def _main(self, member: str, orders: Connection) -> None:
        self._kind(member, self._members, orders).serve()

    def ask(self, member: str, request: str, number: int = 0) -> Any:
        """The answer of a member to a request."""
        orders = self._children[member][1]
        orders.send((request, number))
        return orders.recv()

    def commit_times_s(self, count: int) -> list[float]:
        """See `Cluster`."""
        return list(self.ask(self._follower(), "each", count))

    def pipeline_s(self, count: int) -> float:
        """See `Cluster`."""
        return float(self.ask(self._follower(), "at once", count))

    def processes(self) -> dict[str, psutil.Process]:
        """See `Cluster`."""
        return {
            name: psutil.Process(child.pid)
            for name, (child, _) in self._children.items()
            if child.is_alive()
        }

    def leader(self) -> str:
        """See `Cluster`."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            leaders = {self.ask(name, "leader") for name in self.processes()}
            if len(leaders) == 1 and None not in leaders:
                return str(leaders.pop())
            time.sleep(AGAIN_S)
        raise TimeoutError("no leader")

    def first_commit(self, member: str) -> None:
        """See `Cluster`."""
        self.ask(member, "at once", 1)

    def close(self) -> None:
        """Kill all members."""
        for child, orders in self._children.values():
            child.kill()
            child.join()
            orders.close()

    def _follower(self) -> str:
        leader = self.leader()
        return next(name for name in self._members if name != leader)


# ----------------------------------------------------------------------------------- etcd


class EtcdCluster:
    """Members of etcd, asked through their HTTP gateways."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        ports = free_ports(2 * MEMBERS)
        self._client_ports = {f"m{n}": ports[2 * n] for n in range(MEMBERS)}
        self._peers = {f"m{n}": f"http://127.0.0.1:{ports[2 * n + 1]}" for n in range(MEMBERS)}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._begun = False
        for name in self._peers:
            self.restart(name)
        self.first_commit("m0")
        self._begun = True

    def restart(self, member: str) -> None:
        """See `Cluster`."""
        client, peer = f"http://127.0.0.1:{self._client_ports[member]}", self._peers[member]
        options = {
            "name": member,
            "data-dir": str(self._folder / member),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": ",".join(f"{name}={url}" for name, url in self._peers.items()),
            "initial-cluster-state": "existing" if self._begun else "new",
            "heartbeat-interval": str(round(HEARTBEAT_S * 1e3)),
            "election-timeout": str(round(ELECTION_S[0] * 1e3)),
            "log-level": "error",
        }
        command = [self._program, *(f"--{key}={value}" for key, value in options.items())]
        with open(self._folder / f"{member}.log", "ab") as log:
            self._children[member] = subprocess.Popen(command, stdout=log, stderr=log)

    def commit_times_s(self, count: int) -> list[float]:
        """See `Cluster`."""
        connection = self._connect(self._follower())
        return [timed(lambda: swap(connection)) for _ in range(count)]

    def pipeline_s(self, count: int) -> float:
        """See `Cluster`."""
        member = self._follower()

        def some() -> None:
            connection = self._connect(member)
            for _ in range(count // CONNECTIONS):
                swap(connection)

        threads = [threading.Thread(target=some) for _ in range(CONNECTIONS)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begin

    def processes(self) -> dict[str, psutil.Process]:
        """See `Cluster`."""
        return {
            name: psutil.Process(child.pid)
            for name, child in self._children.items()
            if child.poll() is None
        }

    def leader(self) -> str:
        """See `Cluster`."""
        for member in self.processes():
            status = post(self._connect(member), "/v3/maintenance/status", {})
            if status.get("leader") == status["header"]["member_id"]:
                return member
        raise TimeoutError("no leader")

    def first_commit(self, member: str) -> None:
        """See `Cluster`."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                swap(self._connect(member, 0.5))
                return
            except (OSError, http.client.HTTPException, KeyError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(AGAIN_S)  # the leader changes: ask again

    def close(self) -> None:
        """Kill all members."""
        for child in self._children.values():
            child.kill()
            child.wait()

    def _connect(self, member: str, timeout_s: float = START_S) -> http.client.HTTPConnection:
        port = self._client_ports[member]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _follower(self) -> str:
        leader = self.leader()
        return next(name for name in self._peers if name != leader)


def post(connection: http.client.HTTPConnection, path: str, body: Any) -> dict[str, Any]:
    """Ask etcd; KeyError if it refuses."""
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    if "error" in answer:
        raise KeyError(answer["error"])
    return answer


def swap(connection: http.client.HTTPConnection) -> None:
    """A compare-and-set transaction of the kind that a record of a group would need."""
    key = base64.b64encode(b"group").decode()
    value = base64.b64encode(bytes(200)).decode()
    compare = {"key": key, "target": "VERSION", "result": "GREATER", "version": "-1"}
    put = {"request_put": {"key": key, "value": value}}
    post(connection, "/v3/kv/txn", {"compare": [compare], "success": [put]})["header"]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(endpoint.getsockname()[1]) for endpoint in sockets]
    for endpoint in sockets:
        endpoint.close()
    return ports


def timed(action: Callable[[], object]) -> float:
    """Seconds that it took."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin
