"""The FDU's replicated state: the record of each replica group, changed by commands. Pure.

Every member of the FDU applies the same commands in the same order to its `Records`. A server is
a group of one member, which takes no orders: it can fail, and that is all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from testbed.orchestration.detection.raft import Command
from testbed.orchestration.detection.shared_state import SharedState
from testbed.vnf.replication import membership
from testbed.vnf.state.arrays import Words

KEPT_ANSWERS = 4096
"""Answers to orders that are kept, so that one that is proposed twice is carried out once."""

Info = dict[str, Any]
"""A member: name, control_socket (empty for a server), address, port."""
ROLE_NAMES = {
    membership.PRIMARY: "primary",
    membership.BACKUP: "backup",
    membership.LEARNER: "learner",
}
FailureOrder = Literal["promote", "unprotect", "reconfigure", "group-lost"]
"""What follows from a failure: a backup takes over; the primary goes on without a backup, or
with fewer; or there is no primary any more."""


@dataclass(slots=True)
class Group:
    """A replica group: its record, and who its members are."""

    name: str
    words: Words
    members: dict[int, Info] = field(default_factory=dict)
    former: dict[str, Info] = field(default_factory=dict)
    """Members that were removed, by name: one that still runs has to be told."""
    scope: str | None = None
    """Whose linearizable records it shares, if it shares any."""

    @property
    def epoch(self) -> int:
        """The number of its configuration."""
        return int(self.words[membership.EPOCH])

    def role(self, member: int) -> int:
        """A member's role."""
        return int(self.words[membership.ROLES + member])

    def voted(self, member: int, voter: int) -> bool:
        """Whether `voter` says that the member failed."""
        return bool(self.words[membership.VOTES + member] >> voter & 1)

    def votes(self) -> dict[str, int]:
        """By number of the member: who says that it failed (bit v: voter v)."""
        words = self.words[membership.VOTES :]
        return {str(number): int(words[number]) for number in self.members if words[number]}

    def number_of(self, name: str) -> int | None:
        """The number of the member called `name`; None if it is not a member (any more)."""
        for number, info in self.members.items():
            if info["name"] == name:
                return number
        return None

    def numbers(self, role: int) -> list[int]:
        """The members that have a role."""
        return [number for number in sorted(self.members) if self.role(number) == role]

    def primary_name(self) -> str | None:
        """The name of the primary, if there is one."""
        info = self.members.get(membership.primary_of(self.words))
        return None if info is None else str(info["name"])

    def primary_socket(self) -> str:
        """The control socket of the primary; empty if there is none."""
        info = self.members.get(membership.primary_of(self.words))
        return "" if info is None else str(info["control_socket"])

    def configuration(self) -> dict[str, Any]:
        """The configuration as the members and the orchestrator are told it."""
        primary = membership.primary_of(self.words)
        return {
            "group": self.name,
            "epoch": self.epoch,
            "primary": primary if primary >= 0 else None,
            "backups": self.numbers(membership.BACKUP),
            "learners": self.numbers(membership.LEARNER),
            "members": {str(number): dict(info) for number, info in sorted(self.members.items())},
            "confirmed": bool(membership.is_confirmed(self.words)),
        }


