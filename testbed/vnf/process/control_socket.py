"""The control socket of a data plane process: JSON orders in, JSON answers out."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from testbed.records.sockets import bind_private

MESSAGE_BYTES = 1 << 18

Order: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Carries out an order; takes its fields, gives the fields of the answer.

Raises KeyError, TypeError or ValueError for fields that it cannot use: the order is refused.
"""


class ControlSocket:
    """A Unix datagram socket at `path` that answers the orders of `orders`, by their "op".

    A file left at `path` by a process that died is replaced. "ping" is always known.
    """

    def __init__(self, path: str, orders: Mapping[str, Order]) -> None:
        self._path = path
        self._orders = {"ping": lambda _: {}, **orders}
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        bind_private(self._socket, path)

    def add(self, orders: Mapping[str, Order]) -> None:
        """Carry out these orders too."""
        self._orders.update(orders)

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._socket.fileno()

    def serve(self) -> None:
        """Carry out the orders that wait, and answer each."""
        while True:
            try:
                data, sender = self._socket.recvfrom(MESSAGE_BYTES)
            except BlockingIOError:
                return
            answer = json.dumps(self._answer(data)).encode()
            # A sender that is gone, or whose queue is full, goes without its answer.
            with contextlib.suppress(OSError):
                if sender:
                    self._socket.sendto(answer, sender)

    def close(self) -> None:
        """Close and remove the socket."""
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _answer(self, data: bytes) -> dict[str, Any]:
        try:
            message = json.loads(data)
            number, op = message["id"], message["op"]
        except (ValueError, KeyError, TypeError):
            return {"id": None, "ok": False, "error": "expected a JSON object with id and op"}
        order = self._orders.get(op) if isinstance(op, str) else None
        if order is None:
            return {"id": number, "ok": False, "error": f"unknown op {op!r}"}
        try:
            return {"id": number, "ok": True, **order(message)}
        except (ValueError, KeyError, TypeError) as error:
            text = str(error) if type(error) is ValueError else repr(error)
            return {"id": number, "ok": False, "error": f"{op}: {text}"}
