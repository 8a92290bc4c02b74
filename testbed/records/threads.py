"""Threads that keep their exception and raise it where they are joined: no error is lost."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from testbed.scenario.errors import DeftbedError

_NS_PER_S = 1_000_000_000


class Worker:
    """A thread that keeps what it raised. It does not keep the process from ending."""

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        ended: Callable[[Worker], None] = lambda _: None,
    ) -> None:
        """`ended` is called in the thread, as the last thing that it does."""
        self._work = work
        self._ended = ended
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Worker:
        """Begin."""
        self._thread.start()
        return self

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when the thread has ended or has not begun; it raises nothing."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def check(self) -> None:
        """Raise what the thread raised, if it did."""
        if self._error is not None:
            raise self._error

    def join(self) -> None:
        """Return when the thread has ended; raises what it raised."""
        self.wait()
        self.check()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # `check` raises it where it is heard
            self._error = error
        finally:
            self._ended(self)


def run_together(work: Mapping[str, Callable[[], None]]) -> None:
    """Carry out all of `work`, each in a thread of that name, until all have ended.

    Raises the first error as soon as there is one; the other threads are daemons.
    """
    ended: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for name, each in work.items():
        Worker(name, each, ended.put).start()
    for _ in work:
        ended.get().check()


class Timed(Protocol):
    """Something that is due at a time from a run's origin."""

    @property
    def at_ns(self) -> int:
        """When."""


T = TypeVar("T", bound=Timed)


class Timetable(Generic[T]):
    """A thread that carries out what is planned, each at its time from the run's origin."""

    def __init__(
        self,
        name: str,
        planned: Iterable[T],
        carry_out: Callable[[T], None],
        gone_wrong: Callable[[T, Exception], None],
    ) -> None:
        """`gone_wrong` is told what could not be carried out and why; the others go on.

        So it is with a DeftbedError or an OSError. What else `carry_out` raises ends the thread,
        and `check` raises it.
        """
        self._planned: Sequence[T] = sorted(planned, key=lambda each: each.at_ns)
        self._carry_out = carry_out
        self._gone_wrong = gone_wrong
        self._stop = threading.Event()
        self._origin_ns = 0
        self._worker = Worker(name, self._run)

    def begin(self, origin_ns: int) -> None:
        """Start, unless there is nothing to do."""
        if self._planned:
            self._origin_ns = origin_ns
            self._worker.start()

    def stop(self) -> None:
        """End; what is not due yet is not carried out. Raises nothing."""
        self._stop.set()
        self._worker.wait()

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        self._worker.check()

    def _run(self) -> None:
        for each in self._planned:
            left_s = (self._origin_ns + each.at_ns - time.monotonic_ns()) / _NS_PER_S
            if self._stop.wait(max(0.0, left_s)):
                return
            try:
                self._carry_out(each)
            except (DeftbedError, OSError) as error:
                self._gone_wrong(each, error)
