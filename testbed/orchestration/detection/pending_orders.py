"""Orders to an FDU member that wait for the replicated log before they are answered."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from typing import Any

from testbed.orchestration.detection.raft import Command, Consensus

GIVE_UP_NS = 5_000_000_000
AGAIN_NS = 200_000_000
"""Until an order is proposed again that was not seen to be committed: a message may be lost."""


@dataclass(slots=True)
class Order:
    """An order that is not committed yet, and who waits for it."""

    number: Any
    sender: str | None
    command: Command
    give_up_ns: int
    again_ns: int


class Orders:
    """Proposes orders until they are committed, which their tokens tell, and answers them."""

    def __init__(self, control: socket.socket, consensus: Consensus) -> None:
        self._control = control
        self._consensus = consensus
        self._waiting: dict[str, Order] = {}

    def take(self, message: dict[str, Any], sender: str | None) -> None:
        """Propose an order. Its "token" names it, so that asked for twice it is done once."""
        number = message.get("id")
        token = str(message.get("token") or f"{sender} {number} {time.monotonic_ns()}")
        command = {name: value for name, value in message.items() if name != "id"}
        now_ns = time.monotonic_ns()
        order = Order(number, sender, {**command, "token": token}, now_ns + GIVE_UP_NS, now_ns)
        self._waiting[token] = order
        self._propose(order, now_ns)

    def applied(self, token: str, answer: dict[str, Any]) -> None:
        """An order was carried out: answer it, if it was given here."""
        order = self._waiting.pop(token, None)
        if order is not None:
            self.answer(order.sender, order.number, answer)

    def check(self, now_ns: int) -> None:
        """Propose again what got lost, give up what takes too long."""
        for token, order in list(self._waiting.items()):
            if now_ns >= order.give_up_ns:
                del self._waiting[token]
                error = "not committed: no majority of the FDU, or it is too slow"
                answer = {"ok": False, "error": error, "retry": True}
                self.answer(order.sender, order.number, answer)
            elif now_ns >= order.again_ns:
                self._propose(order, now_ns)

    def answer(self, sender: str | None, number: Any, answer: dict[str, Any]) -> None:
        """Answer the order `number` of a sender; one that is gone goes without."""
        if not sender:
            return
        with contextlib.suppress(OSError):
            self._control.sendto(json.dumps({"id": number, **answer}).encode(), sender)

    def _propose(self, order: Order, now_ns: int) -> None:
        order.again_ns = now_ns + AGAIN_NS
        self._consensus.propose(order.command)
