"""Switches in memory behind a fabric: they act on messages, refuse, stay silent, reconnect."""

from __future__ import annotations

from collections.abc import Sequence

from controller.app import SwitchConnection
from controller.fabric import Fabric
from controller.update import Message
from tests.support.openflow_plant import Plant
from tests.support.openflow_table import Answer, SwitchTable, Wire


class MemoryConnection:
    """One connection of a switch. Answers are given by `answer`, not within `send`."""

    def __init__(self, fabric: Fabric, dpid: int, table: SwitchTable) -> None:
        self.fabric, self.dpid, self.table = fabric, dpid, table
        self.silent = False
        self.sent: list[Message] = []
        self._answers: list[Answer] = []
        self._connection = SwitchConnection(Wire(self._receive))

    def send(self, messages: Sequence[Message]) -> list[int]:
        self.sent += messages
        return self._connection.send(messages)

    def replace(self, messages: Sequence[Message]) -> list[int]:
        self.sent += messages
        return self._connection.replace(messages)

    def _receive(self, data: bytes) -> None:
        self._answers += self.table.receive(data)

    def answer(self) -> None:
        """Give the answers that are due, errors and barrier replies, in their order."""
        while self._answers and not self.silent:
            xid, refusal = self._answers.pop(0)
            if refusal:
                self.fabric.failed(self.dpid, self, xid, refusal)
            else:
                self.fabric.confirmed(self.dpid, self, xid)


class MemorySwitches:
    """All switches of a plant, each with its newest connection."""

    def __init__(self, fabric: Fabric, plant: Plant) -> None:
        self.fabric, self.plant = fabric, plant
        self.connections: dict[str, MemoryConnection] = {}

    def connect(self, name: str) -> MemoryConnection:
        dpid = next(s.dpid for s in self.plant.wiring.switches if s.name == name)
        connection = MemoryConnection(self.fabric, dpid, self.plant.tables[name])
        self.connections[name] = connection
        self.fabric.attach(dpid, connection)
        return connection

    def disconnect(self, name: str) -> None:
        connection = self.connections.pop(name)
        self.fabric.detach(connection.dpid, connection)

    def answer(self) -> None:
        for connection in list(self.connections.values()):
            connection.answer()
