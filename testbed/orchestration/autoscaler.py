"""Scales functions of a run by their measured load; section `scaling` of a scenario."""

from __future__ import annotations

import time
from collections.abc import Callable

from testbed.orchestration import elastic
from testbed.orchestration.counters import capacity, count
from testbed.orchestration.deployments import Deployments
from testbed.orchestration.hysteresis import Decision, Limits, Memory, after_change, decide
from testbed.orchestration.loads import Counted, loads_of, work_between
from testbed.scenario.model import ScalingSpec
from testbed.scenario.types import NS_PER_S


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
