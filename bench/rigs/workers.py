"""Processes of a benchmark in network namespaces, and the namespaces: all go with the context.

A worker is a process in a namespace, on a core, in a scheduling class; it carries out functions
one after the other, so that what it has compiled stays compiled.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeAlias, TypeVar

from testbed.scenario.errors import RunError
from testbed.substrate.commands import run
from testbed.substrate.namespaces import no_ipv6
from testbed.vnf.process.process import prepare_for_packets

Result = TypeVar("Result")
Ready: TypeAlias = Callable[[], None]
"""What a function of a worker calls when it is set up and others may begin."""

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_TIMEOUT_S = 120.0


class WorkerError(RunError):
    """A worker's function failed: says which, and why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs: namespace by name; core and SCHED_FIFO priority if it has them."""

    namespace: str
    core: int | None = None
    priority: int | None = None


class Worker:
    """A process that carries out functions; the context ends it.

    The function gets `Ready` and then the arguments of `begin`; it, its arguments and its result
    are pickled.
    """

    def __init__(self, place: Place) -> None:
        # A fresh interpreter: nothing of the parent's threads or sockets comes with it.
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, place), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def begin(self, function: Callable[..., Any], *arguments: object) -> None:
        """Let the worker begin `function(ready, *arguments)`; returns when it is ready."""
        self._pipe.send((function, arguments))
        self._await("ready")

    def result(self) -> Any:
        """What the function that was begun last returned. Raises WorkerError if it failed."""
        return self._await("done")

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """`begin` and `result`."""
        self.begin(function, *arguments)
        return self.result()

    def _await(self, expected: str) -> Any:
        if not self._pipe.poll(_TIMEOUT_S):
            raise WorkerError(f"worker {self._process.pid}: not {expected} in {_TIMEOUT_S:.0f} s")
        try:
            kind, value = self._pipe.recv()
        except EOFError as error:
            raise WorkerError(f"worker {self._process.pid} died") from error
        if kind != expected:
            raise WorkerError(f"worker {self._process.pid}: {kind} {value}, expected {expected}")
        return value


def _serve(pipe: Connection, place: Place) -> None:
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise WorkerError("prctl PR_SET_PDEATHSIG")
    enter(place.namespace)
    if place.core is not None:
        os.sched_setaffinity(0, {place.core})
    if place.priority is not None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(place.priority))
    prepare_for_packets()
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            value = function(lambda: pipe.send(("ready", None)), *arguments)
        except (RunError, OSError, ValueError, RuntimeError) as error:
            pipe.send(("failed", f"{function.__name__}: {error!r}"))
            continue
        pipe.send(("done", value))


def enter(namespace: str) -> None:
    """Put the calling thread into a namespace that has a name. Raises OSError."""
    with open(f"/run/netns/{namespace}", "rb") as there:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(there.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets that are made within the context belong to the namespace."""
    with open("/proc/thread-self/ns/net", "rb") as home:
        enter(namespace)
        try:
            yield
        finally:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(home.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "cannot return to the namespace it came from")


@contextlib.contextmanager
def namespaces(*names: str) -> Iterator[None]:
    """New network namespaces, which go with the context, and with them their interfaces."""
    made = []
    try:
        for name in names:
            run(["ip", "netns", "add", name])
            made.append(name)
        yield
    finally:
        for name in made:
            run(["ip", "netns", "del", name])


def veth(one: tuple[str, str], other: tuple[str, str], mtu: int = 1500) -> None:
    """A pair of interfaces, given as (namespace, name); both are up, without IPv6."""
    (space, name), (other_space, other_name) = one, other
    run(
        ["ip", "link", "add", "name", name, "netns", space, "mtu", f"{mtu}", "type", "veth",
         "peer", "name", other_name, "mtu", f"{mtu}", "netns", other_space]
    )  # fmt: skip
    for where, which in (one, other):
        with inside(where):
            no_ipv6([which])
        run(["ip", "-n", where, "link", "set", "dev", which, "up"])


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises SystemExit within the context, so that what was made is taken away."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
