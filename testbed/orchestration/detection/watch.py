"""Samples the servers during a run and notes when one is overloaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType

import psutil

from testbed.records.events import EventLog
from testbed.records.threads import Worker
from testbed.vnf.dataplane.cpu import ServerCpu

PERIOD_S = 0.25
MEMORY_EVERY = 4
"""Memory and the host's load cost more to read: once in so many periods."""
OVERLOAD_UTILISATION = 0.95


@dataclass(frozen=True, slots=True)
class ServerSample:
    """A server over one sampling period.

    `utilisation` is the demand admitted to the server's emulated CPU in the period over what it
    can do; above 1 the queue grows. `cpu_ns` is real CPU time of its processes so far.
    """

    t_ns: int
    node: int
    utilisation: float
    queue_ns: int
    dropped: int
    cpu_ns: int
    memory_bytes: int


class ServerWatch:
    """A thread that samples every server each `PERIOD_S`.

    A server is overloaded in a period in which its utilisation reaches `OVERLOAD_UTILISATION` or
    it drops a packet for lack of CPU. Events "overload-begin" and "overload-end" carry the node.
    """

    def __init__(
        self,
        clocks: Mapping[int, ServerCpu],
        cpu_ns: Callable[[int], int],
        pids: Callable[[int], list[int]],
        events: EventLog,
    ) -> None:
        self._clocks = clocks
        self._cpu_ns = cpu_ns
        self._pids = pids
        self._events = events
        self._stop = threading.Event()
        self._worker = Worker("server-watch", self._run)
        self.samples: list[ServerSample] = []

    def __enter__(self) -> ServerWatch:
        psutil.cpu_times_percent(None)
        self._worker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._worker.wait()
        if error is None:
            self.check()

    def check(self) -> None:
        """Raise what ended the watch before it was to end."""
        self._worker.check()

    def _run(self) -> None:
        last = {node: clock.sample() for node, clock in self._clocks.items()}
        last_ns = time.monotonic_ns()
        overloaded: set[int] = set()
        memory_bytes: dict[int, int] = {}
        turn = 0
        while not self._stop.wait(PERIOD_S):
            if turn % MEMORY_EVERY == 0:
                memory_bytes = {node: self._memory(node) for node in self._clocks}
            now_ns = time.monotonic_ns()
            for node, clock in self._clocks.items():
                busy_until_ns, busy_ns, admitted, dropped = clock.sample()
                _, busy_before_ns, _, dropped_before = last[node]
                sample = ServerSample(
                    t_ns=now_ns,
                    node=node,
                    utilisation=(busy_ns - busy_before_ns) / (now_ns - last_ns),
                    queue_ns=max(0, busy_until_ns - now_ns),
                    dropped=dropped - dropped_before,
                    cpu_ns=self._cpu_ns(node),
                    memory_bytes=memory_bytes[node],
                )
                self.samples.append(sample)
                self._note_overload(sample, overloaded)
                last[node] = (busy_until_ns, busy_ns, admitted, dropped)
            last_ns = now_ns
            turn += 1
            if turn % MEMORY_EVERY == 0:
                self._note_host()

    def _note_overload(self, sample: ServerSample, overloaded: set[int]) -> None:
        over = sample.utilisation >= OVERLOAD_UTILISATION or sample.dropped > 0
        if over and sample.node not in overloaded:
            overloaded.add(sample.node)
            self._events.write("overload-begin", t_ns=sample.t_ns, node=sample.node)
        elif not over and sample.node in overloaded:
            overloaded.remove(sample.node)
            self._events.write("overload-end", t_ns=sample.t_ns, node=sample.node)

    def _note_host(self) -> None:
        times = psutil.cpu_times_percent(None)
        self._events.write(
            "host-load",
            idle_percent=times.idle,
            steal_percent=getattr(times, "steal", 0.0),
            free_memory_bytes=psutil.virtual_memory().available,
        )

    def _memory(self, node: int) -> int:
        total = 0
        for pid in self._pids(node):
            try:
                total += int(psutil.Process(pid).memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        return total
