"""Switches in memory behind a fabric: they act on messages, refuse, stay silent, reconnect."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from controller.fabric import Fabric
from controller.update import Message
from tests.support.openflow_table import OpenFlowError, Plant, SwitchTable


class MemoryConnection:
    """One connection of a switch. Answers are given by `answer`, not within `send`."""

    def __init__(self, fabric: Fabric, dpid: int, table: SwitchTable) -> None:
        self.fabric, self.dpid, self.table = fabric, dpid, table
        self.silent = False
        self.refuse: type[Message] | None = None
        self.sent: list[Message] = []
        self._xids = itertools.count(1)
        self._answers: list[tuple[str, int]] = []

    def send(self, messages: Sequence[Message]) -> list[int]:
        xids = []
        for message in messages:
            xids.append(next(self._xids))
            self.sent.append(message)
            if self.refuse is not None and isinstance(message, self.refuse):
                self._answers.append(("refused", xids[-1]))
                continue
            try:
                self.table.apply(message)
            except OpenFlowError as error:
                self._answers.append((str(error), xids[-1]))
        xids.append(next(self._xids))
        self._answers.append(("", xids[-1]))
        return xids

    def replace(self, messages: Sequence[Message]) -> list[int]:
        self.table.flows.clear()
        self.table.groups.clear()
        return self.send(messages)

    def answer(self) -> None:
        """Give the answers that are due, errors and barrier replies, in their order."""
        while self._answers and not self.silent:
            text, xid = self._answers.pop(0)
            if text:
                self.fabric.failed(self.dpid, self, xid, text)
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
