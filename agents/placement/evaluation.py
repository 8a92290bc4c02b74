"""An evaluation on the twin: from a scenario to a folder with raw values, summary and page."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from agents.placement.cells import cell_scenario
from agents.placement.policies import BOUNDS, HEURISTICS, LEARNED
from agents.placement.sweep import Row, SweepSpec, contestants_of, sweep
from testbed.records.files import copy, write_json
from testbed.records.revision import git_revision
from testbed.results.evaluation.page import write_page
from testbed.results.evaluation.summary import summarise_evaluation
from testbed.results.evaluation.values import read_values, write_values
from testbed.scenario.endings import Endings
from testbed.scenario.errors import InputError
from testbed.scenario.modelled import words_left_out
from testbed.twin.constants import CostWeights, constants_for

FORMAT = 1
_KEYS = ("scenario", "baseline", "policies", "heuristics", "learned", "bounds")
"""What a summary needs of a manifest."""


def measure(
    path: Path,
    spec: SweepSpec,
    folder: Path,
    progress: Callable[[str, float], None],
    calibration: Mapping[str, Any] | None = None,
) -> None:
    """Evaluate into `folder`, which is there and empty: raw values, manifest and scenario.

    `path` is the scenario's file, `calibration` what is noted of the one of `spec`. The values of a
    cell are written when it is finished, so they are kept whatever becomes of the rest; the
    manifest says if all are there. Raises InputError as `sweep` does.
    """
    manifest = _manifest(spec, calibration)
    write_json(folder / "manifest.json", manifest)
    copy(path, folder / "scenario.yaml")
    rows: list[dict[str, object]] = []
    in_a_cell = spec.streams * len(contestants_of(spec))
    begin = time.monotonic()
    with Endings() as endings:
        endings.add(write_json, folder / "manifest.json", manifest)
        endings.add(lambda: manifest.update(wall_s=round(time.monotonic() - begin, 2)))
        for row in sweep(spec, progress):
            rows.append(row)
            if len(rows) % in_a_cell == 0:
                write_values(rows, folder)
        manifest["complete"] = True


def write_evaluation(folder: Path) -> dict[str, Any]:
    """Write summary.json and evaluation.html from the raw values; the summary.

    Raises InputError for a folder whose manifest or values cannot be read.
    """
    manifest, values = _read(folder)
    summary = summarise_evaluation(values, manifest)
    write_json(folder / "summary.json", summary)
    write_page(folder)
    return summary


def _read(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        values = read_values(folder)
    except (OSError, ValueError):
        manifest, values = None, pd.DataFrame()
    columns = {name.name for name in fields(Row)} - set(values.columns)
    if not isinstance(manifest, dict) or not set(_KEYS) <= set(manifest) or columns:
        expected = "the folder of an evaluation, manifest.json and values.parquet whole in it"
        raise InputError("folder", str(folder), expected)
    return manifest, values


def _manifest(spec: SweepSpec, calibration: Mapping[str, Any] | None) -> dict[str, Any]:
    scenario, baseline = spec.scenario, spec.scenario.problem.baseline
    return {
        "format": FORMAT,
        "scenario": scenario.name,
        "complete": False,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "baseline": baseline if baseline in spec.policies else spec.policies[0],
        "policies": list(spec.policies),
        "heuristics": [name for name in spec.policies if name in HEURISTICS],
        "learned": [name for name in spec.policies if name in LEARNED],
        "bounds": [name for name in spec.policies if name in BOUNDS],
        "loads": list(dict.fromkeys(cell.load for cell in spec.cells)),
        "topologies": list(dict.fromkeys(cell.place for cell in spec.cells)),
        "streams": spec.streams,
        "models": [str(path) for path in spec.models],
        "constants": asdict(constants_for(scenario, spec.calibration)),
        "calibration": calibration,
        "weights": asdict(CostWeights()),
        "left_out": words_left_out(cell_scenario(scenario, cell) for cell in spec.cells),
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.release()}",
    }
