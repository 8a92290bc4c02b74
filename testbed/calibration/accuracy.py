"""How far the twin is from the emulated network: errors and rank correlation. Pure.

| figure           | error                                              | target              |
|------------------|----------------------------------------------------|---------------------|
| `latency_p50_ns` | twin / emulation - 1                               | within 15 %         |
| `latency_p99_ns` | twin / emulation - 1                               | none                |
| `delivered_pps`  | twin / emulation - 1                               | within 5 %          |
| `dropped`        | twin - emulation, of the share of packets that is lost | within 0.02     |

Spearman's rank correlation is over the policies of a scenario, of each policy's mean over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy import stats

FIGURES = ("latency_p50_ns", "latency_p99_ns", "delivered_pps", "dropped")
ABSOLUTE = ("dropped",)
"""Figures that are shares already: their error is a difference."""
TARGETS: Mapping[str, float] = {
    "latency_p50_ns": 0.15,
    "delivered_pps": 0.05,
    "dropped": 0.02,
}
RANK_TARGET = 0.9
RANKED = ("latency_p50_ns", "latency_p99_ns", "dropped")
MIN_POLICIES = 3
"""Of two policies every correlation is 1 or -1."""

LABELS = {
    "latency_p50_ns": "latency p50",
    "latency_p99_ns": "latency p99",
    "delivered_pps": "delivered",
    "dropped": "dropped",
}
"""The figures in words."""


class Figures(NamedTuple):
    """What the packets of a run went through; None if nothing arrived.

    Packets are those of requests that were accepted. `delivered_pps` is over the plan's traffic,
    `dropped` the share of the packets sent.
    """

    latency_p50_ns: float | None
    latency_p99_ns: float | None
    delivered_pps: float
    dropped: float


@dataclass(frozen=True, slots=True)
class Pair:
    """A run in both worlds."""

    scenario: str
    policy: str
    seed: int
    emulation: Figures
    twin: Figures
    valid: bool
    """Whether the emulation run kept its tolerances."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure's error over seeds: mean, least and greatest."""

    mean: float
    low: float
    high: float
    runs: int


def error_of(figure: str, emulation: float | None, twin: float | None) -> float | None:
    """The error of the twin in a figure (see the table above); None if it is not defined."""
    if emulation is None or twin is None:
        return None
    if figure in ABSOLUTE:
        return twin - emulation
    return twin / emulation - 1.0 if emulation > 0 else None


def spread(pairs: Sequence[Pair], figure: str) -> Spread | None:
    """The error of a figure over runs; None if none has it."""
    errors = [
        error
        for pair in pairs
        if (error := error_of(figure, getattr(pair.emulation, figure), getattr(pair.twin, figure)))
        is not None
    ]
    if not errors:
        return None
    return Spread(sum(errors) / len(errors), min(errors), max(errors), len(errors))


def rank_correlation(emulation: Sequence[float], twin: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None of fewer than `MIN_POLICIES` values, or of equal ones."""
    if len(emulation) < MIN_POLICIES or len(set(emulation)) < 2 or len(set(twin)) < 2:
        return None
    found = float(stats.spearmanr(emulation, twin).statistic)
    return None if math.isnan(found) else found


def assess(pairs: Sequence[Pair]) -> dict[str, Any]:
    """The content of validation.json below its head: rows, ranks and whether targets are met.

    "rows" has an entry for each scenario and policy, "ranks" one for each scenario, "overall" the
    mean of the absolute errors of the rows and the worst row of each figure.
    """
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.scenario, pair.policy), []).append(pair)
    rows = [_row(scenario, policy, group) for (scenario, policy), group in groups.items()]
    scenarios = list(dict.fromkeys(pair.scenario for pair in pairs))
    return {
        "rows": rows,
        "ranks": {name: _ranks([p for p in pairs if p.scenario == name]) for name in scenarios},
        "overall": {figure: _overall(rows, figure) for figure in FIGURES},
    }


def _row(scenario: str, policy: str, group: Sequence[Pair]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "scenario": scenario,
        "policy": policy,
        "seeds": [pair.seed for pair in group],
        "valid": all(pair.valid for pair in group),
    }
    for figure in FIGURES:
        found = spread(group, figure)
        row[figure] = {
            "emulation": [getattr(pair.emulation, figure) for pair in group],
            "twin": [getattr(pair.twin, figure) for pair in group],
            "error": None if found is None else found.mean,
            "low": None if found is None else found.low,
            "high": None if found is None else found.high,
            "within": None if found is None else within(figure, found.mean),
        }
    return row


def within(figure: str, error: float) -> bool | None:
    """Whether an error is within the figure's target; None if it has none."""
    target = TARGETS.get(figure)
    return None if target is None else abs(error) <= target


def _ranks(pairs: Sequence[Pair]) -> dict[str, Any]:
    policies = list(dict.fromkeys(pair.policy for pair in pairs))
    found: dict[str, Any] = {"policies": len(policies)}
    for figure in RANKED:
        means = [_means([p for p in pairs if p.policy == name], figure) for name in policies]
        known = [mean for mean in means if mean is not None]
        found[figure] = rank_correlation([mean[0] for mean in known], [mean[1] for mean in known])
    return found


def _means(pairs: Sequence[Pair], figure: str) -> tuple[float, float] | None:
    both = [(getattr(pair.emulation, figure), getattr(pair.twin, figure)) for pair in pairs]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    if not known:
        return None
    return sum(a for a, _ in known) / len(known), sum(b for _, b in known) / len(known)


def _overall(rows: Sequence[Mapping[str, Any]], figure: str) -> dict[str, Any]:
    errors = [abs(row[figure]["error"]) for row in rows if row[figure]["error"] is not None]
    missed = [row for row in rows if row[figure]["within"] is False]
    return {
        "target": TARGETS.get(figure),
        "mean_absolute_error": sum(errors) / len(errors) if errors else None,
        "worst": max(errors, default=None),
        "rows": len(errors),
        "missed": [f"{row['scenario']}, {row['policy']}" for row in missed],
    }


def error_text(error: float, figure: str, signed: bool = False) -> str:
    """An error as people read it: percent, or percentage points of a share."""
    digits = f"{100 * error:+.1f}" if signed else f"{100 * error:.0f}"
    return f"{digits} {'pp' if figure == 'dropped' else '%'}"


def rank_text(rank: float | None) -> str:
    """A rank correlation, or that there is none."""
    return "-" if rank is None else f"{rank:.2f}"
