"""A member of the failure detection unit (FDU): decides by majority on the replica groups.

The FDU is a few such processes. Each takes the heartbeats of all instances and servers and votes,
through the replicated log (`consensus`), on who failed; each applies what the majority committed
and tells the group's members. So the death of any of them delays nothing; without a majority
nobody is promoted, and everything else goes on.

What is wanted of the log follows from what is known at each check: a member that is suspected and
against which this one has not voted, a vote against one that was heard of again. So nothing has to
be remembered about what was proposed, whatever became of it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from testbed.orchestration.detection.change_feed import ChangeFeed
from testbed.orchestration.detection.group_records import Change, Group, Records
from testbed.orchestration.detection.pending_orders import Orders
from testbed.orchestration.detection.raft import Command, Consensus
from testbed.orchestration.messages.datagrams import bound_socket, long_queues
from testbed.orchestration.messages.outbox import Outbox
from testbed.records.events import EventLog
from testbed.vnf.process.process import Termination
from testbed.vnf.replication.failure import Detector

MESSAGE_BYTES = 1 << 18
HEARTBEAT_BYTES = 256
AGAIN_NS = 200_000_000
"""Until a vote is proposed again that was not seen to be committed."""
COMMITTED = frozenset(
    {
        "create-group",
        "join",
        "admit",
        "hand-over",
        "leave",
        "remove-group",
        "watch-server",
        "forget-server",
    }
)
"""Orders that change the record, and so go through the log."""


class MembershipService:
    """Binds detector, records and log to sockets. See `main` for `config`."""

    def __init__(self, config: dict[str, Any], termination: Termination) -> None:
        self._name = str(config["name"])
        self._voter = list(config["members"]).index(self._name)
        self._heartbeat_ns = int(config["heartbeat_ns"])
        self._timeout_ns = int(config["failure_timeout_ns"])
        self._detector = Detector(self._timeout_ns)
        self._records = Records()
        self._suspects: dict[str, int] = {}
        """Who was not heard of for too long, and since when."""
        self._dead: set[str] = set()
        """Whose end was seen."""
        self._proposed: dict[str, tuple[str, int, int]] = {}
        """About whom something was proposed: what, in which epoch, and when."""
        self._feed = ChangeFeed(self._records, self._send_order)
        self._told: dict[str, int] = {}
        """When a member that is behind was last told again."""
        self._events = EventLog(config["events"])
        self._outbox = Outbox(config["notify_socket"])
        self._termination = termination
        with long_queues() if config["long_queues"] else contextlib.nullcontext():
            self._heartbeats = bound_socket(config["heartbeat_socket"])
            self._control = bound_socket(config["control_socket"])
            self._consensus = Consensus(
                self._name,
                config["members"],
                self._apply,
                None if config["journal"] is None else Path(config["journal"]),
            )
        self._orders = Orders(self._control, self._consensus)
        self._had_majority = False
        self._leader: str | None = None

    def run(self) -> None:
        """Serve until SIGTERM."""
        self._consensus.watch(self._control, self._read_control)
        self._consensus.watch(self._termination.fileno(), self._termination.drain)
        period_ns = self._heartbeat_ns // 2
        check_ns = time.monotonic_ns()
        while not self._termination.requested:
            now_ns = time.monotonic_ns()
            if now_ns >= check_ns:
                # Heartbeats are read when somebody is judged, not one by one: a wake-up for each
                # of some thousands a second would cost more than all else.
                self._read_heartbeats(now_ns)
                if now_ns - check_ns > self._heartbeat_ns:
                    self._excuse(now_ns)
                self._check(time.monotonic_ns())
                check_ns = now_ns + period_ns
            self._consensus.run_once((check_ns - time.monotonic_ns()) / 1e9)
        self._consensus.close()
        self._events.close()

    # ------------------------------------------------------------------------------ hearing

    def _read_heartbeats(self, now_ns: int) -> None:
        while True:
            try:
                data = self._heartbeats.recv(HEARTBEAT_BYTES)
            except BlockingIOError:
                return
            try:
                name, epoch, sent_ns, *changes = data.decode().split(" ")
                self._heard(name, int(epoch), int(sent_ns), now_ns)
                for index in changes:
                    self._heard_changes(name, int(index), now_ns)
            except ValueError:
                self._say(f"not a heartbeat: {data!r}")

    def _heard(self, name: str, epoch: int, sent_ns: int, now_ns: int) -> None:
        since_ns = self._suspects.get(name)
        if since_ns is not None and sent_ns > since_ns:
            del self._suspects[name]
            self._detector.watch(name, sent_ns)
        self._detector.heartbeat(name, sent_ns)
        group = self._records.groups.get(self._records.group_of.get(name, ""))
        if group is None or epoch >= group.epoch:
            return
        if now_ns - self._told.get(name, 0) >= self._heartbeat_ns:
            self._tell(group, name, now_ns)

    def _heard_changes(self, name: str, index: int, now_ns: int) -> None:
        group = self._records.groups.get(self._records.group_of.get(name, ""))
        if group is not None and self._consensus.is_leader:
            self._feed.heard(name, group, index, now_ns, self._heartbeat_ns)

    def _read_control(self) -> None:
        while True:
            try:
                data, sender = self._control.recvfrom(MESSAGE_BYTES)
            except BlockingIOError:
                return
            try:
                message = json.loads(data)
                number, op = message.get("id"), message.get("op")
            except (ValueError, AttributeError):
                self._say(f"not an order: {data[:200]!r}")
                continue
            if op is None:
                self._note_answer(message)
            elif op in COMMITTED:
                self._orders.take(message, sender)
            else:
                self._orders.answer(sender, number, self._obey(op, message))

    def _note_answer(self, message: dict[str, Any]) -> None:
        """The answer of an instance to its configuration."""
        if not message.get("ok") and self._consensus.is_leader:
            self._events.write("order-refused", error=str(message.get("error")))

    def _obey(self, op: str, message: dict[str, Any]) -> dict[str, Any]:
        """Orders that do not wait for the log."""
        if op == "ping":
            return {"ok": True}
        if op == "status":
            return {"ok": True, **self._status()}
        if op == "group":
            group = self._records.groups.get(str(message.get("group")))
            if group is None:
                return {"ok": False, "error": f"no group {message.get('group')}"}
            return {"ok": True, **group.configuration(), "votes": group.votes()}
        if op == "died":
            self._note_death(str(message.get("instance")))
            return {"ok": True}
        if op == "ask":
            # All members get it; it is asked again until it is answered.
            if self._consensus.is_leader:
                self._consensus.propose({name: message[name] for name in message if name != "id"})
            return {"ok": True}
        if op == "caught-up":
            # A stale report is refused where it is applied; the primary reports again.
            fields = {name: message.get(name) for name in ("group", "epoch", "member")}
            self._consensus.propose({"op": "admit", **fields})
            return {"ok": True}
        return {"ok": False, "error": f"unknown op {op!r}"}

    def _status(self) -> dict[str, Any]:
        consensus = self._consensus
        return {
            "name": self._name,
            "is_leader": consensus.is_leader,
            "leader": consensus.leader,
            "majority": consensus.has_majority,
            "term": consensus.term,
            "commits": consensus.commits,
            "groups": len(self._records.groups),
            "suspects": sorted(self._suspects),
        }

    # ------------------------------------------------------------------------------ judging

    def _note_death(self, name: str) -> None:
        found = self._records.find(name)
        if found is None:
            return
        self._dead.add(name)
        self._propose_about(name, *found, time.monotonic_ns())

    def _check(self, now_ns: int) -> None:
        for name in self._detector.check(now_ns):
            self._suspects[name] = now_ns
            self._say(f"{name} was not heard of for {self._timeout_ns / 1e6:.0f} ms")
        self._note_leader()
        for name in {*self._suspects, *self._dead, *self._proposed}:
            found = self._records.find(name)
            if found is not None:
                self._propose_about(name, *found, now_ns)
        self._orders.check(now_ns)
        self._outbox.flush()

    def _excuse(self, now_ns: int) -> None:
        """Start to wait anew for all: what was said while this process did not run may be lost,
        and if the whole host stood still, nothing was said."""
        for group in self._records.groups.values():
            for info in group.members.values():
                if info["name"] not in self._suspects:
                    self._detector.watch(info["name"], now_ns)

    def _propose_about(self, name: str, group: Group, number: int, now_ns: int) -> None:
        """Propose what should be in the record about a member and is not."""
        confirmed = name in self._dead
        voted = group.voted(number, self._voter)
        if confirmed or (name in self._suspects and not voted):
            op = "vote"
        elif voted and name not in self._suspects:
            op = "retract"
        else:
            return
        kind = "death" if confirmed else op
        last_kind, last_epoch, last_ns = self._proposed.get(name, ("", 0, 0))
        if (last_kind, last_epoch) == (kind, group.epoch) and now_ns - last_ns < AGAIN_NS:
            return  # it is on its way
        if not self._consensus.has_majority:
            return
        self._proposed[name] = (kind, group.epoch, now_ns)
        command: Command = {
            "op": op,
            "group": group.name,
            "epoch": group.epoch,
            "member": number,
            "voter": self._voter,
        }
        if op == "vote":
            command |= {"confirmed": confirmed, "majority": self._consensus.majority}
        self._consensus.propose(command)

    def _note_leader(self) -> None:
        majority, leader = self._consensus.has_majority, self._consensus.leader
        if majority != self._had_majority:
            self._say("there is a majority" if majority else "no majority: nobody is promoted")
        if leader is not None and leader != self._leader:
            self._say(f"{leader} leads in term {self._consensus.term}")
            self._leader = leader
        self._had_majority = majority

    # ----------------------------------------------------------------------------- applying

    def _apply(self, command: Command) -> None:
        outcome = self._records.apply(command)
        if command["op"] == "vote" and command["voter"] == self._voter:
            self._note_own_vote(command)
        if outcome.change is not None:
            self._follow(outcome.change)
        if command["op"] == "ask" and self._consensus.is_leader and outcome.answer["ok"]:
            self._feed.asked(command, time.monotonic_ns())
        token = command.get("token")
        if token is not None:
            self._orders.applied(token, outcome.answer)

    def _note_own_vote(self, command: Command) -> None:
        """Look after an own vote, also if it was given before this process was started again."""
        group = self._records.groups.get(command["group"])
        info = None if group is None else group.members.get(command["member"])
        if info is not None:
            self._proposed.setdefault(info["name"], ("", 0, 0))

    def _follow(self, change: Change) -> None:
        """Do what a change asks of this process, and tell those whom it concerns."""
        now_ns = time.monotonic_ns()
        for info in change.left:
            self._forget(info["name"])
        for info in change.joined:
            self._detector.watch(info["name"], now_ns)
        if change.cause == "remove-group":
            return
        for info in (*change.group.members.values(), *change.left):
            self._tell(change.group, info["name"], now_ns)
        self._outbox.add(_news(change))
        if self._consensus.is_leader:
            self._write(change)

    def _forget(self, name: str) -> None:
        self._detector.forget(name)
        self._suspects.pop(name, None)
        self._dead.discard(name)
        self._proposed.pop(name, None)
        self._told.pop(name, None)

    def _tell(self, group: Group, name: str, now_ns: int) -> None:
        """Send a member, or one that was, the group's configuration."""
        number = group.number_of(name)
        info = group.former.get(name) if number is None else group.members[number]
        if info is None or not info["control_socket"]:
            return
        self._told[name] = now_ns
        self._send_order(info["control_socket"], {"op": "configure", **group.configuration()})

    def _send_order(self, socket: str, order: dict[str, Any]) -> None:
        try:
            self._control.sendto(json.dumps({"id": 0, **order}).encode(), socket)
        except OSError:
            # It ended, or does not read: its heartbeats, if there are any, show that it is behind.
            return

    def _write(self, change: Change) -> None:
        """The change in the run's timeline: the leader does it, before the others know."""
        group = change.group
        if change.failed is not None:
            self._events.write(
                "failure-detected",
                group=group.name,
                instance=change.failed,
                role=change.failed_role,
                order=change.order,
            )
        if any(info["control_socket"] for info in (*group.members.values(), *change.left)):
            configuration = group.configuration()
            fields = ("group", "epoch", "primary", "backups", "learners")
            self._events.write(
                "reconfigured",
                **{name: configuration[name] for name in fields},
                cause=change.cause,
            )

    def _say(self, text: str) -> None:
        print(f"{time.monotonic_ns() / 1e9:.3f} {self._name}: {text}", file=sys.stderr, flush=True)


def _news(change: Change) -> dict[str, Any]:
    return {
        **change.group.configuration(),
        "cause": change.cause,
        "failed": change.failed,
        "order": change.order,
        "left": [info["name"] for info in change.left],
    }


def main(config: dict[str, Any]) -> None:
    """The process, until SIGTERM. Keys of `config` (times in ns):

    name; members {name: log socket}, the same in the same order for all; heartbeat_socket,
    control_socket, notify_socket; heartbeat_ns, failure_timeout_ns; events; long_queues, whether
    to make the sockets inside `long_queues`, which needs root; journal, a file in the run's folder
    with which a member that was killed may be started again, or null.
    """
    with Termination() as termination:
        MembershipService(config, termination).run()
