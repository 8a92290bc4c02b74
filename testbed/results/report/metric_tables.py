"""The tables of the report's section on packet metrics."""

from __future__ import annotations

from typing import Any

from testbed.results.report.metric_columns import METRIC_COLUMNS
from testbed.results.report.read_results import Json, Results, RunFolder


def metrics_content(results: Results) -> dict[str, Any] | None:
    """Rows for each policy, each run and each chain; None if the summary has no metrics."""
    policies = results.summary.get("policies", {})
    if not any("metrics" in entry for entry in policies.values()):
        return None
    return {
        "columns": METRIC_COLUMNS,
        "policies": [
            _row(policy, _seeds(len(entry["runs"])), entry["metrics"], policy)
            for policy, entry in policies.items()
            if "metrics" in entry
        ],
        "details": [
            (f"{run.policy}, seed {run.seed}", [_scope_row(entry, run) for entry in run.metrics])
            for run in results.runs
            if run.metrics
        ],
        "order": [
            order_note(policy, run)
            for policy, entry in policies.items()
            for run in entry["runs"]
            if run["reordered"] or run.get("overtaken")
        ],
    }


def order_note(policy: str, run: Json) -> str:
    """Where the packets of a run that came out of order were overtaken, in words."""
    late, overtaken = run["reordered"], run.get("overtaken")
    begin = f"{policy}, seed {run['seed']}: {late} of {run['received']} packets out of order; "
    if overtaken is None:
        return begin + "where they were overtaken was not noted."
    rest = late - overtaken
    network = f"{overtaken} overtaken in the network after the last function"
    if rest == 0:
        return f"{begin}{network}, none by a function."
    word = "more" if rest > 0 else "fewer"
    return f"{begin}{network}, {abs(rest)} {word} in the end: a function's doing, or a host's."


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds together"


def _scope_row(entry: Json, run: RunFolder) -> dict[str, Any]:
    name = {
        "run": "all chains",
        "chain": f"chain {entry.get('chain')}, {entry.get('sfc')}",
        "flow": f"\u2003flow {entry.get('flow')}",
    }[entry["scope"]]
    keys = [str(entry[key]) for key in ("chain", "flow") if key in entry]
    return _row(name, "", entry, "/".join([run.policy, str(run.seed), *keys]))


def _row(name: str, below: str, entry: Json, key: str) -> dict[str, Any]:
    cells = []
    for column in METRIC_COLUMNS:
        text, note = column.text(entry)
        cells.append({"key": f"metrics/{key}/{column.key}", "text": text, "note": note})
    return {"name": name, "below": below, "policy": key, "cells": cells}
