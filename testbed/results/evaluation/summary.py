"""summary.json of an evaluation, from its raw values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd

from testbed.decisions.contest import Contest, Figure
from testbed.results.evaluation.values import CELL, FloatArray, table_of
from testbed.statistics.jackknife import NOTHING, estimate, interquartile_means
from testbed.statistics.paired_comparison import Comparison, compare, corrected

FORMAT = 2
KEPT = ("scenario", "baseline", "policies", "learned", "bounds")
"""What is the same in manifest and summary."""
BEST = "best heuristic"
"""What the cells' best heuristics are called where all cells are compared together."""

Json = dict[str, Any]


def summarise_evaluation(
    frame: pd.DataFrame, manifest: Mapping[str, Any], contest: Contest
) -> Json:
    """The content of summary.json.

    `manifest` has "scenario", "baseline", "policies", and which of them are "heuristics" (they
    decide online and learn nothing), "learned" or "bounds".

    "cells": for each topology and load "figures" {policy: {figure: estimate}}, the "best" heuristic
    (by the mean of `contest.best`; null without any) and "comparison" {"a vs b": {figure: entry}}.
    "overall": {"a vs b": {figure: entry}} over all cells (see `_pooled`). An entry is a
    `Comparison` as JSON. Its p value is corrected over all figures and pairs: those of "overall",
    and those of all cells together.
    """
    policies = list(manifest["policies"])
    cells = []
    for key, rows in frame.groupby(CELL, sort=False):
        topology, load = cast(tuple[str, float], key)
        tables = _tables(rows, policies, contest)
        best = _best(tables, manifest["heuristics"], contest)
        pairs = _pairs(policies, manifest, best)
        cells.append(
            {
                "topology": topology,
                "load": float(load),
                "figures": {
                    policy: {
                        figure.key: _estimate(tables[policy][figure.key], figure)
                        for figure in contest.figures
                    }
                    for policy in policies
                },
                "best": best,
                "pairs": pairs,
                "tables": tables,
            }
        )
    overall = _overall(cells, policies, manifest, contest)
    _compare_cells(cells, contest)
    return {
        "format": FORMAT,
        **{name: manifest[name] for name in KEPT},
        "streams": int(frame["stream"].nunique()),
        "models": {
            policy: int(frame[frame["policy"] == policy]["model"].nunique()) for policy in policies
        },
        "cells": cells,
        "overall": overall,
    }


Tables = Mapping[str, Mapping[str, FloatArray]]
"""By policy and figure: values [models, streams] in one cell."""


def _tables(
    rows: pd.DataFrame, policies: Sequence[str], contest: Contest
) -> dict[str, dict[str, FloatArray]]:
    return {
        policy: {each.key: table_of(rows, policy, each.key) for each in contest.figures}
        for policy in policies
    }


def _best(tables: Tables, heuristics: Sequence[str], contest: Contest) -> str | None:
    sign = -1.0 if contest.figure(contest.best).more_is_better else 1.0
    costs = {
        name: sign * float(tables[name][contest.best].mean())
        for name in heuristics
        if name in tables
    }
    return min(costs, key=lambda name: costs[name]) if costs else None


def _pairs(
    policies: Sequence[str], manifest: Mapping[str, Any], best: str | None
) -> list[tuple[str, str]]:
    """Every policy against the baseline, and the learned ones against the best heuristic."""
    baseline = manifest["baseline"]
    pairs = [(name, baseline) for name in policies if name != baseline and baseline in policies]
    if best is not None:
        learned = [name for name in manifest["learned"] if name in policies]
        pairs += [(name, best) for name in learned if (name, best) not in pairs]
    return pairs


def _estimate(table: FloatArray, figure: Figure) -> Json:
    """The interquartile mean with its interval, and the mean over training runs in each stream.

    Null for what has no value in some stream.
    """
    found = NOTHING
    if not np.isnan(table).any():
        found = estimate(interquartile_means, [table[None]], float(np.abs(table).max(initial=0.0)))
    streams = table.mean(axis=0).tolist()
    # Student's interval knows nothing of where a figure ends; the truth lies within its bounds.
    if found.low is not None and found.high is not None:
        found = replace(found, low=max(found.low, 0.0), high=min(found.high, figure.most))
    return {**found.to_json(), "streams": [None if np.isnan(v) else v for v in streams]}


def _compare_cells(cells: Sequence[Json], contest: Contest) -> None:
    """Put "comparison" in place of the tables and pairs of each cell."""
    family = {
        (number, policy, other, figure.key): _compared(
            cell["tables"][policy][figure.key], cell["tables"][other][figure.key], figure
        )
        for number, cell in enumerate(cells)
        for policy, other in cell["pairs"]
        for figure in contest.compared
    }
    for cell in cells:
        del cell["tables"], cell["pairs"]
        cell["comparison"] = {}
    for (number, policy, other, key), found in corrected(family).items():
        pair = cells[number]["comparison"].setdefault(f"{policy} vs {other}", {})
        pair[key] = found.to_json()


def _compared(treated: FloatArray, baseline: FloatArray, figure: Figure) -> Comparison:
    """Two tables of one cell; streams in which either lacks the figure are left out."""
    known = ~(np.isnan(treated).any(axis=0) | np.isnan(baseline).any(axis=0))
    return compare(treated[None, :, known], baseline[None, :, known], figure.adds_up)


def _overall(
    cells: Sequence[Mapping[str, Any]],
    policies: Sequence[str],
    manifest: Mapping[str, Any],
    contest: Contest,
) -> dict[str, Json]:
    """Comparisons over all cells: with the baseline, and with each cell's best heuristic."""
    best = BEST if all(cell["best"] is not None for cell in cells) else None
    family, counted = {}, {}
    for policy, other in _pairs(policies, manifest, best):
        references = [cell["best"] if other == BEST else other for cell in cells]
        for figure in contest.compared:
            key = (f"{policy} vs {other}", figure.key)
            family[key], counted[key] = _pooled(cells, policy, references, figure)
    found: dict[str, Json] = {}
    for (pair, name), each in corrected(family).items():
        found.setdefault(pair, {})[name] = {**each.to_json(), "cells": counted[pair, name]}
    return found


def _pooled(
    cells: Sequence[Mapping[str, Any]],
    policy: str,
    references: Sequence[str],
    figure: Figure,
) -> tuple[Comparison, int]:
    """All cells together, and how many count: those that have the figure in every stream."""
    pairs = [
        (cell["tables"][policy][figure.key], cell["tables"][reference][figure.key])
        for cell, reference in zip(cells, references, strict=True)
    ]
    known = [pair for pair in pairs if not any(np.isnan(table).any() for table in pair)]
    if not known:
        return compare(np.zeros((0, 1, 0)), np.zeros((0, 1, 0))), 0
    treated, baseline = (np.stack(tables) for tables in zip(*known, strict=True))
    return compare(treated, baseline, figure.adds_up), len(known)
