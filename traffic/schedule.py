"""Draws the due time of each packet of a request. Pure; depends on the plan, never on a policy.

The rate of a request is `rate_pps` times the load factor, which is constant between load steps,
and is spread evenly over its flows. Packets are placed on the integral of the rate: a unit-rate
process is drawn and mapped through the inverse of the piecewise linear integral. This is exact
at the steps (time rescaling: Brown et al., Neural Computation 14, 2002), needs no thinning, and
turns an even spacing into a constant bit rate that changes at the very instant of a step.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from testbed.records.raw import SCHEDULE_DTYPE, Records
from testbed.scenario.modulation import unit_process
from testbed.scenario.types import NS_PER_S, Request, RunPlan

Process = Literal["cbr", "poisson"]

_SEED_DOMAIN = 3
"""Sets these draws apart from those that make the plan of the same seed."""


def packet_schedule(plan: RunPlan, request: Request, process: Process) -> Records:
    """The packets of `request`: array of `SCHEDULE_DTYPE` (flow, seq, scheduled_ns), by time.

    Times are nanoseconds from the run's origin, in [start_ns, end_ns); `seq` counts from 0 in
    each flow. `process` is "poisson" (independent per flow) or "cbr" (evenly spaced, each flow
    with a random phase). The draws are seeded by the plan's seed and the request's id alone.
    Raises ValueError for another process.
    """
    if process not in ("cbr", "poisson"):
        raise ValueError(f"process = {process!r}: expected 'cbr' or 'poisson'")
    times_ns, integral = _integral(plan, request)
    seeds = np.random.SeedSequence([plan.seed, _SEED_DOMAIN, request.id]).spawn(request.flows)
    parts = []
    for flow, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        points = unit_process(rng, process == "cbr", float(integral[-1]))
        due_ns = np.interp(points, integral, times_ns).astype(np.int64)
        part = np.empty(len(points), SCHEDULE_DTYPE)
        part["flow"] = flow
        part["seq"] = np.arange(len(points))
        part["scheduled_ns"] = np.minimum(due_ns, request.end_ns - 1)
        parts.append(part)
    schedule = np.concatenate(parts)
    return schedule[np.lexsort((schedule["seq"], schedule["flow"], schedule["scheduled_ns"]))]


def _integral(plan: RunPlan, request: Request) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Break points of time [ns] and the packets that a flow expects to have sent by each."""
    steps = [at for at, _ in plan.load_steps if request.start_ns < at < request.end_ns]
    times = np.array([request.start_ns, *steps, max(request.end_ns, request.start_ns)])
    starts = np.array([at for at, _ in plan.load_steps], dtype=np.int64)
    factors = np.array([1.0, *(factor for _, factor in plan.load_steps)])
    factor = factors[np.searchsorted(starts, times[:-1], side="right")]
    rate_per_ns = request.rate_pps / request.flows / NS_PER_S
    spans = np.diff(times) * rate_per_ns * factor
    return times.astype(np.float64), np.concatenate(([0.0], np.cumsum(spans)))
