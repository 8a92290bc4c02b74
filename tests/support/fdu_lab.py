"""An FDU of real processes, and stand-ins for the instances and servers that it watches."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from testbed.orchestration.detection import agent, fdu
from testbed.orchestration.detection.fdu_client import FduClient
from testbed.orchestration.messages.control_client import ControlClient
from testbed.orchestration.messages.datagrams import bound_socket, long_queues, sending_socket
from testbed.records.events import read_events

HEARTBEAT_NS = 50_000_000
TIMEOUT_NS = 500_000_000
BOUND_S = 15.0
PRIORITY = 15
FORK = multiprocessing.get_context("fork")


def wait_for(done: Callable[[], Any], what: str, bound_s: float = BOUND_S) -> Any:
    """The first true value of `done`."""
    deadline = time.monotonic() + bound_s
    while not (found := done()):
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
    return found


def _in_real_time(target: Callable[[dict[str, Any]], None], config: dict[str, Any]) -> None:
    """As in a run: what else the host does is no failure."""
    if os.geteuid() == 0:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    target(config)


def stand_in(config: dict[str, Any]) -> None:
    """Heartbeats, and a record of the configurations that it got: what an instance is to the FDU.

    It takes no configuration before there is a file `config["holds"]`, if that is given.
    """
    control = bound_socket(config["control_socket"])
    senders = [(path, sending_socket()) for path in config["heartbeats"]]
    epoch = 0
    with open(config["record"], "a", encoding="utf-8", buffering=1) as record:
        while True:
            for path, sender in senders:
                with contextlib.suppress(OSError):
                    message = f"{config['name']} {epoch} {time.monotonic_ns()}"
                    sender.sendto(message.encode(), path)
            due_ns = time.monotonic_ns() + HEARTBEAT_NS
            while (left_ns := due_ns - time.monotonic_ns()) > 0:
                if not select.select([control], [], [], left_ns / 1e9)[0]:
                    continue
                data, sender_path = control.recvfrom(1 << 16)
                order = json.loads(data)
                record.write(json.dumps({**order, "t_ns": time.monotonic_ns()}) + "\n")
                with contextlib.suppress(OSError):
                    answer = {"id": order["id"], "ok": True, "error": None}
                    control.sendto(json.dumps(answer).encode(), sender_path)
                if config["takes"] is None or Path(config["takes"]).exists():
                    epoch = max(epoch, order["epoch"])


class MembershipLab:
    """`members` FDU members, whatever they watch, and a client, in `folder`."""

    def __init__(self, folder: Path, members: int = 3) -> None:
        self.folder = folder
        self.names = [f"fdu-{number}" for number in range(members)]
        self.processes: dict[str, BaseProcess] = {}
        root = os.geteuid() == 0
        with long_queues() if root else contextlib.nullcontext():
            self._news = bound_socket(self.path("news"))
        self.news_seen: list[dict[str, Any]] = []
        self._control = ControlClient(folder / "client.sock")
        self.client = FduClient(self._control, [self.path(name) for name in self.names])
        for name in self.names:
            self.start_member(name)

    def __enter__(self) -> MembershipLab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes.values():
            process.kill()
            process.join(BOUND_S)
        self._control.close()
        self._news.close()

    def path(self, name: str) -> str:
        return str(self.folder / f"{name}.sock")

    # --------------------------------------------------------------------------- processes

    def start(self, name: str, target: Callable[[dict[str, Any]], None], config: Any) -> int:
        process = FORK.Process(target=_in_real_time, args=(target, config), daemon=True)
        process.start()
        self.processes[name] = process
        assert process.pid is not None
        return process.pid

    def start_member(self, name: str) -> None:
        """Start an FDU member, or start it again with its journal."""
        config = {
            "name": name,
            "members": {other: self.path(f"log-{other}") for other in self.names},
            "heartbeat_socket": self.path(f"heartbeats-{name}"),
            "control_socket": self.path(name),
            "notify_socket": self.path("news"),
            "heartbeat_ns": HEARTBEAT_NS,
            "failure_timeout_ns": TIMEOUT_NS,
            "events": str(self.folder / "events.jsonl"),
            "long_queues": os.geteuid() == 0,
            "journal": str(self.folder / f"{name}.journal"),
        }
        self.start(name, fdu.main, config)

    def start_instance(
        self, name: str, heard_by: Sequence[str] | None = None, takes: Path | None = None
    ) -> dict[str, Any]:
        """Start a stand-in; what the FDU is told of it."""
        heard_by = self.names if heard_by is None else heard_by
        config = {
            "name": name,
            "control_socket": self.path(name),
            "heartbeats": [self.path(f"heartbeats-{member}") for member in heard_by],
            "record": str(self.folder / f"{name}.orders"),
            "takes": None if takes is None else str(takes),
        }
        self.start(name, stand_in, config)
        wait_for(Path(self.path(name)).exists, f"{name} did not start")
        return {"name": name, "control_socket": self.path(name), "address": "10.0.0.1", "port": 7}

    def start_agent(self, name: str) -> None:
        """Start the agent of a server."""
        fdu = [
            {
                "heartbeat_socket": self.path(f"heartbeats-{member}"),
                "control_socket": self.path(member),
            }
            for member in self.names
        ]
        config = {
            "name": name,
            "control_socket": self.path(name),
            "heartbeat_ns": HEARTBEAT_NS,
            "fdu": fdu,
        }
        self.start(name, agent.main, config)
        self.call(name, "ping")

    def start_group(self, group: str, backups: int = 1) -> list[str]:
        """Start a primary and its backups and make them a group; their names."""
        names = [f"{group}-m{number}" for number in range(1 + backups)]
        members = {number: self.start_instance(name) for number, name in enumerate(names)}
        self.client.create_group(group, members, 0, range(1, 1 + backups))
        return names

    def watch_processes(self, agent: str, names: Sequence[str]) -> None:
        for name in names:
            self.call(agent, "watch-process", name=name, pid=self.processes[name].pid)

    def signal(self, name: str, number: signal.Signals) -> int:
        """Send a signal; when, in ns."""
        pid = self.processes[name].pid
        assert pid is not None
        now_ns = time.monotonic_ns()
        os.kill(pid, number)
        return now_ns

    def kill(self, name: str) -> int:
        """SIGKILL and wait for the end; when it was sent."""
        now_ns = self.signal(name, signal.SIGKILL)
        self.processes[name].join(BOUND_S)
        return now_ns

    # ------------------------------------------------------------------------ observations

    def call(self, process: str, op: str, **fields: Any) -> dict[str, Any]:
        return self._control.call(self.path(process), op, **fields)

    def await_heartbeat(self) -> None:
        """Wait as long as it takes to hear from everyone once."""
        select.select([], [], [], HEARTBEAT_NS / 1e9)

    def leader(self) -> str:
        """The leader that all living members agree on."""

        def agreed() -> str | None:
            leaders = set()
            for name in self.names:
                if self.processes[name].is_alive():
                    status = self.call(name, "status")
                    leaders.add(status["leader"] if status["majority"] else None)
            (first, *others) = leaders
            return first if not others else None

        return str(wait_for(agreed, "no leader"))

    def orders(self, name: str) -> list[dict[str, Any]]:
        """The configurations that a stand-in got, in order."""
        file = self.folder / f"{name}.orders"
        return [json.loads(line) for line in file.read_text().splitlines()]

    def configured(self, name: str, epoch: int, bound_s: float = BOUND_S) -> dict[str, Any]:
        """The first configuration of an epoch that a stand-in got."""

        def got() -> dict[str, Any] | None:
            return next((order for order in self.orders(name) if order["epoch"] == epoch), None)

        return dict(wait_for(got, f"{name} was not configured for epoch {epoch}", bound_s))

    def events(self, kind: str) -> list[dict[str, Any]]:
        found = read_events(self.folder / "events.jsonl")
        return [event for event in found if event["event"] == kind]

    def news(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first news that is `wanted`."""

        def got() -> dict[str, Any] | None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.news_seen.append(json.loads(self._news.recv(1 << 16)))
            return next((news for news in self.news_seen if wanted(news)), None)

        return dict(wait_for(got, "no such news"))
