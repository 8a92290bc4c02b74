"""An evaluation on the twin: from a scenario to a folder with raw values, summary and page."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agents.placement.policies import BOUNDS, HEURISTICS, LEARNED
from agents.placement.sweep import SweepSpec, sweep
from testbed.records.files import copy, write_json
from testbed.results.evaluation.page import write_page
from testbed.results.evaluation.summary import summarise_evaluation
from testbed.results.evaluation.values import read_values, write_values
from testbed.revision import git_revision
from testbed.scenario.endings import Endings
from testbed.twin.constants import CostWeights, constants_for

FORMAT = 1


def run_evaluation(
    path: Path, spec: SweepSpec, folder: Path, progress: Callable[[str, float], None]
) -> dict[str, Any]:
    """Evaluate into `folder`, which is there and empty; the content of its summary.json.

    `path` is the scenario's file. If the evaluation is interrupted, the cells that were finished
    are kept, marked incomplete. Raises InputError as `sweep` does.
    """
    manifest = _manifest(spec)
    write_json(folder / "manifest.json", manifest)
    copy(path, folder / "scenario.yaml")
    rows: list[dict[str, object]] = []
    begin = time.monotonic()
    with Endings() as endings:
        endings.add(_keep, folder, spec, rows)
        endings.add(write_json, folder / "manifest.json", manifest)
        endings.add(lambda: manifest.update(wall_s=round(time.monotonic() - begin, 2)))
        for row in sweep(spec, progress):
            rows.append(row)
        manifest["complete"] = True
    return write_evaluation(folder)


def _keep(folder: Path, spec: SweepSpec, rows: list[dict[str, object]]) -> None:
    kept = _finished(rows, spec)
    if kept:
        write_values(kept, folder)


def write_evaluation(folder: Path) -> dict[str, Any]:
    """Write summary.json and evaluation.html from the raw values; the summary."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    summary = summarise_evaluation(read_values(folder), manifest)
    write_json(folder / "summary.json", summary)
    write_page(folder)
    return summary


def _finished(rows: list[dict[str, object]], spec: SweepSpec) -> list[dict[str, object]]:
    """The rows of the cells that have all of theirs."""
    learned = sum(policy in LEARNED for policy in spec.policies)
    each = spec.streams * (len(spec.policies) - learned + learned * len(spec.models))
    return rows[: len(rows) // each * each]


def _manifest(spec: SweepSpec) -> dict[str, Any]:
    scenario = spec.scenario
    return {
        "format": FORMAT,
        "scenario": scenario.name,
        "complete": False,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "baseline": scenario.baseline if scenario.baseline in spec.policies else spec.policies[0],
        "policies": list(spec.policies),
        "heuristics": [name for name in spec.policies if name in HEURISTICS],
        "learned": [name for name in spec.policies if name in LEARNED],
        "bounds": [name for name in spec.policies if name in BOUNDS],
        "loads": list(dict.fromkeys(cell.load for cell in spec.cells)),
        "topologies": list(dict.fromkeys(cell.place for cell in spec.cells)),
        "streams": spec.streams,
        "models": [str(path) for path in spec.models],
        "constants": asdict(constants_for(scenario, spec.calibration)),
        "calibration": None if spec.calibration is None else spec.calibration.identity(),
        "weights": asdict(CostWeights()),
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.release()}",
    }
