"""What an entry of a comparison says: better, worse, nothing, or nothing that can be said. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from testbed.results.evaluation.figures import EvaluationFigure

ALPHA = 0.05
"""A difference is claimed if its interval leaves it no doubt and its corrected p is below this."""

MANY_TIMES = 10.0
"""Beyond this a ratio is told as such: per cent would be hard to read."""

Kind = Literal["better", "worse", "open", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`change` is the relative change, or the difference where there is no ratio.

    `interval` is its 95 % interval, or why there is none; `test` the corrected p value and the
    effect size.
    """

    kind: Kind
    change: str
    interval: str
    test: str


def verdict(figure: EvaluationFigure, entry: Mapping[str, Any]) -> Verdict:
    """The verdict on one figure of one pair, from its entry in summary.json."""
    test = f"p {_p(entry['p_holm'])}, r {_signed(entry['effect'], '.2f')}"
    ratio, low, high = entry["ratio"], entry["low"], entry["high"]
    if ratio is not None and low is not None:
        kind = _kind(figure, entry, low - 1.0, high - 1.0)
        if ratio > MANY_TIMES:
            return Verdict(kind, f"× {ratio:.0f}", f"[{low:.0f}, {high:.0f}]", test)
        digits = 0 if max(abs(low - 1.0), abs(high - 1.0)) >= 0.1 else 1
        texts = [_signed(100 * (value - 1.0), f".{digits}f") for value in (ratio, low, high)]
        return Verdict(kind, f"{texts[0]} %", f"[{texts[1]}, {texts[2]}]", test)
    difference = entry.get("difference")
    if difference is not None and difference["low"] is not None:
        kind = _kind(figure, entry, difference["low"], difference["high"])
        values = [difference[name] * figure.scale for name in ("value", "low", "high")]
        texts = [_signed(value, figure.form) for value in values]
        unit = figure.difference_unit or figure.unit
        return Verdict(kind, f"{texts[0]} {unit}".strip(), f"[{texts[1]}, {texts[2]}]", test)
    return Verdict("unknown", "–", str(entry.get("note", "no interval")), "")


def _kind(figure: EvaluationFigure, entry: Mapping[str, Any], low: float, high: float) -> Kind:
    if entry["p_holm"] >= ALPHA or low <= 0.0 <= high:
        return "open"
    return "better" if (low > 0.0) == figure.more_is_better else "worse"


def _signed(value: float, form: str) -> str:
    return format(value, f"+{form}").replace("-", "\N{MINUS SIGN}")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def least_p(streams: int, policies: int) -> float:
    """The least p value that Wilcoxon's test can give with so many streams, after correction."""
    return min(1.0, policies * 2.0 / 2.0**streams)


def sentence(pair: str, figures: Mapping[str, Verdict]) -> str:
    """The verdict on "a vs b" in words; `figures` by their labels."""
    treated, _, reference = pair.partition(" vs ")
    parts = []
    for kind in ("better", "worse"):
        items = [
            f"{label} {each.change} {each.interval}"
            for label, each in figures.items()
            if each.kind == kind
        ]
        if items:
            parts.append(f"{kind} in {_listed(items)}")
    same = [label for label, each in figures.items() if each.kind == "open"]
    if same:
        parts.append(f"no difference shown in {_listed(same)}")
    return f"{treated} against {reference}: {'; '.join(parts) or 'no statement possible'}."


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
