"""Orders to the failure detection unit: any of its members takes them."""

from __future__ import annotations

import itertools
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from testbed.orchestration.messages.control_client import (
    RETRY_S,
    ControlClient,
    ControlError,
    OrderRefused,
)

TRY_S = 2.0
"""How long to wait for a member before the next is asked."""

Members = Mapping[int, Mapping[str, Any]]
"""Member number: {"name", "control_socket", "address", "port"}."""


class FduError(ControlError):
    """No member of the FDU carried out an order."""


class FduRefused(FduError):
    """The FDU refused an order; `epoch` is the group's now, None if there is no such group."""

    def __init__(self, text: str, epoch: int | None) -> None:
        super().__init__(text)
        self.epoch = epoch


class FduClient:
    """Asks the members at the control sockets `sockets` in turn, first the one that last answered.

    An order that was asked for twice, since an answer was lost, is carried out once. The methods
    that change a group return its new configuration: group, epoch, primary, backups, learners,
    members, confirmed. They raise FduRefused if the order was refused, which is so if `epoch` is
    not the group's, and FduError if it was not committed; it may then still be, later.
    """

    def __init__(self, control: ControlClient, sockets: Sequence[str]) -> None:
        self._control = control
        self._sockets = list(sockets)
        self._tokens = (f"{secrets.token_hex(4)}-{number}" for number in itertools.count())

    def create_group(
        self,
        group: str,
        members: Members,
        primary: int,
        backups: Sequence[int],
        scope: str | None = None,
    ) -> dict[str, Any]:
        """Begin a group in epoch 1, and the watch over its members.

        `scope`: it shares linearizable records with the other groups of the same scope.
        """
        infos = {str(number): dict(info) for number, info in members.items()}
        return self._ask(
            "create-group",
            group=group,
            members=infos,
            primary=primary,
            backups=list(backups),
            scope=scope,
        )

    def join(self, group: str, epoch: int, member: int, info: Mapping[str, Any]) -> dict[str, Any]:
        """Add a learner."""
        return self._ask("join", group=group, epoch=epoch, member=member, info=dict(info))

    def admit(self, group: str, epoch: int, member: int) -> dict[str, Any]:
        """Make a learner a backup."""
        return self._ask("admit", group=group, epoch=epoch, member=member)

    def hand_over(
        self, group: str, epoch: int, to: int, *, confirmed: bool, stays: bool = False
    ) -> dict[str, Any]:
        """Make the backup `to` the primary; `confirmed`: the old one releases nothing any more."""
        return self._ask(
            "hand-over", group=group, epoch=epoch, to=to, confirmed=confirmed, stays=stays
        )

    def leave(self, group: str, epoch: int, member: int) -> dict[str, Any]:
        """Take out a backup or a learner."""
        return self._ask("leave", group=group, epoch=epoch, member=member)

    def remove_group(self, group: str) -> None:
        """Forget a group, and the watch over its members; nothing happens if there is none."""
        self._ask("remove-group", group=group)

    def watch_server(self, server: str) -> None:
        """Watch over a server by the heartbeats of its agent."""
        self._ask("watch-server", server=server)

    def forget_server(self, server: str) -> None:
        """Watch over a server no more."""
        self._ask("forget-server", server=server)

    def group(self, group: str) -> dict[str, Any]:
        """A group's configuration as the member that answers knows it: a moment late, at most."""
        return self._ask("group", group=group)

    def await_ready(self, timeout_s: float) -> None:
        """Wait until the FDU carries out orders; raises FduError if it does not in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._ask("remove-group", group="")
                return
            except FduError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(RETRY_S)  # its members are starting: ask again until the deadline

    def _ask(self, op: str, **fields: Any) -> dict[str, Any]:
        token = next(self._tokens)
        errors = []
        for path in list(self._sockets):
            if not is_there(path):
                errors.append(f"{path} is gone")
                continue
            try:
                answer = self._control.call(path, op, TRY_S, token=token, **fields)
            except OrderRefused as error:
                if not error.reply.get("retry"):
                    raise FduRefused(str(error), error.reply.get("epoch")) from error
                errors.append(str(error))
            except ControlError as error:
                errors.append(str(error))
            else:
                self._sockets.remove(path)
                self._sockets.insert(0, path)
                return {name: answer[name] for name in answer if name not in ("id", "ok")}
        raise FduError(f"{op}: {'; '.join(errors)}")


def is_there(path: str) -> bool:
    """Whether a process has the socket at `path` open."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
