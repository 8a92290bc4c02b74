"""Computes the summary of a comparison from the recorded packets and events alone.

`summary.json` and `summary.csv` have an entry for each run; `metrics.csv` has a line for each run,
chain and flow, and `<policy>/seed-<n>/metrics.json` the same with notes (see `results.metrics`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from testbed.records.files import whole, write_json
from testbed.records.raw import RawFormatError
from testbed.records.run_records import PACKETS, RunRecords, read_records
from testbed.results.application_figures import read_applications
from testbed.results.asked import read_asked
from testbed.results.metrics import FORMAT as METRICS_FORMAT
from testbed.results.metrics import flat, measure, measure_all, of_packets
from testbed.results.run_summary import summarise
from testbed.statistics import paired_comparison as statistics
from testbed.statistics.quantiles import PERCENTILES

FORMAT = 2
GREEDY, LEARNED = "greedy-delay", "ppo"

Run = Mapping[str, Any]

FIGURES: dict[str, Callable[[Run], float | None]] = {
    "latency_p50": lambda run: run["latency_ns"]["p50"],
    "latency_p99": lambda run: run["latency_ns"]["p99"],
    "lost": lambda run: run["lost"],
    "goodput": lambda run: run["goodput_bps"],
    "overload": lambda run: run["overload_s"],
}
"""What is compared, and where it stands in the summary of a run."""


def compare(
    runs: Mapping[str, Sequence[Run]], baseline: str, include_invalid: bool = False
) -> dict[str, dict[str, Any]]:
    """Each policy against the baseline, and the learned one against the greedy one.

    `runs` gives for each policy the summaries of its runs. Runs are paired by seed; a seed that
    only one of the two has, or whose figure is null in one, is left out, and so is one whose run
    is not valid in one, unless `include_invalid`. The result maps "ppo vs deft" to
    {figure: `statistics.Comparison` as JSON}, corrected over all figures and pairs of policies.
    "seeds" in it has the two values of each seed: [{"seed", "treated", "baseline"}].
    """
    if not include_invalid:
        runs = {policy: [run for run in each if run["valid"]] for policy, each in runs.items()}
    pairs = [(policy, baseline) for policy in runs if policy != baseline and baseline in runs]
    if LEARNED in runs and GREEDY in runs and (LEARNED, GREEDY) not in pairs:
        pairs.append((LEARNED, GREEDY))
    seeds = {
        (policy, other, name): _paired(runs[policy], runs[other], value)
        for policy, other in pairs
        if policy != other
        for name, value in FIGURES.items()
    }
    found = statistics.corrected({key: _compared(each) for key, each in seeds.items()})
    entries: dict[str, dict[str, Any]] = {}
    for (policy, other, name), each in found.items():
        entry = {**each.to_json(), "seeds": seeds[policy, other, name]}
        entries.setdefault(f"{policy} vs {other}", {})[name] = entry
    return entries


def _paired(
    treated: Sequence[Run], baseline: Sequence[Run], value: Callable[[Run], float | None]
) -> list[dict[str, float]]:
    ours = {run["seed"]: value(run) for run in treated}
    theirs = {run["seed"]: value(run) for run in baseline}
    return [
        {"seed": seed, "treated": mine, "baseline": other}
        for seed in sorted(ours.keys() & theirs.keys())
        if (mine := ours[seed]) is not None and (other := theirs[seed]) is not None
    ]


def _compared(seeds: Sequence[Mapping[str, float]]) -> statistics.Comparison:
    """One cell, one run for each seed."""
    ours, theirs = (
        np.array([each[side] for each in seeds], np.float64).reshape(1, 1, -1)
        for side in ("treated", "baseline")
    )
    return statistics.compare(ours, theirs)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the summary takes from one run."""

    run: dict[str, Any]
    rows: pd.DataFrame
    scopes: list[dict[str, Any]]
    reasons: list[str]


