"""A running episode as the kinds of faults see it: its groups, and the means to break them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from testbed.lab.lab import Lab
from testbed.orchestration.control.orchestrator import Orchestrator
from testbed.orchestration.deploying.deploy import Chain
from testbed.orchestration.deploying.site import Site
from testbed.orchestration.deploying.watchers import start_agent, start_fdu_member
from testbed.orchestration.detection.fdu_client import is_there
from testbed.orchestration.messages.control_client import ControlError
from testbed.scenario.errors import RunError
from testbed.scenario.names import GroupKey, fdu_name, group_name, member_name, server_name
from testbed.scenario.types import NS_PER_S

POLL_S = 0.03
ASK_S = 0.3
GLANCE_S = 0.02
"""For an answer that is asked for again anyway: while one is waited for, nothing is repaired."""
HEAL_S = 30.0
"""How long the groups may take to be healthy again."""


@dataclass(frozen=True, slots=True)
class GroupView:
    """A replica group: its members by number, with their nodes, and its primary."""

    name: str
    request: int
    key: GroupKey
    members: dict[int, int]
    primary: int

    def instance(self, number: int) -> str:
        """The name of a member."""
        return member_name(self.name, number)

    @property
    def backups(self) -> list[int]:
        """Numbers of the members that are not the primary."""
        return [number for number in self.members if number != self.primary]


class StageError(RunError):
    """A fault cannot be injected: the lab is not as it should be."""


class Stage:
    """The lab of an episode under load, with the orchestrator that attends to it."""

    def __init__(self, lab: Lab, orchestrator: Orchestrator, rng: np.random.Generator) -> None:
        self.lab = lab
        self.orchestrator = orchestrator
        self.rng = rng
        self.number = -1
        self.kind = "none"
        """Of the fault that is injected now."""

    @property
    def site(self) -> Site:
        """Where the episode happens."""
        return self.lab.site

    @property
    def failure_timeout_s(self) -> float:
        """How long the FDU waits for a heartbeat."""
        return self.site.scenario.replication.failure_timeout_s

    # --------------------------------------------------------------------------------- who

    def groups(self) -> list[GroupView]:
        """All groups as the orchestrator knows them."""
        return [
            GroupView(
                group_name(deployed.request, key),
                request,
                key,
                dict(members),
                deployed.primaries[key],
            )
            for request, deployed in self.orchestrator.chains.items()
            for key, members in deployed.members.items()
        ]

    def chain_of(self, group: GroupView) -> Chain:
        """The deployed chain of a group."""
        return self.orchestrator.chains[group.request]

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options, drawn; raises StageError if there is none."""
        if not options:
            raise StageError("nothing is left to choose from")
        return options[int(self.rng.integers(len(options)))]

    def uniform(self, low: float, high: float) -> float:
        """A number drawn from [low, high)."""
        return float(self.rng.uniform(low, high))

    def fdu_numbers(self) -> range:
        """Numbers of the members of the FDU."""
        return range(self.site.scenario.replication.fdu_members)

    # -------------------------------------------------------------------------------- time

    def attend(self, seconds: float) -> None:
        """Let the time pass; what has to be attended to is."""
        self.orchestrator.attend(time.monotonic_ns() + round(seconds * NS_PER_S))

    def attend_until(self, condition: Callable[[], bool], bound_s: float) -> bool:
        """Let the time pass until the condition holds; whether it did within the bound."""
        deadline = time.monotonic() + bound_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.attend(POLL_S)
        return True

    # -------------------------------------------------------------------------------- what

    def note(self, event: str, t_ns: int | None = None, **fields: Any) -> None:
        """Write an event of the fault that is injected now."""
        self.site.events.write(event, t_ns, fault=self.number, **fields)

    def injected(
        self, t_ns: int, groups: Sequence[GroupView], target: str, victims: Sequence[str] = ()
    ) -> None:
        """Note that the fault happened at `t_ns`, which groups it hit, and who fails by it."""
        fields = {
            "kind": self.kind,
            "groups": [group.name for group in groups],
            "chains": sorted({group.request for group in groups}),
            "target": target,
            "victims": list(victims),
        }
        self.note("injected", t_ns, **fields)

    def kill(self, names: Sequence[str]) -> int:
        """SIGKILL; when."""
        t_ns = time.monotonic_ns()
        self.site.spawner.kill(names)
        return t_ns

    def send_signal(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a process that lives; when. Raises StageError if it does not."""
        pid = self.site.spawner.pid(name)
        if pid is None:
            raise StageError(f"{name} does not live")
        t_ns = time.monotonic_ns()
        os.kill(pid, number)
        return t_ns

    def restart_fdu_member(self, number: int) -> None:
        """Start a member of the FDU again that was killed."""
        start_fdu_member(self.site, number)
        self.note("repaired", what=fdu_name(number))

    def repair_server(self, node: int) -> None:
        """Let a server that was down take part again: its interface, then its agent."""
        name = server_name(node)
        self.lab.network.server_up(node)
        self.site.fdu.forget_server(name)
        start_agent(self.site, node)
        self.orchestrator.server_back(node)
        self.note("repaired", what=name)

    # ------------------------------------------------------------------------------ health

    def stats(self, name: str, timeout_s: float = ASK_S) -> dict[str, Any] | None:
        """What an instance says of itself; None if it does not answer."""
        return self._ask(name, "stats", timeout_s)

    def _ask(self, name: str, op: str, timeout_s: float = ASK_S) -> dict[str, Any] | None:
        # Not asked in vain: the orchestrator would wait as long.
        if not is_there(self.site.socket(name)):
            return None
        try:
            return self.site.control.call(self.site.socket(name), op, timeout_s)
        except ControlError:
            return None

    def is_healthy(self) -> bool:
        """Whether every group is as it should be, and so is the FDU."""
        if not self.orchestrator.is_settled:
            return False
        if not all(self._fdu_member_is_well(number) for number in self.fdu_numbers()):
            return False
        return all(self._group_is_well(group) for group in self.groups())

    def await_healthy(self) -> bool:
        """Wait until all is well again, and note when; whether it was in time."""
        well = self.attend_until(self.is_healthy, HEAL_S)
        self.note("healed" if well else "not-healed")
        return well

    def snapshot(self) -> None:
        """Note the role and the counters of all members, and what each group declared lost.

        A member knows only of losses since it joined: those who know more may be killed next.
        """
        for group in self.groups():
            for number in group.members:
                found = self.stats(group.instance(number))
                if found is not None:
                    fields = {name: found[name] for name in ("role", "epoch", "emitted")}
                    self.note("snapshot", instance=group.instance(number), **fields)
            losses = self._ask(group.instance(group.primary), "losses")
            if losses is not None and losses["losses"]:
                self.note("losses", group=group.name, losses=losses["losses"])

    def _fdu_member_is_well(self, number: int) -> bool:
        status = self._ask(fdu_name(number), "status", GLANCE_S)
        return status is not None and bool(status["majority"])

    def _group_is_well(self, group: GroupView) -> bool:
        try:
            config = self.site.fdu.group(group.name)
        except ControlError:
            return False
        members = {config["primary"], *config["backups"]}
        wanted = self.site.scenario.replication.backups_wanted
        if len(members) <= wanted or config["learners"] or members != set(group.members):
            return False
        return all(self._member_is_well(group, number, config) for number in members)

    def _member_is_well(self, group: GroupView, number: int, config: dict[str, Any]) -> bool:
        found = self.stats(group.instance(number), GLANCE_S)
        if found is None or found["epoch"] != config["epoch"]:
            return False
        if number == config["primary"]:
            return bool(found["role"] == "primary" and found["protected"])
        return bool(found["role"] == "backup" and found["synced"])

    # ------------------------------------------------------------------------- quiescence

    def await_quiescence(self, bound_s: float) -> bool:
        """Wait, after the senders have ended, until every group has nothing left to do."""
        quiet = self.attend_until(lambda: all(map(self._is_quiet, self.groups())), bound_s)
        config = {
            group.name: {"primary": group.primary, "members": sorted(group.members)}
            for group in self.groups()
        }
        self.site.events.write("quiescent" if quiet else "not-quiescent", groups=config)
        return quiet

    def _is_quiet(self, group: GroupView) -> bool:
        found = {number: self.stats(group.instance(number)) for number in group.members}
        indexes = set()
        for number, each in found.items():
            if each is None or each["buffered"] or each["waiting"]:
                return False
            indexes.add(each["log_index"])
            if number == group.primary:
                # A backup learns of the last commits with the next input, of which there is none.
                indexes |= {each["committed"], each["released"]}
        return len(indexes) == 1


def instances_at(stage: Stage, node: int) -> Iterator[tuple[GroupView, int]]:
    """The members that are at a node, each with its group."""
    for group in stage.groups():
        for number, place in group.members.items():
            if place == node:
                yield group, number
