"""What an entry of a comparison says: better, worse, nothing, or nothing that can be said. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from testbed.decisions.contest import Figure
from testbed.statistics.paired_comparison import LEVEL, is_claimed
from testbed.statistics.significance import pairs_needed

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


def verdict(figure: Figure, entry: Mapping[str, Any]) -> Verdict:
    """The verdict on one figure of one pair, from its entry in summary.json."""
    kind = _kind(figure, entry)
    tested = entry["p_holm"] is not None
    test = f"p {_p(entry['p_holm'])}, r {_signed(entry['effect'], '.2f')}" if tested else ""
    ratio, difference = entry["ratio"], entry["difference"]
    # A ratio of 0 has no interval; its difference may have one.
    if ratio is not None and (entry["low"] is not None or difference["low"] is None):
        return Verdict(kind, *_ratio_texts(ratio, entry), test)
    if difference["value"] is not None:
        return Verdict(kind, *_difference_texts(figure, difference, entry), test)
    return Verdict("unknown", "–", str(entry.get("note", "no interval")), "")


def _ratio_texts(ratio: float, entry: Mapping[str, Any]) -> tuple[str, str]:
    """The change, and its interval or why there is none."""
    low, high = entry["low"], entry["high"]
    known = [value for value in (low, high) if value is not None]
    if ratio > MANY_TIMES:
        interval = f"[{low:.0f}, {high:.0f}]" if known else str(entry["note"])
        return f"× {ratio:.0f}", interval
    digits = 0 if max(abs(value - 1.0) for value in (known or [ratio])) >= 0.1 else 1
    texts = [_signed(100 * (value - 1.0), f".{digits}f") for value in (ratio, *known)]
    return f"{texts[0]} %", f"[{texts[1]}, {texts[2]}]" if known else str(entry["note"])


def _difference_texts(
    figure: Figure, difference: Mapping[str, Any], entry: Mapping[str, Any]
) -> tuple[str, str]:
    known = [name for name in ("value", "low", "high") if difference[name] is not None]
    texts = [_signed(difference[name] * figure.scale, figure.form) for name in known]
    unit = figure.difference_unit or figure.unit
    interval = f"[{texts[1]}, {texts[2]}]" if len(texts) == 3 else str(entry["note"])
    return f"{texts[0]} {unit}".strip(), interval


def _kind(figure: Figure, entry: Mapping[str, Any]) -> Kind:
    if entry["p_holm"] is None:
        return "unknown"
    if not is_claimed(entry["p_holm"]):
        return "open"
    ratio = entry["ratio"]
    more = entry["difference"]["value"] > 0 if ratio is None else ratio > 1
    return "better" if more == figure.more_is_better else "worse"


def _signed(value: float, form: str) -> str:
    return format(value, f"+{form}").replace("-", "\N{MINUS SIGN}")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def streams_needed(comparisons: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> int:
    """How many streams could show a difference among so many comparisons.

    `comparisons` are {"a vs b": {figure: entry}} of one family.
    """
    entries = [entry for pair in comparisons.values() for entry in pair.values()]
    return pairs_needed(max(1, len(entries)), LEVEL)


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
