"""summary.json of an evaluation, from its raw values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from agents.common.statistics import (
    Estimate,
    holm,
    interquartile_means,
    mean_difference,
    mean_ratio,
    ratio_of_means,
    stratified_interval,
    total_ratio,
    wilcoxon,
)
from testbed.results.evaluation.figures import COMPARED, FIGURES, EvaluationFigure
from testbed.results.evaluation.values import CELL, FloatArray, table_of

FORMAT = 1

Json = dict[str, Any]


def summarise_evaluation(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> Json:
    """The content of summary.json.

    `manifest` has "scenario", "baseline", "policies", and which of them are "heuristics" (they
    decide online and learn nothing), "learned" or "bounds".

    "cells": for each topology and load "figures" {policy: {figure: estimate}}, the "best" heuristic
    (of the least mean cost) and "comparison" {"a vs b": {figure: ...}} (see `_compared`).
    "overall": {"a vs b": {figure: ...}} over all cells (see `_pooled`).
    """
    policies = list(manifest["policies"])
    cells = []
    for key, rows in frame.groupby(CELL, sort=False):
        topology, load = cast(tuple[str, float], key)
        tables = _tables(rows, policies)
        best = _best(tables, manifest["heuristics"])
        pairs = _pairs(policies, manifest, best)
        cells.append(
            {
                "topology": topology,
                "load": float(load),
                "figures": {
                    policy: {
                        figure.key: _estimate(tables[policy][figure.key]) for figure in FIGURES
                    }
                    for policy in policies
                },
                "best": best,
                "comparison": _comparison(tables, pairs),
                "tables": tables,
            }
        )
    overall = _overall(cells, policies, manifest)
    for cell in cells:
        del cell["tables"]
    return {
        "format": FORMAT,
        **{name: manifest[name] for name in ("scenario", "baseline", "policies", "bounds")},
        "streams": int(frame["stream"].nunique()),
        "models": {
            policy: int(frame[frame["policy"] == policy]["model"].nunique()) for policy in policies
        },
        "cells": cells,
        "overall": overall,
    }


Tables = Mapping[str, Mapping[str, FloatArray]]
"""By policy and figure: values [models, streams] in one cell."""


def _tables(rows: pd.DataFrame, policies: Sequence[str]) -> dict[str, dict[str, FloatArray]]:
    return {
        policy: {figure.key: table_of(rows, policy, figure.key) for figure in FIGURES}
        for policy in policies
    }


def _best(tables: Tables, heuristics: Sequence[str]) -> str | None:
    costs = {name: float(tables[name]["cost"].mean()) for name in heuristics if name in tables}
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


def _estimate(table: FloatArray) -> Json:
    """The interquartile mean with its interval; null for what has no value in some stream."""
    if np.isnan(table).any():
        return Estimate(float("nan"), None, None).to_json() | {"value": None}
    return stratified_interval([table], interquartile_means).to_json()


def _comparison(tables: Tables, pairs: Sequence[tuple[str, str]]) -> dict[str, Json]:
    return _with_holm(
        {
            f"{policy} vs {other}": {
                figure.key: _compared(tables[policy][figure.key], tables[other][figure.key])
                for figure in COMPARED
            }
            for policy, other in pairs
        }
    )


def _compared(treated: FloatArray, baseline: FloatArray) -> Json:
    """Two tables of the same streams: ratio and difference of means with 95 % intervals, the
    p value of Wilcoxon's test over streams (means over training runs) and its effect size.
    """
    known = ~(np.isnan(treated).any(axis=0) | np.isnan(baseline).any(axis=0))
    treated, baseline = treated[:, known], baseline[:, known]
    if treated.shape[1] == 0:
        nothing = dict.fromkeys(("ratio", "low", "high"))
        return {**nothing, "note": "no stream with this figure", "difference": None, **_no_test()}
    test = wilcoxon(treated.mean(axis=0), baseline.mean(axis=0))
    return {
        **ratio_of_means(treated, baseline).to_json(),
        "difference": mean_difference([(treated, baseline)]).to_json(),
        "p": test.p,
        "effect": test.effect,
        "pairs": test.pairs,
    }


def _no_test() -> Json:
    return {"p": 1.0, "effect": 0.0, "pairs": 0}


def _with_holm(comparison: dict[str, Json]) -> dict[str, Json]:
    """Add "p_holm": corrected over the policies that are compared by the same figure."""
    for figure in COMPARED:
        entries = [entry[figure.key] for entry in comparison.values()]
        for entry, p in zip(entries, holm([entry["p"] for entry in entries]), strict=True):
            entry["p_holm"] = p
    return comparison


def _overall(
    cells: Sequence[Mapping[str, Any]], policies: Sequence[str], manifest: Mapping[str, Any]
) -> dict[str, Json]:
    """Comparisons over all cells: with the baseline, and with each cell's best heuristic."""
    baseline, found = manifest["baseline"], {}
    for policy, other in _pairs(policies, manifest, "best heuristic"):
        references = [cell["best"] if other == "best heuristic" else baseline for cell in cells]
        found[f"{policy} vs {other}"] = {
            figure.key: _pooled(cells, policy, references, figure) for figure in COMPARED
        }
    return _with_holm(found)


def _pooled(
    cells: Sequence[Mapping[str, Any]],
    policy: str,
    references: Sequence[str],
    figure: EvaluationFigure,
) -> Json:
    """All cells together; "cells" says how many count.

    The ratio is the mean of the cells' ratios of means, each cell with the same weight; for a
    figure that adds up, that of the totals. Cells that lack the figure in a stream do not count.
    The test takes the differences of all their streams, in units of the reference's mean in the
    cell unless the figure adds up.
    """
    strata, differences = [], []
    for cell, reference in zip(cells, references, strict=True):
        treated = cell["tables"][policy][figure.key]
        baseline = cell["tables"][reference][figure.key]
        if np.isnan(treated).any() or np.isnan(baseline).any():
            continue
        unit = 1.0 if figure.adds_up else baseline.mean()
        strata.append((treated, baseline))
        differences.append((treated.mean(axis=0) - baseline.mean(axis=0)) / (unit or 1.0))
    if not strata:
        nothing = dict.fromkeys(("ratio", "low", "high", "difference"))
        return {**nothing, "note": "no cell has this figure", "cells": 0, **_no_test()}
    pooled = np.concatenate(differences)
    test = wilcoxon(pooled, np.zeros_like(pooled))
    ratio = total_ratio(strata) if figure.adds_up else mean_ratio(strata)
    return {
        **ratio.to_json(),
        "difference": mean_difference(strata).to_json(),
        "cells": len(strata),
        "p": test.p,
        "effect": test.effect,
        "pairs": test.pairs,
    }
