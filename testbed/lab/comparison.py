"""The main job: every policy with every seed, then one summary and one report."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from testbed.decisions.problem import Problem, TrainingJob
from testbed.lab.run import RunSpec, run_one
from testbed.records.files import copy, write_json
from testbed.records.revision import git_revision
from testbed.results.asked import read_asked
from testbed.results.fairness import check_fairness
from testbed.results.folder import hand_back, results_folder
from testbed.results.report.report_page import write_report
from testbed.results.summaries import write_summary
from testbed.scenario.endings import Endings
from testbed.scenario.model import Scenario
from testbed.scenario.modelled import require_modelled
from testbed.substrate.ownership import clean_stale
from testbed.substrate.probe import Backends, Capabilities
from testbed.twin.calibration import Chosen

RUN_OVERHEAD_S = 8.0
TRAIN_S = 30.0
"""First guesses for the time left; the bar corrects itself."""

Progress = Callable[[str, float], None]
"""What is being done, and which share of all is done."""


@dataclass(frozen=True, slots=True)
class ComparisonSpec:
    """What is to be compared.

    path         the scenario's file, of which the results keep a copy
    models       the files of learned policies by name; those that are missing are trained
    host         the calibration of the twin in which what is missing is trained, and what solvers
                 know of the host
    include_invalid     compare runs that are not valid, too
    """

    path: Path
    scenario: Scenario
    problem: Problem
    capabilities: Capabilities
    backends: Backends
    host: Chosen
    models: Mapping[str, Path] = field(default_factory=dict)
    include_invalid: bool = False

    def trained(self) -> list[str]:
        """The policies that have to be trained."""
        among = (name for name in self.problem.learned if name in self.scenario.problem.policies)
        return [name for name in among if name not in self.models]


def compare_policies(
    spec: ComparisonSpec, results: Path | None, say: Callable[[str], None], progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Run, summarise, report; the results folder and the content of its summary.json.

    `say` is told facts in a line each. Runs that are not valid are in no comparison, unless
    `spec.include_invalid`. Raises InputError before anything is built, RunError if a run fails.
    """
    scenario = spec.scenario
    if spec.problem.on_twin & set(spec.trained()):
        require_modelled(scenario)
    for name, model in spec.models.items():
        # A model that is none is told of now.
        spec.problem.make_policy(name, scenario.seeds[0], model)
    for line in clean_stale():
        say(f"left by a run that died: {line}")
    folder = results_folder(results, scenario.name)
    phases: dict[str, float] = {}
    manifest = {**_manifest(scenario, spec.backends), "calibration": spec.host.identity()}
    summary: dict[str, Any] = {}
    with Endings() as endings:
        endings.add(hand_back, folder)
        endings.add(lambda: summary.update(_report(folder, spec.include_invalid)))
        endings.add(_end_manifest, folder, manifest, phases)
        write_json(folder / "manifest.json", manifest)
        copy(spec.path, folder / "scenario.yaml")
        backends = spec.backends
        say(
            f"{scenario.name}: policies {', '.join(scenario.problem.policies)}, seeds "
            f"{', '.join(map(str, scenario.seeds))}; datapath {backends.datapath}, "
            f"links {backends.link}, cgroup {backends.cgroup}"
        )
        _run_all(spec, folder, phases, progress)
        manifest["complete"] = True
    return folder, summary


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
    spec: ComparisonSpec, folder: Path, phases: dict[str, float], progress: Progress
) -> None:
    scenario, trains = spec.scenario, spec.trained()
    run_s = scenario.traffic.duration_s + scenario.traffic.drain_s + RUN_OVERHEAD_S
    total_s = run_s * len(scenario.problem.policies) * len(scenario.seeds) + TRAIN_S * len(trains)
    done_s = 0.0

    def tell(what: str, since_s: float = 0.0) -> None:
        progress(what, (done_s + since_s) / total_s)

    def in_run(what: str, at_s: float) -> None:
        tell(what, RUN_OVERHEAD_S / 2 + at_s)

    models = dict(spec.models)
    for name in trains:
        models[name] = _train(spec, name, folder / "model", tell, phases)
        done_s += TRAIN_S
    for name, model in models.items():
        tell(f"exporting {name}")
        begin = time.monotonic()
        served = spec.problem.served(name, model, folder / "model")
        if served != model:
            phases["export_s"] = time.monotonic() - begin
        models[name] = _kept(name, served, folder / "model")
    for seed in scenario.seeds:
        for policy in scenario.problem.policies:
            what = f"{policy}, seed {seed}"
            tell(what)
            run = RunSpec(
                scenario,
                spec.problem.make_policy,
                policy,
                seed,
                folder / policy / f"seed-{seed}",
                models.get(policy),
                spec.backends,
                spec.capabilities,
                spec.host.calibration,
            )
            begin = time.monotonic()
            run_one(run, functools.partial(in_run, what))
            phases[f"{policy}/seed-{seed}_s"] = time.monotonic() - begin
            done_s += run_s
    progress("done", 1.0)


def _train(
    spec: ComparisonSpec,
    name: str,
    folder: Path,
    tell: Callable[[str, float], None],
    phases: dict[str, float],
) -> Path:
    folder.mkdir(exist_ok=True)
    begin = time.monotonic()
    model = folder / f"{name}.pt"
    report = spec.problem.trainers[name](
        TrainingJob((spec.scenario,), model, calibration=spec.host),
        lambda share: tell(f"training {name}", share * TRAIN_S),
    )
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


def _manifest(scenario: Scenario, backends: Backends) -> dict[str, Any]:
    return {
        "format": 1,
        "scenario": scenario.name,
        "problem": scenario.problem.name,
        "complete": False,
        "run_started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "baseline": scenario.problem.baseline,
        "policies": list(scenario.problem.policies),
        "seeds": list(scenario.seeds),
        "backends": asdict(backends),
        "git_revision": git_revision(),
        "phases": {},
    }
