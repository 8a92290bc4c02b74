"""`deftbed validate`: the same placements in the emulation and in the twin, and how they differ.

The decisions are those that an emulation run recorded, so that the two differ in the world alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from testbed.recorded import RecordedRun, read_results
from testbed.results.folder import write_json
from testbed.results.statistics import nearest_rank
from testbed.scenario.model import Scenario
from testbed.scenario.types import NS_PER_S, RunPlan
from testbed.twin.accuracy import Figures, Pair, assess
from testbed.twin.calibration import Calibration
from testbed.twin.constants import TwinConstants, constants_for
from testbed.twin.simulate import TwinResult, simulate

FORMAT = 1
LEFT_OUT = ("moves", "scales")
"""What a plan may hold that the twin knows nothing of."""


def validate_folders(
    folders: Sequence[Path], calibration: Calibration | None
) -> tuple[list[Pair], dict[str, Any]]:
    """Every complete run of the results folders in both worlds, and validation.json's content.

    Raises InputError for a folder without one.
    """
    pairs = []
    for folder in folders:
        pairs += [repeat(run, calibration) for run in read_results(folder)]
    content = {
        "format": FORMAT,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "calibration": None if calibration is None else calibration.identity(),
        "results": [str(folder) for folder in folders],
        **assess(pairs),
    }
    return pairs, content


def repeat(run: RecordedRun, calibration: Calibration | None) -> Pair:
    """A recorded run, and the twin with the very same placements."""
    constants = constants_for(run.scenario, calibration)
    result = simulate(calibrated_plan(run.plan, constants), run.placements, constants)
    return Pair(
        scenario=run.scenario.name,
        policy=run.policy,
        seed=run.plan.seed,
        emulation=measured(run),
        twin=predicted(run.plan, result),
        valid=bool(run.manifest["valid"]),
    )


def calibrated_plan(plan: RunPlan, constants: TwinConstants) -> RunPlan:
    """The plan with each link as long as a frame needs for it, its switch included."""
    extra_ns = round(constants.link_overhead_ns)
    links = tuple(
        dataclasses.replace(link, delay_ns=link.delay_ns + extra_ns) for link in plan.topology.links
    )
    return dataclasses.replace(plan, topology=dataclasses.replace(plan.topology, links=links))


def measured(run: RecordedRun) -> Figures:
    """The figures of the packets that were recorded, of requests that were served."""
    served = [request for request, placed in run.placements.items() if placed is not None]
    packets = run.packets[run.packets["chain"].isin(served)]
    arrived = packets[packets["received_ns"].notna()]
    latency_ns = arrived["received_ns"].to_numpy(dtype=np.int64) - arrived["scheduled_ns"].to_numpy(
        dtype=np.int64
    )
    sent = int((packets["sent_ns"].notna() | packets["received_ns"].notna()).sum())
    return Figures(
        latency_p50_ns=nearest_rank(latency_ns, 0.5),
        latency_p99_ns=nearest_rank(latency_ns, 0.99),
        delivered_pps=len(arrived) / traffic_s(run.plan),
        dropped=1.0 - len(arrived) / sent if sent else 0.0,
    )


def predicted(plan: RunPlan, result: TwinResult) -> Figures:
    """The figures of the twin's packets."""
    delivered = sum(request.delivered for request in result.requests)
    nothing = delivered <= 0
    return Figures(
        latency_p50_ns=None if nothing else result.latency_ns(0.5),
        latency_p99_ns=None if nothing else result.latency_ns(0.99),
        delivered_pps=delivered / traffic_s(plan),
        dropped=result.loss,
    )


def traffic_s(plan: RunPlan) -> float:
    """From the first moment at which a request of the plan may send to the last."""
    first = min(request.start_ns for request in plan.requests)
    last = max(request.end_ns for request in plan.requests)
    return (last - first) / NS_PER_S


def unmodelled(scenario: Scenario, plan: RunPlan) -> list[str]:
    """What a run has that the twin leaves out, in words."""
    found = [f"{name} of the plan" for name in LEFT_OUT if getattr(plan, name)]
    if scenario.scaling is not None:
        found.append("scaling by measured load")
    if scenario.replication.backups_wanted > 1:
        found.append("more than one backup")
    return found


def write_validation(folder: Path, content: dict[str, Any]) -> Path:
    """Write validation.json into a folder; its path."""
    path = folder / "validation.json"
    write_json(path, content)
    return path