@dataclass(frozen=True, slots=True)
class Change:
    """A group changed (`cause`: the command, or "failed"); who failed, if somebody did."""

    group: Group
    cause: str
    left: tuple[Info, ...] = ()
    joined: tuple[Info, ...] = ()
    failed: str | None = None
    failed_role: str | None = None
    order: FailureOrder | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command: the answer to whoever gave it, and the change, if there was."""

    answer: dict[str, Any]
    change: Change | None = None


class Records:
    """All groups. `apply` never raises: a command that makes no sense is refused."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.group_of: dict[str, str] = {}
        """The group of each member's name, also of former members."""
        self.shared: dict[str, SharedState] = {}
        """The linearizable records of functions, by scope: who shares them."""
        self._answers: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._commands: dict[str, Callable[[Command], Outcome]] = {
            "create-group": self._create,
            "watch-server": self._watch_server,
            "join": self._join,
            "admit": self._admit,
            "hand-over": self._hand_over,
            "leave": self._leave,
            "remove-group": self._remove,
            "forget-server": self._remove,
            "vote": self._vote,
            "retract": self._retract,
            "ask": self._ask,
        }

    def find(self, name: str) -> tuple[Group, int] | None:
        """The group of which `name` is a member, and its number."""
        group = self.groups.get(self.group_of.get(name, ""))
        number = None if group is None else group.number_of(name)
        return None if group is None or number is None else (group, number)

    def apply(self, command: Command) -> Outcome:
        """Carry out a command; one whose "token" was seen gets the same answer again."""
        token = command.get("token")
        if token is not None and token in self._answers:
            return Outcome(self._answers[token])
        outcome = self._carry_out(command)
        if token is not None:
            self._answers[token] = outcome.answer
            if len(self._answers) > KEPT_ANSWERS:
                self._answers.popitem(last=False)
        return outcome

    def _carry_out(self, command: Command) -> Outcome:
        carry_out = self._commands.get(str(command.get("op")))
        if carry_out is None:
            return _refused(f"unknown op {command.get('op')!r}")
        try:
            return carry_out(command)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            return _refused(f"{command['op']}: {error!r}")

    # ---------------------------------------------------------------------------- commands

    def _create(self, command: Command) -> Outcome:
        name = str(command["group"])
        members = {int(number): _info(info) for number, info in command["members"].items()}
        primary, backups = int(command["primary"]), [int(m) for m in command["backups"]]
        if name in self.groups:
            return _refused(f"group {name} exists", self.groups[name])
        if {primary, *backups} != set(members) or len(members) != 1 + len(backups):
            return _refused("members: expected the primary and the backups, each once")
        taken = [info["name"] for info in members.values() if self.find(info["name"])]
        if taken or len({info["name"] for info in members.values()}) != len(members):
            return _refused(f"names: expected each once and in no other group, got {taken}")
        group = Group(name, membership.new_group())
        if not membership.create(group.words, primary, _mask(backups)):
            return _refused(f"numbers: expected 0 to {membership.MAX_MEMBERS - 1}")
        group.members = members
        group.scope = command.get("scope")
        self.groups[name] = group
        for info in members.values():
            self.group_of[info["name"]] = name
        return _changed(Change(group, "create-group", joined=tuple(members.values())))

    def _watch_server(self, command: Command) -> Outcome:
        name = str(command["server"])
        info = {"name": name, "control_socket": ""}
        return self._create({"group": name, "members": {0: info}, "primary": 0, "backups": []})

    def _join(self, command: Command) -> Outcome:
        group, epoch, number = self._about(command)
        if group is None:
            return _unknown(command)
        info = _info(command["info"])
        if self.find(info["name"]):
            return _refused(f"{info['name']} is a member already", group)
        if not membership.join(group.words, epoch, number):
            return _refused_change(group, epoch, f"member {number} cannot join")
        group.former.pop(info["name"], None)
        group.members[number] = info
        self.group_of[info["name"]] = group.name
        return _changed(Change(group, "join", joined=(info,)))

    def _admit(self, command: Command) -> Outcome:
        group, epoch, number = self._about(command)
        if group is None:
            return _unknown(command)
        if not membership.admit(group.words, epoch, number):
            return _refused_change(group, epoch, f"member {number} is no learner of a primary")
        return _changed(Change(group, "admit"))

    def _hand_over(self, command: Command) -> Outcome:
        group, epoch, number = self._about(command, "to")
        if group is None:
            return _unknown(command)
        stays, confirmed = bool(command.get("stays")), bool(command["confirmed"])
        if not membership.hand_over(group.words, epoch, number, stays, confirmed):
            return _refused_change(group, epoch, f"member {number} is no backup of a primary")
        return _changed(Change(group, "hand-over", left=_part(group)))

    def _leave(self, command: Command) -> Outcome:
        group, epoch, number = self._about(command)
        if group is None:
            return _unknown(command)
        if not membership.leave(group.words, epoch, number):
            return _refused_change(group, epoch, f"member {number} is no backup and no learner")
        return _changed(Change(group, "leave", left=_part(group)))

    def _remove(self, command: Command) -> Outcome:
        name = str(command["server" if command["op"] == "forget-server" else "group"])
        group = self.groups.pop(name, None)
        if group is None:
            return Outcome({"ok": True})
        for info in (*group.members.values(), *group.former.values()):
            if self.group_of.get(info["name"]) == name:
                del self.group_of[info["name"]]
        return Outcome({"ok": True}, Change(group, "remove-group", tuple(group.members.values())))

    def _vote(self, command: Command) -> Outcome:
        group, epoch, number = self._about(command)
        if group is None:
            return _unknown(command)
        role = ROLE_NAMES.get(group.role(number) if number in group.members else -1)
        voter, confirmed = int(command["voter"]), bool(command["confirmed"])
        majority = int(command["majority"])
        if not membership.vote_failed(group.words, epoch, number, voter, confirmed, majority):
            return Outcome({"ok": True, "epoch": group.epoch})
        left = _part(group)
        order = _order(group, role)
        change = Change(group, "failed", left, (), left[0]["name"], role, order)
        return _changed(change)

    def _retract(self, command: Command) -> Outcome:
        group, epoch, number = self._about(command)
        if group is None:
            return _unknown(command)
        membership.retract(group.words, epoch, number, int(command["voter"]))
        return Outcome({"ok": True, "epoch": group.epoch})

    def _ask(self, command: Command) -> Outcome:
        """Change linearizable records; the answer says how many changes there are now."""
        group = self.groups.get(command["group"])
        if group is None:
            return _unknown(command)
        scope, value_words = str(command["scope"]), int(command["value_words"])
        state = self.shared.get(scope)
        if state is None:
            state = self.shared[scope] = SharedState(value_words)
        if state.value_words != value_words:
            return _refused(f"value_words = {value_words}: expected {state.value_words}", group)
        state.ask([int(word) for word in command["words"]])
        return Outcome({"ok": True, "changes": len(state.changes)})

    def _about(self, command: Command, which: str = "member") -> tuple[Group | None, int, int]:
        return self.groups.get(command["group"]), int(command["epoch"]), int(command[which])


