"""The warm parent: forks the processes of a run, so that no process imports anything at its start.

It is started by `testbed.orchestration.deploying.spawner.Spawner` with one end of a socket pair and
answers each order with the process number of the child. When the other end closes, whatever the
reason, it ends its children and itself: the harness cannot leave processes behind by dying.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from typing import Any

from numba.core.caching import Cache

from testbed.vnf.process.warm import warm_up

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
TERMINATE_S = 3.0
MESSAGE_BYTES = 1 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)

WARM_MODULES = (
    "testbed.vnf.process.runtime",
    "testbed.vnf.edge.edge",
    "testbed.orchestration.detection.fdu",
    "testbed.orchestration.detection.agent",
    "testbed.orchestration.detection.stalls",
    "traffic.sender",
    "traffic.receiver",
)


def enter_network_namespace(pid: int) -> None:
    """Move this process into the network namespace of process `pid`; raises OSError."""
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.setns(descriptor, CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"setns to the network of process {pid}: {os.strerror(error)}")
    finally:
        os.close(descriptor)


def _tell_of_late_loading() -> None:
    """Say in a process's log what numba loads or compiles there: the warm parent should have it.

    It takes some 80 ms each time, in each process. The cache is asked before anything is compiled.
    """
    load = Cache.load_overload

    def told(cache: Any, signature: Any, context: Any) -> Any:
        print(f"loaded late: {cache.cache_path}: {signature}", file=sys.stderr, flush=True)
        return load(cache, signature, context)

    Cache.load_overload = told


def _become(order: dict[str, Any]) -> None:
    """Turn a fresh child into the process that was ordered, and run it."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _tell_of_late_loading()
    for path in order["cgroup_procs"]:
        with open(path, "w", encoding="ascii") as procs:
            procs.write(str(os.getpid()))
    if order["namespace_pid"] is not None:
        enter_network_namespace(order["namespace_pid"])
    if order["fifo_priority"] is not None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(order["fifo_priority"]))
    module, _, function = str(order["target"]).partition(":")
    getattr(importlib.import_module(module), function)(order["config"])


def _fork(order: dict[str, Any], inherited: list[int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    # The child must never return into the parent's loop, whatever it meets.
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for descriptor in inherited:
            os.close(descriptor)
        _become(order)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _reap(channel: socket.socket, children: dict[int, str]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        name = children.pop(pid, "?")
        code = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(OSError):
            channel.send(json.dumps({"exit": name, "pid": pid, "code": code}).encode())


def _end(children: dict[int, str]) -> None:
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + TERMINATE_S
    while children and time.monotonic() < deadline:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid:
            children.pop(pid, None)
        else:
            time.sleep(0.01)
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main(descriptor: int) -> None:
    """Serve orders from the socket `descriptor` until its other end closes."""
    channel = socket.socket(fileno=descriptor)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # A Ctrl-C reaches the whole group of processes; the harness decides when the run ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(wake_write)
    for module in WARM_MODULES:
        importlib.import_module(module)
    warm_up()
    gc.collect()
    gc.freeze()
    children: dict[int, str] = {}
    channel.send(json.dumps({"ready": os.getpid()}).encode())
    with selectors.EpollSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        inherited = [channel.fileno(), wake_read, wake_write, selector.fileno()]
        while True:
            for key, _ in selector.select():
                if key.fd == wake_read:
                    os.read(wake_read, 4096)
                    _reap(channel, children)
                    continue
                message = channel.recv(MESSAGE_BYTES)
                if not message:
                    _end(children)
                    return
                order = json.loads(message)
                pid = _fork(order, inherited)
                children[pid] = order["name"]
                channel.send(json.dumps({"started": order["name"], "pid": pid}).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
