"""The event loop of senders and receivers: timers, orders, and an orderly end on SIGTERM."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from testbed.records.sockets import bind_private
from testbed.scenario.errors import RunError

Handler = Callable[[dict[str, Any]], dict[str, Any]]

MESSAGE_BYTES = 1 << 18
_CLOCK_MONOTONIC = 1
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_NS_PER_S = 1_000_000_000
_LIBC = ctypes.CDLL(None, use_errno=True)


class OrderError(RunError):
    """An order cannot be carried out; its text is the answer."""


def origin_of(order: dict[str, Any]) -> int:
    """The run's origin on CLOCK_MONOTONIC that the order "begin" tells; raises OrderError."""
    origin_ns = order.get("origin_ns")
    if type(origin_ns) is not int or origin_ns <= 0:
        raise OrderError(f"origin_ns = {origin_ns!r}: expected nanoseconds on CLOCK_MONOTONIC")
    return origin_ns


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """A timerfd on CLOCK_MONOTONIC: exact to the kernel's clock event, with no timer slack."""

    def __init__(self) -> None:
        self.fd: int = _LIBC.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _Itimerspec()

    def arm(self, at_ns: int) -> None:
        """Become readable at `at_ns` (CLOCK_MONOTONIC, above 0), at once if that is past."""
        self._spec.value_s, self._spec.value_ns = divmod(at_ns, _NS_PER_S)
        if _LIBC.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None):
            raise OSError(ctypes.get_errno(), f"timerfd_settime {at_ns}")

    def disarm(self) -> None:
        """Stay unreadable until armed again."""
        self._spec.value_s = self._spec.value_ns = 0
        _LIBC.timerfd_settime(self.fd, 0, ctypes.byref(self._spec), None)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


class Loop:
    """Waits on descriptors, answers orders on a control socket, notes SIGTERM.

    An order {"id", "op", ...} is given to `handlers[op]`, whose fields are added to the answer.
    A handler refuses by raising OrderError. To be used in a process's main thread.
    """

    def __init__(self, control_socket: str | None, handlers: dict[str, Handler]) -> None:
        self._epoll = select.epoll()
        self._handlers = {"ping": lambda _: {}, **handlers}
        self.running = True
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._old_handler = signal.signal(signal.SIGTERM, self._on_term)
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._path = control_socket
        self._control: socket.socket | None = None
        if control_socket is not None:
            self._control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._control.setblocking(False)
            bind_private(self._control, control_socket)
            self._epoll.register(self._control, select.EPOLLIN)

    def __enter__(self) -> Loop:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, descriptor: int) -> None:
        """Wake up when `descriptor` is readable."""
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """Wake up for `descriptor` no more."""
        self._epoll.unregister(descriptor)

    def wait(self, timeout_s: float | None = None) -> list[int]:
        """The added descriptors that are readable; orders have been answered on the way."""
        ready = []
        for descriptor, _ in self._epoll.poll(timeout_s):
            if descriptor == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            elif self._control is not None and descriptor == self._control.fileno():
                self._answer(self._control)
            else:
                ready.append(descriptor)
        return ready

    def close(self) -> None:
        """Give back the signal, close and remove the control socket."""
        signal.signal(signal.SIGTERM, self._old_handler)
        signal.set_wakeup_fd(self._old_wakeup)
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self._control is not None:
            self._control.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(str(self._path))

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        self.running = False

    def _answer(self, control: socket.socket) -> None:
        try:
            message, sender = control.recvfrom(MESSAGE_BYTES)
        except BlockingIOError:
            return
        answer = self._obey(message)
        # Who asked may have gone, or have bound no address to be answered at.
        with contextlib.suppress(OSError):
            control.sendto(json.dumps(answer).encode(), sender)

    def _obey(self, message: bytes) -> dict[str, Any]:
        try:
            order = json.loads(message)
        except ValueError as error:
            return {"id": None, "ok": False, "error": f"not JSON: {error}"}
        if not isinstance(order, dict):
            return {"id": None, "ok": False, "error": f"{order!r}: expected an object"}
        number, name = order.get("id"), order.get("op")
        handler = self._handlers.get(str(name))
        if handler is None:
            expected = ", ".join(sorted(self._handlers))
            return {"id": number, "ok": False, "error": f"op = {name!r}: expected {expected}"}
        try:
            return {"id": number, "ok": True, **handler(order)}
        except OrderError as error:
            return {"id": number, "ok": False, "error": str(error)}
