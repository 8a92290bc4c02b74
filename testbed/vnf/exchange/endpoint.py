"""The exchange of an instance on a socket of its own; an instance may have none."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

from testbed.vnf.exchange.exchange import Address, Exchange
from testbed.vnf.functions.function import Function
from testbed.vnf.functions.registry import SHARES
from testbed.vnf.replication.member import NEVER, Member

BUFFER_BYTES = 4 << 20
DATAGRAM_BYTES = 65_536


class ExchangeEndpoint:
    """What `testbed.vnf.process.runtime` waits for, calls when it is due, and closes."""

    def __init__(self, function: Function, config: Mapping[str, Any] | None, address: str) -> None:
        """`config` is {"port", "period_ns"}, or None: then nothing is exchanged. Raises OSError."""
        self._function = function
        self._share = SHARES.get(function.name)
        self._socket: socket.socket | None = None
        self._exchange: Exchange | None = None
        self._period_ns = 0
        if self._share is None or config is None:
            return
        self._period_ns = int(config["period_ns"])
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._socket.bind((address, int(config["port"])))

    def bind(self, group: str, member: Member) -> None:
        """Share the state of this member of `group`."""
        if self._share is not None and self._socket is not None:
            self._exchange = Exchange(
                group, self._function, self._share, member, self._send, self._period_ns
            )

    def fileno(self) -> int:
        """The descriptor to wait for; -1 for none."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def due_ns(self) -> int:
        """When `work` has something to do."""
        return NEVER if self._exchange is None else self._exchange.due_ns

    def work(self) -> None:
        """Do what is due, a piece of it."""
        if self._exchange is not None:
            self._exchange.work(time.monotonic_ns())

    def receive(self) -> None:
        """Take one datagram; others have their turn after the packets that wait."""
        if self._socket is None or self._exchange is None:
            return
        try:
            data, source = self._socket.recvfrom(DATAGRAM_BYTES)
        except OSError:
            return  # nothing there, or word that a peer is gone
        self._exchange.on_datagram(data, source)

    def orders(self) -> dict[str, Any]:
        """Orders for the control socket."""
        if self._exchange is None:
            return {}
        exchange = self._exchange
        return {
            "share-with": exchange.share_with,
            "shared-view": lambda _: {"view": exchange.view(), **exchange.counters},
        }

    def dump(self) -> dict[str, Any]:
        """`shared`: what is known of all groups together, and the counters of the exchange."""
        if self._exchange is None:
            return {}
        return {"shared": {"view": self._exchange.view(), **self._exchange.counters}}

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()

    def _send(self, data: bytes, target: Address) -> bool:
        try:
            assert self._socket is not None
            self._socket.sendto(data, target)
        except OSError:
            return False
        return True
