"""Scales functions of a run by their measured load; section `scaling` of a scenario."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from testbed.orchestration import chain, elastic
from testbed.orchestration.control import ControlError
from testbed.orchestration.deployments import Deployments
from testbed.orchestration.fdu_client import is_there
from testbed.orchestration.hysteresis import Decision, Limits, Memory, after_change, decide
from testbed.orchestration.loads import Counted, loads_of, work_between
from testbed.orchestration.site import Site
from testbed.scenario.model import ScalingSpec
from testbed.scenario.types import NS_PER_S

ASK_S = 0.1
"""An instance that does not answer for so long is left out of a period."""


def limits_of(spec: ScalingSpec) -> Limits:
    """The limits that a scenario sets."""
    return Limits(
        spec.high,
        spec.low,
        round(spec.hold_s * NS_PER_S),
        round(spec.cool_s * NS_PER_S),
        spec.max_instances,
    )


class Autoscaler:
    """Looks at the load each period and carries out what is decided; `between` as in `elastic`."""

    def __init__(
        self, deployments: Deployments, spec: ScalingSpec, between: Callable[[], None]
    ) -> None:
        self._deployments = deployments
        self._limits = limits_of(spec)
        self._period_ns = round(spec.period_s * NS_PER_S)
        self._between = between
        self._memory = Memory()
        self._counted: dict[str, Counted] = {}
        self._counted_ns = 0
        self._due_ns = 0

    def look_if_due(self) -> None:
        """Once a period: take the counters, and scale a function if that is the decision."""
        now_ns = time.monotonic_ns()
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + self._period_ns
            self._look(now_ns)

    def _look(self, now_ns: int) -> None:
        deployments = self._deployments
        where = {
            (request, hop): deployments.primaries_of(deployed, hop)
            for request, deployed in deployments.chains.items()
            for hop in range(len(deployed.request.functions))
            if deployed.request.shards > 1
        }
        before, period_ns = self._counted, now_ns - self._counted_ns
        self._counted, self._counted_ns = count(deployments) if where else {}, now_ns
        if not before or not where:
            return
        work = work_between(before, self._counted, period_ns)
        loads = loads_of(work, where, capacity(deployments.site))
        self._memory, decision = decide(self._memory, self._limits, loads, now_ns)
        if decision is not None:
            self._carry_out(decision)
            # The time that it took is no period of any load.
            self._counted = {}
            self._memory = after_change(self._limits, time.monotonic_ns())

    def _carry_out(self, decision: Decision) -> None:
        (request, hop), load = decision.function, decision.load
        events = self._deployments.site.events
        events.write(
            "scaling-decision",
            request=request,
            function=hop,
            before=load.instances,
            instances=decision.instances,
            utilisation=round(load.utilisation, 4),
            merged=round(load.merged, 4),
        )
        elastic.try_scale(self._deployments, request, hop, decision.instances, self._between)


def count(deployments: Deployments) -> dict[str, Counted]:
    """What every living instance has counted, by name."""
    site = deployments.site
    found = {}
    for request, deployed in deployments.chains.items():
        for key, members in deployed.members.items():
            profile = site.plan.profiles[deployed.request.functions[key.hop]]
            for number, node in members.items():
                name = chain.instance_name(deployed.request, key, number)
                stats = _stats(site, name)
                if stats is None:
                    continue
                leads = stats["role"] == "primary"
                cost_ns = profile.service_ns if leads else profile.backup_service_ns
                found[name] = Counted(node, request, key, leads, int(stats["received"]), cost_ns)
    return found


def capacity(site: Site) -> dict[int, float]:
    """The speed of each server in reference cores."""
    return {server.node: server.cpu_cores for server in site.plan.servers}


def _stats(site: Site, name: str) -> dict[str, Any] | None:
    socket = site.socket(name)
    if not is_there(socket):  # not asked in vain: the run would wait as long
        return None
    try:
        return site.control.call(socket, "stats", ASK_S)
    except ControlError:
        return None
