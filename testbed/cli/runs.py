"""Commands that run and report: `deftbed run`, `compare` and `report`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from agents.problems import problem
from testbed.calibration.choice import choose_calibration
from testbed.cli.options import (
    AsJson,
    Calibrated,
    IncludeInvalid,
    Model,
    Results,
    ScenarioPath,
    console,
    need_root,
)
from testbed.cli.scenario import links_note
from testbed.cli.screens.left_out import print_left_out, print_lines
from testbed.cli.screens.progress import progress_bar
from testbed.cli.training import given_models
from testbed.results.folder import check_new
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_checked
from testbed.scenario.model import Scenario, decided_by
from testbed.scenario.plan import make_plan
from testbed.scenario.problems.deciding import POLICIES


def run(
    scenario: ScenarioPath,
    policy: Annotated[str, typer.Option(help=f"one of {', '.join(POLICIES)}")] = "deft",
    seed: Annotated[int | None, typer.Option(help="[the scenario's first]", min=0)] = None,
    model: Model = None,
    calibration: Calibrated = None,
    results: Results = None,
    as_json: AsJson = False,
) -> None:
    """Carry out one run: one policy, one seed."""
    loaded = load_checked(scenario)
    if policy not in POLICIES:
        raise InputError("--policy", policy, f"one of {', '.join(POLICIES)}")
    chosen = decided_by(loaded, [policy], [loaded.seeds[0] if seed is None else seed])
    models = given_models(chosen, {"--model": (policy, model)})
    _compare(scenario, chosen, models, results, as_json, calibration)


def compare(
    scenario: ScenarioPath,
    model: Model = None,
    dqn_model: Annotated[
        Path | None, typer.Option(help="the same for `dqn`; --model is that of `ppo`")
    ] = None,
    calibration: Calibrated = None,
    results: Results = None,
    include_invalid: IncludeInvalid = False,
    as_json: AsJson = False,
) -> None:
    """Run every policy with every seed on the same requests, packets and faults, and compare."""
    loaded = load_checked(scenario)
    given = {"--model": ("ppo", model), "--dqn-model": ("dqn", dqn_model)}
    models = given_models(loaded, given)
    _compare(scenario, loaded, models, results, as_json, calibration, include_invalid)


def report(
    results: Annotated[Path, typer.Argument(help="a results folder, e.g. results/latest")],
    include_invalid: IncludeInvalid = False,
    as_json: AsJson = False,
) -> None:
    """Compute the summary and the report anew from the packets and events of a results folder."""
    from testbed.cli.screens.comparison_screen import print_summary
    from testbed.lab.comparison import write_results

    if not (results / "manifest.json").is_file():
        raise InputError("results", str(results), "a results folder with a manifest.json")
    summary = write_results(results, include_invalid)
    if as_json:
        print(json.dumps(summary))
    else:
        print_summary(summary, results)


def _compare(
    path: Path,
    scenario: Scenario,
    models: dict[str, Path],
    results: Path | None,
    as_json: bool,
    calibration: Path | None,
    include_invalid: bool = False,
) -> None:
    check_new(results)
    need_root("run an emulation")
    from testbed.cli.screens.comparison_screen import print_summary
    from testbed.lab.comparison import ComparisonSpec, compare_policies
    from testbed.substrate.backend_choice import able_host

    capabilities, backends = able_host(scenario)
    decided = problem(scenario.problem.name)
    host = choose_calibration(calibration, asdict(backends))
    spec = ComparisonSpec(
        path, scenario, decided, capabilities, backends, host, models, include_invalid
    )
    if decided.on_twin & set(spec.trained()):
        print_left_out(console, [scenario])
    host_counts = decided.calibrated & set(scenario.problem.policies)
    print_lines(console, host.lines() if host_counts else [])
    plans = (make_plan(scenario, seed) for seed in scenario.seeds)
    print_lines(console, filter(None, [links_note(scenario, plans)]))
    with progress_bar(console) as progress:
        folder, summary = compare_policies(
            spec, results, lambda line: console.print(line, markup=False), progress
        )
    if as_json:
        print(json.dumps({**summary, "results": str(folder)}))
    else:
        print_summary(summary, folder)
