"""Frames of the harness along the ways of a chain, before its packets take them.

A switch of the kernel has the first frame of a way decided by a process, and forwards itself what
comes once that has answered: so frames that follow the first one closely could overtake it. A probe
is first on each way in their place. No function and no receiver is shown it, and nobody counts it.
"""

from __future__ import annotations

import contextlib
from typing import Any

from testbed.vnf.dataplane.nsh import mac_bytes, probe, read_probe
from testbed.vnf.dataplane.socket import FRAME_BYTES, FrameSocket
from testbed.vnf.process.control_socket import Order


class Probes:
    """The end of a host for probes: sends them by order, and says which came.

    Orders: "probe" {number, ways: [virtual MAC addresses]} sends one for each way; "probes-heard"
    {number} gives {ways}: of which ways a probe came with this number, or a later one.
    """

    def __init__(self, interface: str, mac: str) -> None:
        """Raises OSError if the interface is missing."""
        self._mac = mac_bytes(mac)
        self._socket = FrameSocket(interface, probes=True)
        self._heard: dict[str, int] = {}

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._socket.fileno()

    def receive(self) -> None:
        """Note the probes that came."""
        with contextlib.suppress(OSError):  # nothing more, or the interface went down
            while True:
                read = read_probe(self._socket.recv(FRAME_BYTES))
                if read is not None:
                    way, number = read
                    self._heard[way] = max(number, self._heard.get(way, number))

    def orders(self) -> dict[str, Order]:
        """What a control socket is to know."""
        return {"probe": self._send, "probes-heard": self._say}

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self, order: dict[str, Any]) -> dict[str, Any]:
        number = int(order["number"])
        for frame in [probe(way, self._mac, number) for way in order["ways"]]:
            # One that cannot leave is lost as on the way: who waits for it sends again.
            with contextlib.suppress(OSError):
                self._socket.send(frame)
        return {}

    def _say(self, order: dict[str, Any]) -> dict[str, Any]:
        number = int(order["number"])
        return {"ways": sorted(way for way, heard in self._heard.items() if heard >= number)}
