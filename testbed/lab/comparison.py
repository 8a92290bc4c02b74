"""The main job: every policy with every seed, then one summary and one report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from agents.common.training import TrainingJob, run_training
from agents.placement.policies import make_policy
from testbed.calibration.calibrate import Chosen, choose_calibration
from testbed.cli.screens.left_out import print_left_out, print_lines
from testbed.cli.screens.summary import progress_bar
from testbed.lab.run import RunSpec, run_one
from testbed.records.files import copy, write_json
from testbed.records.revision import git_revision
from testbed.results.asked import read_asked
from testbed.results.fairness import check_fairness
from testbed.results.folder import hand_back, results_folder
from testbed.results.report.page import write_report
from testbed.results.summaries import write_summary
from testbed.scenario.endings import Endings
from testbed.scenario.link_plan import SURELY_CARRIED_BPS, fastest_bps
from testbed.scenario.model import Scenario
from testbed.scenario.modelled import require_modelled
from testbed.scenario.plan import make_plan
from testbed.substrate.choice import able_host
from testbed.substrate.greatest_rate import rate_note
from testbed.substrate.ownership import clean_stale
from testbed.substrate.probe import Backends, Capabilities

RUN_OVERHEAD_S = 5.0
TRAIN_S = 45.0
"""First guesses for the time left; the bar corrects itself."""
LEARNED = ("ppo", "dqn")
CALIBRATED = ("ppo", "milp", "milp-hindsight")
"""Policies in which the constants of the host play a part."""
Models = Mapping[str, Path]
"""The files of learned policies by name; those that are missing are trained."""


def compare_policies(
    path: Path,
    scenario: Scenario,
    models: Models,
    results: Path | None,
    console: Console,
    include_invalid: bool = False,
    calibration: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Run, summarise, report; the results folder and the content of its summary.json.

    Runs that are not valid are in no comparison, unless `include_invalid`.

    The twin in which what is not given is trained, and what solvers know of the host, has the
    `calibration` that the option of that name chooses.

    Raises InputError before anything is built, RunError if a run fails.
    """
    capabilities, backends = able_host(scenario)
    host = choose_calibration(calibration, asdict(backends))
    if "ppo" in scenario.policies and "ppo" not in models:
        require_modelled(scenario)
        print_left_out(console, [scenario])
    print_lines(console, host.lines() if set(CALIBRATED) & set(scenario.policies) else [])
    for name, model in models.items():
        make_policy(name, scenario.seeds[0], model)  # a model that is none is told of now
    for line in clean_stale():
        console.print(f"left by a run that died: {line}", markup=False)
    folder = results_folder(results, scenario.name)
    phases: dict[str, float] = {}
    manifest = {**_manifest(scenario, backends), "calibration": host.identity()}
    summary: dict[str, Any] = {}
    with Endings() as endings:
        endings.add(hand_back, folder)
        endings.add(lambda: summary.update(_report(folder, include_invalid)))
        endings.add(_end_manifest, folder, manifest, phases)
        write_json(folder / "manifest.json", manifest)
        copy(path, folder / "scenario.yaml")
        console.print(
            f"{scenario.name}: policies {', '.join(scenario.policies)}, seeds "
            f"{', '.join(map(str, scenario.seeds))}; datapath {backends.datapath}, "
            f"links {backends.link}, cgroup {backends.cgroup}"
        )
        _tell_fast_links(scenario, backends, console)
        _run_all(folder, scenario, models, backends, capabilities, phases, console, host)
        manifest["complete"] = True
    return folder, summary


def _tell_fast_links(scenario: Scenario, backends: Backends, console: Console) -> None:
    wanted_bps = fastest_bps(make_plan(scenario, seed) for seed in scenario.seeds)
    if wanted_bps > SURELY_CARRIED_BPS:
        note = rate_note(wanted_bps, backends, scenario.tolerances)
        if note is not None:
            console.print(note, style="yellow", markup=False, soft_wrap=True)


def _end_manifest(folder: Path, manifest: dict[str, Any], phases: Mapping[str, float]) -> None:
    manifest["phases"] = {name: round(value, 2) for name, value in phases.items()}
    write_json(folder / "manifest.json", manifest)


