"""Chains that are not ready when their packets come: deployment takes time, one after another.

A layer before the twin: it tells when each chain serves, and the twin is run with requests that
start then. What is sent before is lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise

from testbed.scenario.types import NS_PER_S, Placement, Request, RunPlan, load_factor
from testbed.twin.calibration import Calibration

Placed = Mapping[int, Sequence[Placement] | None]


def ready_ns(plan: RunPlan, placements: Placed, calibration: Calibration | None) -> dict[int, int]:
    """When the chain of each placed request serves, by request id; at its arrival if none is known.

    The orchestrator deploys chains in the order of arrival, each in `chain_start_ns` and
    `instance_start_ns` for each instance; those of time 0 are deployed before the run begins.
    """
    base_ns, each_ns = (
        (0.0, 0.0)
        if calibration is None
        else (calibration.value("chain_start_ns"), calibration.value("instance_start_ns"))
    )
    ready: dict[int, int] = {}
    free_ns = 0.0
    for request in sorted(plan.requests, key=lambda r: (r.arrival_ns, r.id)):
        placed = placements.get(request.id)
        if placed is None:
            continue
        if request.arrival_ns == 0:
            ready[request.id] = 0
            continue
        instances = sum(len(placement.nodes) for placement in placed)
        free_ns = max(free_ns, float(request.arrival_ns)) + base_ns + each_ns * instances
        ready[request.id] = round(free_ns)
    return ready


def begin_when_ready(
    plan: RunPlan, placements: Placed, ready: Mapping[int, int]
) -> tuple[RunPlan, dict[int, Sequence[Placement] | None], float]:
    """(plan whose requests start when they are served, placements, packets lost before).

    A request that is never served in its life time has no placement any more.
    """
    requests, served, lost = [], dict(placements), 0.0
    for request in plan.requests:
        at_ns = ready.get(request.id, request.start_ns)
        if at_ns > request.start_ns:
            lost += packets_between(plan, request, request.start_ns, min(at_ns, request.end_ns))
        if at_ns >= request.end_ns:
            served[request.id] = None
        else:
            start_ns = max(request.start_ns, at_ns)
            request = dataclasses.replace(request, start_ns=start_ns)
        requests.append(request)
    return dataclasses.replace(plan, requests=tuple(requests)), served, lost


def packets_between(plan: RunPlan, request: Request, from_ns: int, to_ns: int) -> float:
    """How many packets a request is expected to send between two times."""
    steps = [at for at, _ in plan.load_steps if from_ns < at < to_ns]
    spans = pairwise([from_ns, *steps, max(from_ns, to_ns)])
    seconds = sum((b - a) / NS_PER_S * load_factor(plan, a) for a, b in spans)
    return request.rate_pps * seconds