def _order(group: Group, failed_role: str | None) -> FailureOrder:
    if membership.primary_of(group.words) < 0:
        return "group-lost"
    if failed_role == "primary":
        return "promote"
    return "reconfigure" if group.numbers(membership.BACKUP) else "unprotect"


def _part(group: Group) -> tuple[Info, ...]:
    """Move those who have no role any more to the former members."""
    gone = [number for number in group.members if group.role(number) == membership.NONE]
    left = tuple(group.members.pop(number) for number in gone)
    group.former.update({info["name"]: info for info in left})
    return left


def _info(fields: Info) -> Info:
    return {
        "name": str(fields["name"]),
        "control_socket": str(fields["control_socket"]),
        "address": str(fields.get("address", "")),
        "port": int(fields.get("port", 0)),
    }


def _mask(numbers: list[int]) -> int:
    mask = 0
    for number in numbers:
        if not 0 <= number < membership.MAX_MEMBERS:
            raise ValueError(f"member {number}: expected 0 to {membership.MAX_MEMBERS - 1}")
        mask |= 1 << number
    return mask


def _changed(change: Change) -> Outcome:
    return Outcome({"ok": True, **change.group.configuration()}, change)


def _refused(error: str, group: Group | None = None) -> Outcome:
    epoch = {} if group is None else {"epoch": group.epoch}
    return Outcome({"ok": False, "error": error, **epoch})


def _refused_change(group: Group, epoch: int, error: str) -> Outcome:
    if epoch != group.epoch:
        error = f"stale epoch {epoch}: group {group.name} is in epoch {group.epoch}"
    return _refused(error, group)


def _unknown(command: Command) -> Outcome:
    return _refused(f"no group {command['group']}")