def _report(folder: Path, include_invalid: bool) -> dict[str, Any]:
    """`write_results`, and how long it took, if anything was measured."""
    if not any(folder.glob("*/seed-*/packets.parquet")):
        return {}
    begin = time.monotonic()
    summary = write_results(folder, include_invalid)
    _note_phase(folder, "report_s", time.monotonic() - begin)
    return summary


def write_results(folder: Path, include_invalid: bool = False) -> dict[str, Any]:
    """Write summary.json, summary.csv and report.html from the recorded packets and events."""
    manifest, torn = read_asked(folder)
    unfair = check_fairness(folder)
    if torn is None:
        write_json(folder / "manifest.json", {**manifest, "unfair": unfair})
    summary = write_summary(folder, include_invalid, unfair)
    write_report(folder)
    return summary


def _note_phase(folder: Path, name: str, seconds: float) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["phases"][name] = round(seconds, 2)
    write_json(folder / "manifest.json", manifest)


def _run_all(
    folder: Path,
    scenario: Scenario,
    given: Models,
    backends: Backends,
    capabilities: Capabilities,
    phases: dict[str, float],
    console: Console,
    host: Chosen,
) -> None:
    trains = [name for name in LEARNED if name in scenario.policies and name not in given]
    run_s = scenario.traffic.duration_s + scenario.traffic.drain_s + RUN_OVERHEAD_S
    total_s = run_s * len(scenario.policies) * len(scenario.seeds) + TRAIN_S * len(trains)
    models = dict(given)
    with progress_bar(console) as bar:
        task = bar.add_task("", total=total_s)
        done_s = 0.0
        for name in trains:
            bar.update(task, description=f"training {name}")
            advance = partial(_advance_share, bar, task, done_s)
            models[name] = _train(name, scenario, folder / "model", advance, phases, host)
            done_s += TRAIN_S
        if "ppo" in scenario.policies and models["ppo"].suffix != ".onnx":
            from agents.placement.export import served_file

            bar.update(task, description="exporting ppo", completed=done_s)
            begin = time.monotonic()
            models["ppo"] = served_file(models["ppo"], folder / "model")
            phases["export_s"] = time.monotonic() - begin
        models = {name: _kept(name, model, folder / "model") for name, model in models.items()}
        for seed in scenario.seeds:
            for policy in scenario.policies:
                bar.update(task, description=f"{policy}, seed {seed}", completed=done_s)
                spec = RunSpec(
                    scenario,
                    policy,
                    seed,
                    folder / policy / f"seed-{seed}",
                    models.get(policy),
                    backends,
                    capabilities,
                    host.calibration,
                )
                begin = time.monotonic()
                run_one(spec, partial(_advance, bar, task, done_s + RUN_OVERHEAD_S / 2))
                phases[f"{policy}/seed-{seed}_s"] = time.monotonic() - begin
                done_s += run_s
        bar.update(task, completed=total_s, description="done")


def _train(
    name: str,
    scenario: Scenario,
    folder: Path,
    progress: Callable[[float], None],
    phases: dict[str, float],
    host: Chosen,
) -> Path:
    folder.mkdir(exist_ok=True)
    begin = time.monotonic()
    model = folder / f"{name}.pt"
    report = run_training(name, TrainingJob((scenario,), model, calibration=host), progress)
    write_json(folder / f"training-{name}.json", report)
    phases[f"train_{name}_s"] = time.monotonic() - begin
    return model


def _kept(policy: str, model: Path, folder: Path) -> Path:
    """A copy of a policy's model among the results, so that its runs can be repeated.

    What was trained or exported into `folder` is there. Another model may have the same name.
    """
    if model.parent == folder:
        return model
    folder.mkdir(exist_ok=True)
    kept = folder / model.name
    if kept.exists():
        kept = folder / f"{policy}-{model.name}"
    copy(model, kept)
    return kept


def _advance_share(bar: Progress, task: TaskID, start_s: float, share: float) -> None:
    bar.update(task, completed=start_s + share * TRAIN_S)


def _advance(bar: Progress, task: TaskID, start_s: float, at_s: float) -> None:
    bar.update(task, completed=start_s + at_s)


def _manifest(scenario: Scenario, backends: Backends) -> dict[str, Any]:
    return {
        "format": 1,
        "scenario": scenario.name,
        "complete": False,
        "run_started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "baseline": scenario.baseline,
        "policies": list(scenario.policies),
        "seeds": list(scenario.seeds),
        "backends": asdict(backends),
        "git_revision": git_revision(),
        "phases": {},
    }
