"""A network of OpenFlow switches in memory, cabled: frames go from host to host."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence

from controller.app import SwitchConnection
from controller.update import Message
from controller.wiring import Wiring
from tests.support.openflow_table import SwitchTable, Wire

MAX_FRAMES = 100_000


class LoopError(Exception):
    """Frames go on and on."""


class Refused(Exception):
    """A switch refused a message that it was expected to take."""


class Plant:
    """All switches, cabled."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.tables = {switch.name: SwitchTable(switch.name) for switch in wiring.switches}
        self._connections = {
            name: SwitchConnection(Wire(functools.partial(self._receive, name)))
            for name in self.tables
        }
        self.peer: dict[tuple[str, int], tuple[str, int]] = {}
        for link in wiring.links:
            self.peer[link.a, link.a_port] = (link.b, link.b_port)
            self.peer[link.b, link.b_port] = (link.a, link.a_port)
        self.missed: list[tuple[str, int, str]] = []
        self.host_at = {(host.switch, host.port): host.name for host in wiring.hosts}

    def apply(self, messages: Mapping[str, Sequence[Message]]) -> None:
        """Send messages to switches, as the controller encodes them. Raises Refused."""
        for switch, each in messages.items():
            self._connections[switch].send(each)

    def _receive(self, switch: str, data: bytes) -> None:
        for answer in self.tables[switch].receive(data):
            if answer.refusal:
                raise Refused(f"{switch}: {answer.refusal}")

    def deliver(self, source: str, eth_dst: str) -> Counter[str]:
        """How many copies of a frame from `source` each host gets. Raises LoopError."""
        host = self.wiring.host(source)
        got: Counter[str] = Counter()
        frames, handled = [(host.switch, host.port)], 0
        while frames:
            switch, in_port = frames.pop()
            handled += 1
            if handled > MAX_FRAMES:
                raise LoopError(f"{eth_dst} from {source}")
            outputs = self.tables[switch].outputs(in_port, eth_dst)
            if not outputs:
                self.missed.append((switch, in_port, eth_dst))
            for port in outputs:
                if (switch, port) in self.host_at:
                    got[self.host_at[switch, port]] += 1
                else:
                    frames.append(self.peer[switch, port])
        return got
