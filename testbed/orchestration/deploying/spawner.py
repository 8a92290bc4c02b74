"""Starts the processes of a run and knows which of them live."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from testbed.records.threads import Worker
from testbed.scenario.errors import RunError

START_S = 600.0
"""The warm parent may have to compile the data plane first, which takes minutes once."""
MESSAGE_BYTES = 1 << 20


class SpawnError(RunError):
    """A process could not be started."""


class Spawner:
    """Processes of one run, forked by a warm parent (see `testbed.orchestration.deploying.zygote`).

    Every process inherits DEFTBED_RUN=<run id>, by which it can be found again.
    """

    def __init__(self, run_id: str, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._condition = threading.Condition()
        self._alive: dict[str, int] = {}
        self._exits: dict[str, int] = {}
        self._started: dict[str, int] = {}
        self._asked: set[str] = set()
        """Those that were asked to end."""
        self._ends: dict[str, bool] = {}
        """Whether each one ends by itself when it is done."""
        self._ready = False
        self._closed = False
        log_dir.mkdir(parents=True, exist_ok=True)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "DEFTBED_RUN": run_id, "OPENBLAS_NUM_THREADS": "1"}
        with theirs, open(log_dir / "zygote.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "testbed.orchestration.deploying.zygote",
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._reader = Worker("spawner", self._read).start()

    def __enter__(self) -> Spawner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(
        self,
        name: str,
        target: str,
        config: Mapping[str, Any],
        *,
        namespace_pid: int | None = None,
        cgroup_procs: Sequence[str] = (),
        fifo_priority: int | None = None,
        ends: bool = False,
    ) -> int:
        """Start `target` ("module:function") with `config`; the number of the new process.

        `ends`: it ends by itself when it is done. Others end when they are asked to.
        Raises SpawnError if the warm parent is gone. The child reports a failure of its own by
        exiting; its output is in `<log_dir>/<name>.log`.
        """
        order = {
            "name": name,
            "target": target,
            "config": dict(config),
            "namespace_pid": namespace_pid,
            "cgroup_procs": list(cgroup_procs),
            "fifo_priority": fifo_priority,
            "log": str(self._log_dir / f"{name}.log"),
        }
        with self._condition:
            self._wait(lambda: self._ready, f"{name}: the warm parent did not start")
            self._started.pop(name, None)
            self._ends[name] = ends
            try:
                self._channel.send(json.dumps(order).encode())
            except ConnectionError as error:
                raise SpawnError(f"{name}: the warm parent has ended") from error
            self._wait(lambda: name in self._started, f"{name}: not started")
            return self._started[name]

    def pid(self, name: str) -> int | None:
        """The process called `name`, or None if it does not live."""
        with self._condition:
            return self._alive.get(name)

    def exits(self) -> dict[str, int]:
        """Exit codes (minus the signal's number) of the processes that ended."""
        with self._condition:
            return dict(self._exits)

    def died(self) -> dict[str, int]:
        """Exit codes, as in `exits`, of those that ended though nobody had asked them to.

        One that ends by itself is among them if it failed.
        """
        with self._condition:
            unasked = self._exits.keys() - self._asked
            codes = {name: self._exits[name] for name in sorted(unasked)}
            return {name: code for name, code in codes.items() if code or not self._ends[name]}

    def check(self) -> None:
        """Raise SpawnError if the warm parent has ended, or what ended the thread that hears it."""
        self._reader.check()
        with self._condition:
            if self._closed:
                raise SpawnError(f"the warm parent has ended; see {self._log_dir / 'zygote.log'}")

    def end(self, names: Sequence[str], timeout_s: float = 3.0) -> None:
        """End processes in order: SIGTERM, and SIGKILL for those that live after `timeout_s`."""
        self._signal(names, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        with self._condition:
            self._condition.wait_for(
                lambda: not any(name in self._alive for name in names) or self._closed,
                max(0.0, deadline - time.monotonic()),
            )
        self._signal(names, signal.SIGKILL)

    def kill(self, names: Sequence[str]) -> None:
        """SIGKILL, at once."""
        self._signal(names, signal.SIGKILL)

    def close(self) -> None:
        """End every process and the warm parent."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.wait(timeout_s=5)
        self._channel.close()

    def _signal(self, names: Sequence[str], number: signal.Signals) -> None:
        with self._condition:
            self._asked.update(name for name in names if name in self._alive)
            pids = [self._alive[name] for name in names if name in self._alive]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait(self, done: Any, what: str) -> None:
        if not self._condition.wait_for(lambda: done() or self._closed, START_S) or not done():
            raise SpawnError(what)

    def _read(self) -> None:
        try:
            while message := self._receive():
                with self._condition:
                    self._note(json.loads(message))
                    self._condition.notify_all()
        finally:
            with self._condition:
                self._closed = True
                self._condition.notify_all()

    def _receive(self) -> bytes:
        """What the warm parent says next; nothing if it has ended."""
        try:
            return self._channel.recv(MESSAGE_BYTES)
        except ConnectionError:
            return b""

    def _note(self, news: dict[str, Any]) -> None:
        if "ready" in news:
            self._ready = True
        elif "started" in news:
            name = news["started"]
            self._started[name] = self._alive[name] = news["pid"]
            self._asked.discard(name)
            self._exits.pop(name, None)
        elif self._alive.get(news["exit"]) == news["pid"]:
            # Not one that was killed and whose name another process has by now.
            del self._alive[news["exit"]]
            self._exits[news["exit"]] = news["code"]
