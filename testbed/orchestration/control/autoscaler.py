"""Scales functions of a run by their measured load; section `scaling` of a scenario."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from testbed.orchestration.control.counters import Meter
from testbed.orchestration.control.hysteresis import (
    Decision,
    Function,
    Limits,
    Memory,
    after_change,
    decide,
)
from testbed.orchestration.control.loads import Counted, loads_of
from testbed.orchestration.deploying import elastic
from testbed.orchestration.deploying.deployments import Deployments
from testbed.scenario.scheduled import ScalingSpec
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
    """Looks at the load each period and carries out what is decided; `between` as in `elastic`.

    `count` is that of a `Meter`, `cores` the speed of each server in reference cores.
    """

    def __init__(
        self,
        deployments: Deployments,
        count: Callable[[], dict[str, Counted]],
        cores: Mapping[int, float],
        spec: ScalingSpec,
        between: Callable[[], None],
    ) -> None:
        self._deployments = deployments
        self._cores = cores
        self._limits = limits_of(spec)
        self._between = between
        self._memory = Memory()
        self._meter = Meter(count, round(spec.period_s * NS_PER_S))

    def look_if_due(self) -> None:
        """Once a period: take the counters, and scale a function if that is the decision."""
        measured = self._meter.measure_if_due()
        where = self._where()
        if measured is None or not where:
            return
        loads = loads_of(measured.work, where, self._cores)
        self._memory, decision = decide(self._memory, self._limits, loads, measured.end_ns)
        if decision is not None:
            self._carry_out(decision)
            self._meter.forget()
            self._memory = after_change(self._limits, time.monotonic_ns())

    def _where(self) -> dict[Function, dict[int, int]]:
        """Where the primaries are of each function that has several shards."""
        return {
            (request, hop): self._deployments.primaries_of(deployed, hop)
            for request, deployed in self._deployments.chains.items()
            for hop in range(len(deployed.request.functions))
            if deployed.request.shards > 1
        }

    def _carry_out(self, decision: Decision) -> None:
        (request, hop), load = decision.function, decision.load
        self._deployments.note(
            "scaling-decision",
            request=request,
            function=hop,
            before=load.instances,
            instances=decision.instances,
            utilisation=round(load.utilisation, 4),
            merged=round(load.merged, 4),
        )
        elastic.try_scale(self._deployments, request, hop, decision.instances, self._between)
