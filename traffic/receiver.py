"""The receiver of a user host: notes every arriving packet, and the drops of its sockets."""

from __future__ import annotations

import resource
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Any

from testbed.records.events import EventLog
from testbed.records.payload import HEADER, MAGIC
from testbed.records.raw import ArrivalFile
from traffic.event_loop import Loop, OrderError, origin_of

RECEIVE_BUFFER_BYTES = 4 << 20
BURST = 64
"""Packets taken from one socket before the others are looked at."""
TICK_NS = 1_000_000_000
"""How often the sockets' drops are noted."""

_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
_MEMINFO_DROPS = 8
_DATAGRAM_BYTES = 2048


class Receiver:
    """The UDP sockets of a user host and the arrival file that they fill."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._bind = str(config["bind"])
        self._origin_ns: int | None = config.get("origin_ns")
        self._sockets: dict[int, socket.socket] = {}
        self._ports: dict[int, int] = {}
        self._buffer = bytearray(_DATAGRAM_BYTES)
        self._malformed = 0
        self._closed_drops = 0
        self._seen: set[int] = set()
        self._file = ArrivalFile(config["out"])
        self._events = EventLog(config["events"])
        handlers = {
            "begin": self._begin_order,
            "open": self._open_order,
            "close": self._close_order,
            "stats": lambda _: self.stats(),
        }
        self._loop = Loop(config.get("control_socket"), handlers)

    def run(self, ports: Iterable[int]) -> None:
        """Receive until SIGTERM, then take what still waits and close the file."""
        with self._loop as loop:
            for port in ports:
                self._open(port)
            tick_ns = time.monotonic_ns()
            while loop.running:
                for descriptor in loop.wait(TICK_NS / 1e9):
                    # An order in the same round may have closed it.
                    if descriptor in self._sockets:
                        self._drain(self._sockets[descriptor])
                if time.monotonic_ns() - tick_ns >= TICK_NS:
                    tick_ns = time.monotonic_ns()
                    self._file.set_counters(self._malformed, self._drops())
            for each in self._sockets.values():
                while self._drain(each):
                    pass
        counters = self.stats()
        self._file.set_counters(counters["malformed"], counters["socket_drops"])
        self._events.write("receiver-end", address=self._bind, **counters)
        for each in self._sockets.values():
            each.close()
        self._file.close()
        self._events.close()

    def stats(self) -> dict[str, int]:
        """Counters: received (copies included), malformed, socket_drops."""
        return {
            "received": self._file.count,
            "malformed": self._malformed,
            "socket_drops": self._drops(),
        }

    def _drain(self, each: socket.socket) -> bool:
        """Take up to `BURST` packets; whether more may wait."""
        buffer, origin_ns = self._buffer, self._origin_ns
        for _ in range(BURST):
            try:
                size = each.recv_into(buffer)
            except BlockingIOError:
                return False
            now_ns = time.monotonic_ns()
            magic, request, flow, seq, _ = HEADER.unpack_from(buffer)
            if size < HEADER.size or magic != MAGIC or origin_ns is None:
                self._malformed += 1
                continue
            self._file.append(request, flow, seq, now_ns - origin_ns)
            if request not in self._seen:
                self._seen.add(request)
                self._events.write("first-arrival", now_ns, request=request)
        return True

    def _drops(self) -> int:
        return self._closed_drops + sum(_drops(each) for each in self._sockets.values())

    def _open(self, port: int) -> None:
        each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            each.setblocking(False)
            _enlarge(each)
            each.bind((self._bind, port))
        except (OSError, OverflowError):
            each.close()
            raise
        self._sockets[each.fileno()] = each
        self._ports[port] = each.fileno()
        self._loop.add(each.fileno())

    def _begin_order(self, order: dict[str, Any]) -> dict[str, Any]:
        self._origin_ns = origin_of(order)
        return {}

    def _open_order(self, order: dict[str, Any]) -> dict[str, Any]:
        port = _port(order)
        if port in self._ports:
            return {}
        try:
            self._open(port)
        except (OSError, OverflowError) as error:
            raise OrderError(f"port {port} of {self._bind}: {error}") from error
        return {}

    def _close_order(self, order: dict[str, Any]) -> dict[str, Any]:
        port = _port(order)
        if port not in self._ports:
            raise OrderError(f"port = {port}: not open")
        each = self._sockets.pop(self._ports.pop(port))
        while self._drain(each):
            pass
        self._closed_drops += _drops(each)
        self._loop.remove(each.fileno())
        each.close()
        return {}


def _drops(each: socket.socket) -> int:
    # The counter behind SO_RXQ_OVFL, but without ancillary data on every packet, and it also
    # tells of drops after the last packet that was read.
    memory = each.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    return int(_MEMINFO.unpack(memory)[_MEMINFO_DROPS])


def _enlarge(each: socket.socket) -> None:
    try:
        each.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except PermissionError:
        # Without CAP_NET_ADMIN the kernel grants what net.core.rmem_max allows.
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def _port(order: Mapping[str, Any]) -> int:
    port = order.get("port")
    if not isinstance(port, int):
        raise OrderError(f"port = {port!r}: expected a number")
    return port


def main(config: dict[str, Any]) -> None:
    """The process: receives until SIGTERM.

    config: `bind` (address), `ports` (a list of UDP ports), `out` (the arrival file, see
    `results.raw`), `events` (path), and optionally `control_socket` and `origin_ns`
    (CLOCK_MONOTONIC of the run's origin). Until the origin is known nothing is expected to come.

    Orders: "begin" {origin_ns}, "open" {port} (no error if it is open), "close" {port}, "stats",
    "ping".
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Receiver(config).run(config["ports"])
