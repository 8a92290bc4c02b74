"""The counters of the instances of a run, and their increase from one reading to the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from testbed.orchestration.control.loads import Counted, Work, work_between
from testbed.orchestration.deploying.deploy import Chain
from testbed.orchestration.deploying.site import Site
from testbed.orchestration.detection.fdu_client import is_there
from testbed.orchestration.messages.control_client import ControlError
from testbed.scenario.names import instance_name

ASK_S = 0.1
"""An instance that does not answer for so long is left out of a period."""


class Measured(NamedTuple):
    """The work of each instance that was there at both ends of a period."""

    work: list[Work]
    begin_ns: int
    end_ns: int


class Meter:
    """Measures the work of a run's instances, period by period.

    `count` says what every living instance has counted, by name.
    """

    def __init__(self, count: Callable[[], dict[str, Counted]], period_ns: int) -> None:
        self._count = count
        self._period_ns = period_ns
        self._counted: dict[str, Counted] = {}
        self._counted_ns = 0
        self._due_ns = 0

    def measure_if_due(self) -> Measured | None:
        """The work since the last measurement, once a period; None before, and at the first."""
        now_ns = time.monotonic_ns()
        if now_ns < self._due_ns:
            return None
        self._due_ns = now_ns + self._period_ns
        before, begin_ns = self._counted, self._counted_ns
        self._counted, self._counted_ns = self._count(), now_ns
        if not before:
            return None
        return Measured(work_between(before, self._counted, now_ns - begin_ns), begin_ns, now_ns)

    def forget(self) -> None:
        """Begin anew: the time since the last measurement is no period of any load."""
        self._counted = {}


def count(site: Site, chains: Mapping[int, Chain]) -> dict[str, Counted]:
    """What every living instance of the chains has counted, by name."""
    found = {}
    for request, deployed in chains.items():
        for key, members in deployed.members.items():
            profile = site.plan.profiles[deployed.request.functions[key.hop]]
            for number, node in members.items():
                name = instance_name(deployed.request, key, number)
                stats = _stats(site, name)
                if stats is None:
                    continue
                leads = stats["role"] == "primary"
                cost_ns = profile.service_ns if leads else profile.backup_service_ns
                found[name] = Counted(node, request, key, leads, int(stats["received"]), cost_ns)
    return found


def _stats(site: Site, name: str) -> dict[str, Any] | None:
    socket = site.socket(name)
    if not is_there(socket):  # not asked in vain: the run would wait as long
        return None
    try:
        return site.control.call(socket, "stats", ASK_S)
    except ControlError:
        return None
