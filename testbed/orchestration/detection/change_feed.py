"""Tells the primaries of groups how the linearizable records that they share have changed.

The FDU's leader does it: at once when something was granted, and again when a heartbeat shows that
a primary is behind. Nothing is kept that a new leader would lack: heartbeats tell it who is where.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testbed.orchestration.detection.group_records import Group, Records
from testbed.orchestration.detection.raft import Command

MOST_CHANGES = 128
"""Changes in a message; who needs more gets them one message after the other."""

Send = Callable[[str, dict[str, Any]], None]
"""Gives a process the order with these fields at its control socket, or loses it."""


class ChangeFeed:
    """The changes of `records.shared` for the primaries of `records.groups`."""

    def __init__(self, records: Records, send: Send) -> None:
        self._records = records
        self._send = send
        self._sent: dict[str, tuple[int, int]] = {}
        """By name of the primary: up to which change it was told, and when."""

    def asked(self, command: Command, now_ns: int) -> None:
        """An ask was carried out: answer it, and tell the other groups of its scope."""
        asker = self._records.groups.get(command["group"])
        for group in self._records.groups.values():
            if group.scope != command["scope"]:
                continue
            if group is asker:
                since = int(command["since"])
                sender, _, number = str(command["token"]).rpartition(" ")
                self._tell(group, since, now_ns, sender, int(number))
            else:
                since = self._sent.get(group.primary_name() or "", (0, 0))[0]
                self._tell(group, since, now_ns, None, None)

    def heard(self, name: str, group: Group, index: int, now_ns: int, again_ns: int) -> None:
        """A heartbeat says that `name` knows the first `index` changes of its group's scope."""
        state = self._records.shared.get(group.scope or "")
        if state is None or group.primary_name() != name:
            return
        sent, sent_ns = self._sent.get(name, (0, 0))
        if index >= len(state.changes):
            self._sent[name] = index, sent_ns
        elif index >= sent or now_ns - sent_ns >= again_ns:
            self._tell(group, index, now_ns, None, None)

    def _tell(
        self, group: Group, since: int, now_ns: int, sender: str | None, number: int | None
    ) -> None:
        state = self._records.shared.get(group.scope or "")
        name = group.primary_name()
        if state is None or name is None:
            return
        changes = state.changes[since : since + MOST_CHANGES]
        # An answer is one only with all that was granted before it.
        answered = number if since + len(changes) == len(state.changes) else None
        self._sent[name] = since + len(changes), now_ns
        self._send(
            group.primary_socket(),
            {
                "op": "granted",
                "first": since + 1,
                "changes": changes,
                "sender": sender,
                "answered": answered,
            },
        )