def write_summary(
    results_dir: Path, include_invalid: bool = False, unfair: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write summary.json and the files beside it (see above); the content of summary.json.

    Reads <policy>/seed-<n>/{manifest.json, packets.parquet, events.jsonl} and, for what was to be
    run, manifest.json beside the policies. "valid" is false, and "reasons" says why, if a run is
    not valid or is missing or torn, or if `unfair`, the manifest's by default, names differences
    between the sides. "left_out" names the runs that are not valid and so in no comparison; with
    `include_invalid` only those whose records cannot be read. Raises RawFormatError if there is
    neither a manifest nor a run.
    """
    plan, torn = read_asked(results_dir)
    runs: dict[str, list[dict[str, Any]]] = {}
    merged: dict[str, list[pd.DataFrame]] = {}
    lines: list[dict[str, Any]] = []
    reasons = [] if torn is None else [torn]
    unfair = plan.get("unfair", []) if unfair is None else unfair
    reasons += [f"not fair: {difference}" for difference in unfair]
    left_out = []
    for policy in plan["policies"]:
        for seed in plan["seeds"]:
            name = f"{policy}, seed {seed}"
            entry = _entry(results_dir / policy / f"seed-{seed}")
            if isinstance(entry, str):
                reasons.append(f"{name}: {entry}")
                left_out.append(name)
                continue
            runs.setdefault(policy, []).append(entry.run)
            merged.setdefault(policy, []).append(entry.rows)
            lines += [{"policy": policy, "seed": seed, **flat(scope)} for scope in entry.scopes]
            if not entry.run["valid"]:
                if not include_invalid:
                    left_out.append(name)
                reasons += [f"{name}: {reason}" for reason in entry.reasons]
    summary = {
        "format": FORMAT,
        "scenario": plan["scenario"],
        "valid": not reasons,
        "reasons": reasons,
        "baseline": plan["baseline"],
        "policies": {
            policy: {"runs": entries, "metrics": measure(pd.concat(merged[policy]))}
            for policy, entries in runs.items()
        },
        "left_out": left_out,
        "comparison": compare(runs, plan["baseline"], include_invalid),
    }
    write_json(results_dir / "summary.json", summary)
    _write_csv(results_dir / "summary.csv", _lines(runs), "policy")
    _write_csv(results_dir / "metrics.csv", lines, "policy")
    return summary


def _entry(run_dir: Path) -> _Entry | str:
    """The figures of a run, whose metrics.json is written; why there are none, in words."""
    if not run_dir.exists():
        return "not run"
    try:
        records = read_records(run_dir)
        if records.manifest.get("valid") is None or "reasons" not in records.manifest:
            raise RawFormatError(f"{run_dir}/manifest.json: valid", None, "true or false, and why")
        if not records.has_packets:
            return f"not run, or cut short before it had packets ({run_dir} has no {PACKETS})"
        scopes = measure_all(records.packets)
        write_json(run_dir / "metrics.json", {"format": METRICS_FORMAT, "scopes": scopes})
        run = summarise_records(run_dir, records)
    except (RawFormatError, OSError) as error:
        return f"its records cannot be read: {error}"
    return _Entry(run, of_packets(records.packets), scopes, list(records.manifest["reasons"]))


def summarise_records(run_dir: Path, records: RunRecords) -> dict[str, Any]:
    """The summary of a run, from its packets and events and from what its applications wrote."""
    summary = summarise(records.packets, records.events, records.manifest)
    applications = records.manifest.get("applications", [])
    return {**summary, "applications": read_applications(run_dir, applications)}


def _lines(runs: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
    """One line a run; recovery times stand in one field, with blanks between them."""
    rows = []
    for policy, entries in runs.items():
        for run in entries:
            row = {"policy": policy, **run}
            latency = row.pop("latency_ns")
            recovery = row.pop("recovery_ns")
            metrics = flat(row.pop("metrics"))
            del row["applications"]
            row |= {f"latency_{name}_ns": latency[name] for name in PERCENTILES}
            row["recovery_ns"] = " ".join(map(str, recovery))
            rows.append(row | {key: metrics[key] for key in metrics if key not in row})
    return rows


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], first: str) -> None:
    """A line for each row, whose columns are those of all rows; `first` if there are none."""
    columns = list(dict.fromkeys(column for row in rows for column in row)) or [first]
    with whole(path) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
