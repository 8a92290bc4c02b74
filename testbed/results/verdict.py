"""What a comparison shows and what it does not, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

NAMES = {
    "latency_p50": "median latency",
    "latency_p99": "p99 latency",
    "lost": "packets lost",
    "goodput": "goodput",
    "overload": "time in overload",
}
"""The figures of `testbed.results.compare.FIGURES` as a sentence calls them."""
MORE_IS_BETTER = frozenset({"goodput"})

Kind = Literal["better", "worse", "open", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One ratio of a comparison. `kind` is "open" if its interval holds 1, "unknown" without one.

    `text` is the ratio and its 95 % interval, or why there is none.
    """

    figure: str
    name: str
    kind: Kind
    text: str
    ratio: float | None
    low: float | None
    high: float | None


def findings(figures: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """The findings of one pair of policies, from its entry in summary.json's "comparison"."""
    return [_finding(figure, entry) for figure, entry in figures.items()]


def _finding(figure: str, entry: Mapping[str, Any]) -> Finding:
    ratio, low, high = entry.get("ratio"), entry.get("low"), entry.get("high")
    name = NAMES.get(figure, figure.replace("_", " "))
    if ratio is None or low is None or high is None:
        why = str(entry.get("note", "no interval"))
        text = why if ratio is None else f"× {ratio:.2f}, {why}"
        return Finding(figure, name, "unknown", text, ratio, None, None)
    kind: Kind = "open"
    if high < 1 or low > 1:
        kind = "better" if (low > 1) == (figure in MORE_IS_BETTER) else "worse"
    return Finding(figure, name, kind, _interval(ratio, low, high), ratio, low, high)


def _interval(ratio: float, low: float, high: float) -> str:
    # Near 1, two decimals would show an interval that does not hold 1 as one that does.
    digits = 2 if max(abs(low - 1), abs(high - 1)) >= 0.05 else 4
    return f"× {ratio:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def sentence(pair: str, found: list[Finding]) -> str:
    """The verdict on "a vs b": what differs, with its interval, and what does not."""
    treated, _, baseline = pair.partition(" vs ")
    parts = []
    for kind, word in (("better", "better"), ("worse", "worse")):
        items = [f"{each.name} {each.text}" for each in found if each.kind == kind]
        if items:
            parts.append(f"{word} in {_listed(items)}")
    same = [each.name for each in found if each.kind == "open"]
    unknown = [each.name for each in found if each.kind == "unknown"]
    if same:
        parts.append(f"no difference shown in {_listed(same)}")
    if unknown:
        parts.append(f"no statement possible on {_listed(unknown)}")
    return f"{treated} against {baseline}: {'; '.join(parts) or 'nothing was compared'}."


def headline(found: Mapping[str, list[Finding]], valid: bool, seeds: int) -> str:
    """The report's first sentence; `seeds` is how many the policy with the fewest has."""
    if seeds == 0 and not found:
        return "No run has results."
    if not valid:
        return "This comparison is not valid: its figures support no claim."
    if not found:
        return "One policy was run: there is nothing to compare it with."
    kinds = {each.kind for row in found.values() for each in row}
    if kinds <= {"unknown"}:
        return "No interval can be given: no difference between the policies can be claimed."
    if kinds <= {"open", "unknown"}:
        return "No difference between the policies is shown: every interval holds 1."
    counts = "; ".join(_count(pair, row) for pair, row in found.items())
    return f"Over {seeds} seeds: {counts}."


def _count(pair: str, row: list[Finding]) -> str:
    treated, _, baseline = pair.partition(" vs ")
    better = sum(each.kind == "better" for each in row)
    worse = sum(each.kind == "worse" for each in row)
    if better and worse:
        return f"{treated} beats {baseline} in {better} of {len(row)} figures, loses in {worse}"
    if better or worse:
        verb = "beats" if better else "loses to"
        return f"{treated} {verb} {baseline} in {better or worse} of {len(row)} figures"
    return f"no difference is shown between {treated} and {baseline}"


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
