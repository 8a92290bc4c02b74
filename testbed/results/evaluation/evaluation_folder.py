"""The folder of an evaluation: raw values, manifest, summary and page."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.decisions.contest import Contest, contest_of
from testbed.decisions.evaluation_job import Progress, Sweep
from testbed.records.files import copy, write_json
from testbed.records.revision import git_revision
from testbed.results.evaluation.page import write_page
from testbed.results.evaluation.summary import summarise_evaluation
from testbed.results.evaluation.values import CELL, read_values, write_values
from testbed.scenario.endings import Endings
from testbed.scenario.errors import InputError

FORMAT = 2
"""Of format 1 the problem is placement, and the manifest has no contest."""
_KEYS = ("scenario", "baseline", "policies", "heuristics", "learned", "bounds")
"""What a summary needs of a manifest."""


def measure(
    path: Path, problem: str, sweep: Sweep, contest: Contest, folder: Path, progress: Progress
) -> None:
    """Evaluate into `folder`, which is there and empty: raw values, manifest and scenario.

    `path` is the scenario's file. The values of a cell are written when it is finished, so they are
    kept whatever becomes of the rest; the manifest says if all are there.
    """
    manifest = {**_manifest(path, problem, sweep), "contest": contest.to_json()}
    write_json(folder / "manifest.json", manifest)
    copy(path, folder / "scenario.yaml")
    rows: list[Mapping[str, Any]] = []
    in_a_cell = sweep.streams * len(sweep.contestants)
    begin = time.monotonic()
    with Endings() as endings:
        endings.add(write_json, folder / "manifest.json", manifest)
        endings.add(lambda: manifest.update(wall_s=round(time.monotonic() - begin, 2)))
        for row in sweep.rows(progress):
            rows.append(row)
            if len(rows) % in_a_cell == 0:
                write_values(rows, folder)
        manifest["complete"] = True


def write_evaluation(folder: Path, older: Contest) -> tuple[dict[str, Any], Contest]:
    """Write summary.json and evaluation.html from the raw values; the summary, and its contest.

    `older` is the contest of a folder whose manifest has none. Raises InputError for a folder whose
    manifest or values cannot be read.
    """
    manifest, values, contest = _read(folder, older)
    summary = summarise_evaluation(values, manifest, contest)
    write_json(folder / "summary.json", summary)
    write_page(folder, contest)
    return summary, contest


def _read(folder: Path, older: Contest) -> tuple[dict[str, Any], pd.DataFrame, Contest]:
    expected = "the folder of an evaluation, manifest.json and values.parquet whole in it"
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        values = read_values(folder)
        contest = contest_of(manifest["contest"]) if "contest" in manifest else older
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("folder", str(folder), expected) from error
    columns = {"policy", *CELL, "stream", "model", *(figure.key for figure in contest.figures)}
    if not set(_KEYS) <= set(manifest) or columns - set(values.columns):
        raise InputError("folder", str(folder), expected)
    return manifest, values, contest


def _manifest(path: Path, problem: str, sweep: Sweep) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "problem": problem,
        "complete": False,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "baseline": sweep.baseline,
        "policies": list(sweep.policies),
        "heuristics": list(sweep.heuristics),
        "learned": list(sweep.learned),
        "bounds": list(sweep.bounds),
        "loads": list(dict.fromkeys(load for _, load in sweep.cells)),
        "topologies": list(dict.fromkeys(place for place, _ in sweep.cells)),
        "streams": sweep.streams,
        "models": [str(model) for model in sweep.models],
        **sweep.facts,
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.release()}",
    }
