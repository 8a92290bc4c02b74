"""`deftbed validate`: compares emulation and twin on the same placements.

The decisions are those that an emulation run recorded, so that the two differ in the world alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from testbed.calibration.accuracy import Figures, Pair, assess
from testbed.calibration.choice import doubts
from testbed.calibration.recorded import RecordedRun, read_results
from testbed.calibration.validation_page import write_page
from testbed.decisions.problem import MakePolicy
from testbed.records.files import write_json
from testbed.results.folder import hand_back, results_folder
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario
from testbed.scenario.model import Scenario, decided_by
from testbed.scenario.modelled import left_out, require_modelled
from testbed.scenario.plan import make_plan
from testbed.scenario.problems.deciding import POLICIES
from testbed.scenario.types import NS_PER_S, RunPlan
from testbed.statistics.quantiles import nearest_rank
from testbed.twin.calibration import Calibration, Chosen
from testbed.twin.constants import constants_for
from testbed.twin.simulate import TwinResult, simulate
from testbed.twin.starts import begin_when_ready, ready_ns

FORMAT = 1
SEEDS = 3
LEARNED = ("ppo", "dqn")
NO_MOVES = "of a run placements are repeated alone, and what moved in overload stays where it was"
Progress = Callable[[str, float], None]


def validate_folders(folders: Sequence[Path], chosen: Chosen) -> dict[str, Any]:
    """Every complete run of the results folders in both worlds: the content of validation.json.

    Raises InputError for a folder without one.
    """
    found = [read_results(folder) for folder in folders]
    runs = [run for each in found for run in each.runs]
    torn = [why for each in found for why in each.torn]
    if not runs:
        raise InputError("results", "; ".join(torn), "a run that can be read")
    pairs = [repeat(run, chosen.calibration) for run in runs]
    chosen = _where_run(chosen, runs)
    return {
        "format": FORMAT,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "calibration": chosen.identity(),
        "results": [str(folder) for folder in folders],
        "reasons": [
            *torn,
            *(f"{_name(run)}: {why}" for run in runs for why in run.manifest["reasons"]),
        ],
        "unmodelled": sorted(
            {f"{run.scenario.name}: {what}" for run in runs for what in unmodelled(run.scenario)}
        ),
        **assess(pairs),
    }


def _where_run(chosen: Chosen, runs: Sequence[RecordedRun]) -> Chosen:
    """The calibration with its doubts as to the hosts and back ends of the runs."""
    if chosen.calibration is None:
        return chosen
    found = list(chosen.doubts)
    for run in runs:
        known = ("cores", "kernel", "backends")
        there = {name: run.manifest[name] for name in known if name in run.manifest}
        found += doubts(chosen.calibration, there)
    return dataclasses.replace(chosen, doubts=tuple(dict.fromkeys(found)))


def _name(run: RecordedRun) -> str:
    return f"{run.scenario.name}, {run.policy}, seed {run.plan.seed}"


def repeat(run: RecordedRun, calibration: Calibration | None) -> Pair:
    """A recorded run, and the twin with the very same placements."""
    require_modelled(run.scenario)
    constants = constants_for(run.scenario, calibration)
    ready = ready_ns(run.plan, run.placements, calibration)
    plan, placements, unserved = begin_when_ready(run.plan, run.placements, ready)
    result = simulate(plan, placements, constants, backups=run.backups)
    return Pair(
        scenario=run.scenario.name,
        policy=run.policy,
        seed=run.plan.seed,
        emulation=measured(run),
        twin=predicted(run.plan, result, unserved),
        valid=bool(run.manifest["valid"]),
    )


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


def predicted(plan: RunPlan, result: TwinResult, unserved: float) -> Figures:
    """The figures of the twin's packets; `unserved` more were sent before their chain served."""
    delivered = sum(request.delivered for request in result.requests)
    sent = result.packets + unserved
    nothing = delivered <= 0
    return Figures(
        latency_p50_ns=None if nothing else result.latency_ns(0.5),
        latency_p99_ns=None if nothing else result.latency_ns(0.99),
        delivered_pps=delivered / traffic_s(plan),
        dropped=1.0 - delivered / sent if sent > 0 else 0.0,
    )


def traffic_s(plan: RunPlan) -> float:
    """From the first moment at which a request of the plan may send to the last."""
    first = min(request.start_ns for request in plan.requests)
    last = max(request.end_ns for request in plan.requests)
    return (last - first) / NS_PER_S


def unmodelled(scenario: Scenario) -> list[str]:
    """What a run has that the twin leaves out when it repeats it, in words."""
    found = [str(each) for each in left_out(scenario)]
    if scenario.overload is not None:
        found.append(f"overload: {NO_MOVES}")
    return found


def chosen_scenario(path: Path, policies: Sequence[str], seeds: Sequence[int]) -> Scenario:
    """The scenario with these policies and seeds; raises InputError.

    Without policies its own, but for those that have to be trained; without seeds its first few.
    """
    scenario = load_scenario(path)
    require_modelled(scenario)
    names = list(policies) or [name for name in scenario.problem.policies if name not in LEARNED]
    for name in names:
        if name not in POLICIES or name in LEARNED:
            raise InputError("--policies", name, "policies of the testbed that need no training")
    chosen = list(seeds) or scenario.seeds[:SEEDS]
    for seed in chosen:
        make_plan(scenario, seed)
    return decided_by(scenario, names, list(dict.fromkeys(chosen)))


def new_folder(results: Path | None) -> Path:
    """The folder of a validation; raises InputError if it exists."""
    return results_folder(results, "validation")


def run_scenarios(
    folder: Path, scenarios: Sequence[Scenario], make_policy: MakePolicy, progress: Progress
) -> list[Path]:
    """Run each scenario's policies and seeds into a folder of its own; the folders.

    Raises InputError for a host that cannot, RunError if a run fails.
    """
    from testbed.calibration.calibrate import RUN_OVERHEAD_S, run_policies

    shares = [
        len(each.problem.policies) * len(each.seeds) * (each.traffic.duration_s + RUN_OVERHEAD_S)
        for each in scenarios
    ]
    folders = []
    for number, scenario in enumerate(scenarios):
        done, whole = sum(shares[:number]), shares[number]

        def tell(what: str, share: float, done: float = done, whole: float = whole) -> None:
            progress(what, (done + share * whole) / sum(shares))

        where = folder / f"{number:02d}-{scenario.name}"
        run_policies(where, scenario, scenario.problem.policies, make_policy, tell)
        folders.append(where)
    progress("comparing", 1.0)
    return folders


def validate_into(
    folder: Path | None, folders: Sequence[Path], chosen: Chosen
) -> tuple[dict[str, Any], Path]:
    """Validate results folders, write validation.json; its content and where it is.

    Without a folder of its own it goes into the first results folder. Raises InputError.
    """
    where = folder or folders[0]
    content = validate_folders(folders, chosen)
    where.mkdir(parents=True, exist_ok=True)
    write_json(where / "validation.json", content)
    write_page(content, where / "validation.html")
    hand_back(where)
    return content, where / "validation.json"
