"""The failure detection unit: a process that watches heartbeats and promotes backups.

It is apart from the harness so that a detection never waits for a decision or a deployment.
What it does with a failed member is a pure function of the group (`reaction`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from testbed.results.events import EventLog
from testbed.vnf.replication.failure import Detector

MESSAGE_BYTES = 1 << 16
BUFFER_BYTES = 1 << 22
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a replica group and where it takes orders."""

    name: str
    control_socket: str


@dataclass(frozen=True, slots=True)
class Group:
    """A replica group as the FDU sees it: its first member is the primary."""

    name: str
    members: tuple[Member, ...]
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Reaction:
    """What follows from a failure: an order to a survivor, and the group that is left."""

    group: Group
    failed_role: Literal["primary", "backup"]
    order: Literal["promote", "unprotect"] | None
    survivor: Member | None


def reaction(group: Group, failed: str) -> Reaction:
    """Promote the backup of a failed primary, let go on the primary of a failed backup.

    ValueError if `failed` is not a member.
    """
    names = [member.name for member in group.members]
    position = names.index(failed)
    left = tuple(member for member in group.members if member.name != failed)
    role: Literal["primary", "backup"] = "primary" if position == 0 else "backup"
    after = replace(group, members=left, epoch=group.epoch + 1)
    if not left:
        return Reaction(after, role, None, None)
    return Reaction(after, role, "promote" if position == 0 else "unprotect", left[0])


class FailureDetectionUnit:
    """Binds the detector and the groups to sockets and the event log."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._detector = Detector(config["failure_timeout_ns"])
        self._groups: dict[str, Group] = {}
        self._group_of: dict[str, str] = {}
        self._events = EventLog(config["events"])
        self._notify = config["notify_socket"]
        self._heartbeats = _bind(config["fdu_socket"])
        self._control = _bind(config["control_socket"])
        self._period_s = config["heartbeat_ns"] / 2e9
        self._stopping = False

    def run(self) -> None:
        """Serve until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stopping", True))
        with selectors.DefaultSelector() as selector:
            selector.register(self._heartbeats, selectors.EVENT_READ, self._read_heartbeats)
            selector.register(self._control, selectors.EVENT_READ, self._read_orders)
            next_check = time.monotonic()
            while not self._stopping:
                for key, _ in selector.select(max(0.0, next_check - time.monotonic())):
                    key.data()
                if time.monotonic() >= next_check:
                    # What waits in the sockets is older than now: read it before judging.
                    self._read_heartbeats()
                    self._read_orders()
                    self._check()
                    next_check = time.monotonic() + self._period_s
        self._events.close()

    def _read_heartbeats(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                name, _, sent_ns = self._heartbeats.recv(256).partition(b" ")
                self._detector.heartbeat(name.decode(), int(sent_ns))

    def _read_orders(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, sender = self._control.recvfrom(MESSAGE_BYTES)
                message = json.loads(data)
                if "op" not in message:
                    self._note_reply(message)
                    continue
                error = self._obey(message)
                answer = {"id": message["id"], "ok": error is None, "error": error}
                with contextlib.suppress(OSError):
                    self._control.sendto(json.dumps(answer).encode(), sender)

    def _obey(self, message: dict[str, Any]) -> str | None:
        if message["op"] == "ping":
            return None
        if message["op"] == "watch-group":
            members = tuple(Member(**member) for member in message["members"])
            self._groups[message["group"]] = Group(message["group"], members)
            for member in members:
                self._group_of[member.name] = message["group"]
                self._detector.watch(member.name, time.monotonic_ns())
            return None
        if message["op"] == "forget-group":
            group = self._groups.pop(message["group"], None)
            for member in group.members if group else ():
                self._detector.forget(member.name)
                del self._group_of[member.name]
            return None
        return f"unknown op {message['op']}"

    def _note_reply(self, message: dict[str, Any]) -> None:
        if not message.get("ok"):
            self._events.write("order-refused", error=str(message.get("error")))

    def _check(self) -> None:
        for name in self._detector.check(time.monotonic_ns()):
            self._detector.forget(name)
            found = reaction(self._groups[self._group_of.pop(name)], name)
            self._groups[found.group.name] = found.group
            if found.survivor is not None and found.order is not None:
                order = {"id": 0, "op": found.order, "epoch": found.group.epoch}
                with contextlib.suppress(OSError):
                    self._control.sendto(json.dumps(order).encode(), found.survivor.control_socket)
            self._events.write(
                "failure-detected",
                group=found.group.name,
                instance=name,
                role=found.failed_role,
                order=found.order or "group-lost",
            )
            news = {"group": found.group.name, "failed": name, "order": found.order}
            with contextlib.suppress(OSError):
                self._control.sendto(json.dumps(news).encode(), self._notify)


def _bind(path: str) -> socket.socket:
    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    endpoint.setblocking(False)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    endpoint.bind(path)
    return endpoint


def _own_namespace() -> None:
    """A network namespace for this process alone: its Unix sockets may queue more datagrams.

    The default of 10 would refuse heartbeats of a few dozen instances, and the bound is a
    property of the namespace in which a socket is made.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare of the network namespace")
    Path("/proc/sys/net/unix/max_dgram_qlen").write_text("1024", encoding="ascii")


def main(config: dict[str, Any]) -> None:
    """The process; `config`: fdu_socket, control_socket, notify_socket, heartbeat_ns,
    failure_timeout_ns, events."""
    _own_namespace()
    FailureDetectionUnit(config).run()
