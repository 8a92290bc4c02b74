"""One switch: its connection, its wanted rules, and the rules that it confirmed or refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from controller.update import EMPTY, Message, Table
from controller.wiring import SwitchEnd


class Connection(Protocol):
    """The way to one connected switch. Each call ends with a barrier.

    Both return the numbers (xid) of the messages sent, that of the last barrier last.
    """

    def send(self, messages: Sequence[Message]) -> list[int]:
        """Send the messages in order."""

    def replace(self, messages: Sequence[Message]) -> list[int]:
        """Put `messages` in place of all rules of ours at once, frames not falling between."""


@dataclass
class Switch:
    """`version` counts what was asked of the switch; it holds `table` once that is confirmed."""

    end: SwitchEnd
    connection: Connection | None = None
    table: Table = EMPTY
    version: int = 0
    confirmed: int = 0
    waiting: dict[int, int] = field(default_factory=dict)
    """Number of a message that was sent -> the version it belongs to."""
    barriers: set[int] = field(default_factory=set)
    failures: dict[int, str] = field(default_factory=dict)
    """Version -> what the switch answered to one of its messages."""

    def sent(self, xids: list[int]) -> None:
        """Expect the answers to messages of the present version, a barrier the last of them."""
        self.waiting.update(dict.fromkeys(xids, self.version))
        self.barriers.add(xids[-1])


def failures(switches: Iterable[tuple[Switch, int]]) -> list[str]:
    """What the switches answered to messages of the given versions or later."""
    return [
        f"switch {switch.end.name}: {text}"
        for switch, version in switches
        for failed, text in switch.failures.items()
        if failed >= version
    ]
