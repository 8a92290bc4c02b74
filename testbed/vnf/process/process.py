"""What the processes of the data plane have in common: how they end, and how they wait."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import signal
from pathlib import Path
from types import TracebackType
from typing import Any

_PR_SET_TIMERSLACK = 29
_TIMER_SLACK_NS = 1000
_HIGH_DESCRIPTOR = 512


class Termination:
    """Notes SIGTERM, and makes `fileno()` readable by it so that a wait ends at once.

    (Python resumes a select() that a signal interrupted, so a flag alone would not be seen.)
    To be used in the main thread; the former handler comes back at the end.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Termination:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._former = signal.signal(signal.SIGTERM, self._note)
        self._former_fd = signal.set_wakeup_fd(self._write)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._former_fd)
        signal.signal(signal.SIGTERM, self._former)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._read

    def drain(self) -> None:
        """Read what signals wrote, so that `fileno()` is not readable any more."""
        try:
            os.read(self._read, 256)
        except BlockingIOError:
            return

    def _note(self, number: int, frame: object) -> None:
        self.requested = True


def prepare_for_packets() -> None:
    """Make waits end on time, and the collector of reference cycles stay out of the way.

    The kernel may end a wait of a process of the normal class 50 us late, to save wake-ups; that
    is a tenth of a service time. Packet handling makes no cycles, while each pass of the
    collector would stop it for as long as the tables of flows are large.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_TIMERSLACK")
    gc.freeze()
    gc.disable()


def hold_sign_of_life(path: str) -> int:
    """Open a named pipe at `path` and keep it open; who reads it sees the end of this process.

    The end of a process is known by a pidfd only when all that it had is torn down, and that of
    packet sockets takes tens of milliseconds (the kernel waits until no core looks at them any
    more). Descriptors are closed before that, the highest first: this one.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.mkfifo(path, 0o600)
    low = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR)
    finally:
        os.close(low)


def device_drops(interface: str) -> dict[str, int]:
    """Frames that `interface` dropped so far: {"rx": ..., "tx": ...}; raises KeyError."""
    with open("/proc/self/net/dev", encoding="ascii") as table:
        for line in table:
            name, _, numbers = line.partition(":")
            if name.strip() == interface:
                fields = numbers.split()
                return {"rx": int(fields[3]), "tx": int(fields[11])}
    raise KeyError(interface)


def write_dump(path: str, content: dict[str, Any]) -> None:
    """Write JSON to a file that is there as a whole or not at all."""
    partial = Path(f"{path}.part")
    partial.write_text(json.dumps(content), encoding="utf-8")
    os.replace(partial, path)
