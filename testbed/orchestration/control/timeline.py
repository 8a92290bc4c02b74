"""The planned steps of a run, in order of time. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.scenario.types import RunPlan


@dataclass(frozen=True, order=True, slots=True)
class Step:
    """Something that is due at `at_ns` after the run's origin; `rank` orders equal times."""

    at_ns: int
    rank: int
    what: str
    number: int = -1
    """Of the request, the move or the scale."""


def timeline(plan: RunPlan, drain_ns: int) -> list[Step]:
    """The steps of a run that are known before it begins, in order.

    Requests that arrive at time 0 are deployed before the clock starts and are not listed.
    """
    steps = [Step(at_ns, 0, "load-step") for at_ns, _ in plan.load_steps]
    steps += [Step(move.at_ns, 3, "move", number) for number, move in enumerate(plan.moves)]
    steps += [Step(scale.at_ns, 3, "scale", number) for number, scale in enumerate(plan.scales)]
    for request in plan.requests:
        if request.arrival_ns > 0:
            steps.append(Step(request.arrival_ns, 2, "arrival", request.id))
        if request.end_ns + drain_ns < plan.duration_ns:
            steps.append(Step(request.end_ns + drain_ns, 1, "departure", request.id))
    return sorted([*steps, Step(plan.duration_ns + drain_ns, 4, "end")])
