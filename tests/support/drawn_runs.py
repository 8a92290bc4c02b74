"""Drawn scenarios that are carried out: those that are done in a few seconds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from testbed.scenario.errors import InputError
from testbed.scenario.load import parse_scenario
from testbed.scenario.model import Scenario
from testbed.scenario.plan import make_plan
from tests.support.command import deftbed
from tests.support.scenario_drawn import SMALL

LONGEST_S = 12.0
MOST_NODES, MOST_REQUESTS, MOST_PPS = 8, 6, 2000.0
QUICK = {"deft", "random", "round-robin", "first-fit", "best-fit", "greedy-delay", "pl-rank"}
"""Policies that need neither a training nor a solver."""


def soon_done(data: dict[str, Any]) -> bool:
    """Whether a scenario is valid and its runs are short and small; two runs at most."""
    if data == SMALL:
        return False
    try:
        scenario = parse_scenario(yaml.safe_dump(data))
        plans = [make_plan(scenario, seed) for seed in scenario.seeds]
    except InputError:
        return False
    return _is_small(scenario) and all(
        len(plan.topology.nodes) <= MOST_NODES
        and len(plan.requests) <= MOST_REQUESTS
        and sum(request.rate_pps for request in plan.requests) <= MOST_PPS
        for plan in plans
    )


def _is_small(scenario: Scenario) -> bool:
    return (
        set(scenario.problem.policies) <= QUICK
        and len(scenario.problem.policies) * len(scenario.seeds) <= 2
        and scenario.traffic.duration_s + scenario.traffic.drain_s <= LONGEST_S
    )


def carried_out(data: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """`deftbed compare` of a drawn scenario into `folder`/results."""
    path = folder / "drawn.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return deftbed("compare", str(path), "--results", str(folder / "results"), "--json")


def check_carried_out(
    data: dict[str, Any], done: subprocess.CompletedProcess[str], folder: Path
) -> None:
    """All of its runs are complete and reported; or this host cannot, and nothing is built."""
    results = folder / "results"
    if done.returncode == InputError.exit_status:
        assert not results.exists(), done.stderr
        return
    assert done.returncode == 0, (done.stderr, data)
    summary = json.loads(done.stdout)
    scenario = parse_scenario(yaml.safe_dump(data))
    assert set(summary["policies"]) == set(scenario.problem.policies)
    assert (results / "report.html").is_file()
    for policy in scenario.problem.policies:
        for seed in scenario.seeds:
            run = results / policy / f"seed-{seed}"
            assert json.loads((run / "manifest.json").read_text())["complete"], (policy, seed)
            assert (run / "packets.parquet").is_file()
