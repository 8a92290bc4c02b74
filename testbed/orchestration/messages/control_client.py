"""Orders to the processes of a run over Unix datagram sockets: JSON out, JSON back."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from testbed.records.sockets import bind_private
from testbed.scenario.errors import RunError

RETRY_S = 0.01
AT_ONCE = 8
MESSAGE_BYTES = 1 << 18


class ControlError(RunError):
    """A process refused an order or did not answer in time."""


class NoAnswer(ControlError):
    """A process did not answer in time; it may still do what it was asked for."""


class OrderRefused(ControlError):
    """A process refused an order; `reply` is all that it said."""

    def __init__(self, text: str, reply: dict[str, Any]) -> None:
        super().__init__(text)
        self.reply = reply


class ControlClient:
    """One end for orders; it waits for the answer to each. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bind_private(self._socket, str(path))

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close and remove the socket."""
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def call(self, target: str, op: str, timeout_s: float = 5.0, **fields: Any) -> dict[str, Any]:
        """Send an order and return the answer's fields.

        Waits until the socket at `target` exists, so it serves to await a starting process.
        Raises ControlError if the process refuses or does not answer within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        number = self.post(target, op, deadline, **fields)
        return self.answer(target, op, number, deadline)

    def call_all(self, targets: Sequence[str], op: str, timeout_s: float, **fields: Any) -> None:
        """Give several processes the same order, some at a time; all have obeyed at the end.

        Raises ControlError for the first that refuses or does not answer within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        # No more than there is room for in the queue of the answers.
        for first in range(0, len(targets), AT_ONCE):
            waiting = {
                self.post(target, op, deadline, **fields): target
                for target in targets[first : first + AT_ONCE]
            }
            while waiting:
                target = next(iter(waiting.values()))
                reply = self._receive(deadline)
                if reply is None:
                    raise NoAnswer(f"{Path(target).stem}: no answer to {op} in time")
                _obeyed(waiting.pop(reply.get("id", -1), None), op, reply)

    def answer(self, target: str, op: str, number: int, deadline: float) -> dict[str, Any]:
        """The answer's fields to an order that was posted.

        Raises NoAnswer if there is none by `deadline` on `time.monotonic`, OrderRefused.
        """
        while (reply := self._receive(deadline)) is not None:
            if reply.get("id") == number:  # else the late answer to an order that was given up
                _obeyed(target, op, reply)
                return reply
        raise NoAnswer(f"{Path(target).stem}: no answer to {op} in time")

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        """The next answer to any order; None if there is none by `deadline`."""
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                return dict(json.loads(self._socket.recv(MESSAGE_BYTES)))
        return None

    def post(self, target: str, op: str, deadline: float, **fields: Any) -> int:
        """Send an order without waiting for its answer; its number. Raises ControlError."""
        self._next += 1
        message = json.dumps({"id": self._next, "op": op, **fields}).encode()
        while True:
            try:
                self._socket.sendto(message, target)
                return self._next
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
                if time.monotonic() >= deadline:
                    raise ControlError(f"{Path(target).stem}: {op}: {error}") from error
                time.sleep(RETRY_S)  # the process is starting: ask again until the deadline


def _obeyed(target: str | None, op: str, reply: dict[str, Any]) -> None:
    """Raise OrderRefused if it was not; None: a late answer, to an order that was given up."""
    if target is not None and not reply.get("ok"):
        raise OrderRefused(f"{Path(target).stem}: {op}: {reply.get('error')}", reply)
