"""report.html of a comparison: one file, no network, every figure from summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from testbed.records.files import write_text
from testbed.results.report import plots_comparison, plots_map, plots_metrics, plots_time
from testbed.results.report.application_rows import application_rows
from testbed.results.report.findings import findings, foundation, headline, sentence
from testbed.results.report.metric_tables import metrics_content
from testbed.results.report.plot_style import slot
from testbed.results.report.read_results import Json, Results, RunFolder, gather
from testbed.results.report.table_columns import COLUMNS, spread

TEMPLATES = Path(__file__).parents[1] / "templates"
RAW_FILES = (
    "packets.parquet",
    "events.jsonl",
    "servers.parquet",
    "manifest.json",
    "summary.json",
    "metrics.json",
)


def write_report(results_dir: Path) -> Path:
    """Write report.html into a results folder; its path.

    Reads summary.json, manifest.json and scenario.yaml of the folder, and manifest.json,
    packets.parquet, events.jsonl and servers.parquet of each <policy>/seed-<n>. What a run that
    was cut short lacks is named in the report. Raises FileNotFoundError without summary.json.
    """
    results = gather(results_dir)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("report.html.j2").render(_content(results))
    path = results_dir / "report.html"
    write_text(path, text)
    return path


def _content(results: Results) -> dict[str, Any]:
    summary = results.summary
    found = {pair: findings(entry) for pair, entry in summary.get("comparison", {}).items()}
    done = sum(len(results.summaries(policy)) for policy in results.policies)
    problems = _problems(results)
    return {
        "css": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "scenario": summary.get("scenario", results.folder.name),
        "manifest": results.manifest,
        "headline": headline(found, not problems, done),
        "sentences": [sentence(pair, each) for pair, each in found.items()],
        "problems": problems,
        "foundation": foundation(found) if found else None,
        "runs_done": done,
        "columns": COLUMNS,
        "policies": results.policies,
        "slots": {policy: slot(results.policies, policy) for policy in results.policies},
        "policy_rows": [_policy_row(results, policy) for policy in results.policies],
        "run_rows": [row for policy in results.policies for row in _run_rows(results, policy)],
        "findings": found,
        "forest": _picture(plots_comparison.forest(found, results.policies)),
        "maps": [(policy, Markup(svg)) for policy, svg in plots_map.maps(results)],
        "tails": _picture(plots_comparison.latency_tails(results)),
        "over_time": _picture(plots_time.over_time(results)),
        "load": _picture(plots_time.server_load(results)),
        "recovery": _picture(plots_comparison.recovery(results)),
        "metrics": metrics_content(results),
        "applications": application_rows(results),
        "percentiles": _picture(plots_metrics.percentiles(results)),
        "hops": _picture(plots_metrics.hops(results)),
        "phases": _phases(results),
        "facts": _facts(results),
        "unfair": results.manifest.get("unfair"),
        "files": _files(results),
        "scenario_text": results.scenario_text,
    }


def _picture(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)


def _problems(results: Results) -> list[str]:
    """Why the comparison is not valid; empty if it is."""
    problems = []
    if not results.manifest.get("complete", True):
        problems.append("the comparison was cut short: what follows is incomplete")
    problems += results.summary.get("reasons", [])
    if not results.summary.get("valid", False) and not problems:
        problems.append("the summary says so without a reason")
    for run in results.runs:
        # A run without packets stands among the summary's reasons already.
        gone = [name for name in run.lacking if name != "packets.parquet"]
        if gone:
            problems.append(f"{run.policy}, seed {run.seed}: missing {', '.join(gone)}")
    return problems


def _policy_row(results: Results, policy: str) -> dict[str, Any]:
    runs = results.summaries(policy)
    cells = []
    for column in COLUMNS:
        found = spread(column, runs)
        if found is None:
            cells.append({"key": column.key, "mean": column.text(None), "range": ""})
            continue
        mean, low, high = found
        several = len(runs) > 1
        text = f"{column.text(low)} – {column.text(high)}" if several else ""
        cells.append({"key": column.key, "mean": column.text(mean), "range": text})
    return {"policy": policy, "runs": len(runs), "cells": cells}


def _run_rows(results: Results, policy: str) -> list[dict[str, Any]]:
    return [
        {
            "policy": policy,
            "seed": run["seed"],
            "valid": run["valid"],
            "cells": [
                {"key": column.key, "text": column.text(column.value(run))} for column in COLUMNS
            ],
        }
        for run in results.summaries(policy)
    ]


def _phases(results: Results) -> list[dict[str, Any]]:
    """The wall time of each phase, with the share of the longest for a bar."""
    phases: Mapping[str, float] = results.manifest.get("phases", {})
    longest = max(phases.values(), default=0.0)
    return [
        {
            "name": name.removesuffix("_s").replace("/", ", ").replace("seed-", "seed "),
            "seconds": seconds,
            "percent": 100 * seconds / longest if longest else 0.0,
            "policy": name.partition("/")[0],
        }
        for name, seconds in phases.items()
    ]


def _facts(results: Results) -> list[tuple[str, str]]:
    """What the figures depend on, from the manifests."""
    top, run = results.manifest, _any_manifest(results.runs)
    backends = run.get("backends") or top.get("backends") or {}
    facts = {
        "started": top.get("run_started"),
        "git revision": top.get("git_revision"),
        "seeds": ", ".join(map(str, top.get("seeds", []))),
        "back ends": ", ".join(f"{key} {value}" for key, value in backends.items()),
        "capacity model": run.get("capacity_model"),
        "replication": ", ".join(f"{k} {v}" for k, v in (run.get("replication") or {}).items()),
        "kernel": run.get("kernel"),
        "Python": run.get("python"),
        "cores of the host": run.get("cores"),
        "versions": ", ".join(f"{k} {v}" for k, v in (run.get("versions") or {}).items()),
    }
    digests = {each.seed: each.manifest.get("plan_digest") for each in results.runs}
    for seed, digest in digests.items():
        if digest:
            facts[f"plan of seed {seed}"] = f"SHA-256 {digest[:16]}…"
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _any_manifest(runs: Sequence[RunFolder]) -> Json:
    return next((run.manifest for run in runs if run.manifest), {})


def _files(results: Results) -> list[tuple[str, list[str]]]:
    """Raw files by relative path, for the folder itself and for each run."""
    own = ("summary.json", "summary.csv", "metrics.csv", "manifest.json", "scenario.yaml")
    groups = [("all runs", [name for name in own if (results.folder / name).is_file()])]
    for run in results.runs:
        paths = [f"{run.path}/{name}" for name in RAW_FILES]
        there = [path for path in paths if (results.folder / path).is_file()]
        groups.append((f"{run.policy}, seed {run.seed}", there))
    return groups
