"""States in words which differences a comparison shows, and which it does not. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from testbed.statistics.jackknife import LEAST_PAIRS
from testbed.statistics.paired_comparison import LEVEL, is_claimed
from testbed.statistics.significance import pairs_needed

NAMES = {
    "latency_p50": "median latency",
    "latency_p99": "p99 latency",
    "lost": "packets lost",
    "goodput": "goodput",
    "overload": "time in overload",
}
"""The figures of `testbed.results.summaries.FIGURES` as a sentence calls them."""
UNITS = {
    "latency_p50": (1e-6, "ms"),
    "latency_p99": (1e-6, "ms"),
    "lost": (1.0, "packets"),
    "goodput": (1e-3, "kb/s"),
    "overload": (1.0, "server-s"),
}
"""What a value is multiplied by to be in the unit."""
MORE_IS_BETTER = frozenset({"goodput"})

Kind = Literal["better", "worse", "open", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure of a pair of policies.

    kind    "better" or "worse" if a difference is claimed; "open" if it was tested and none is;
            "unknown" if there are too few seeds, or nothing to test
    text    the ratio or the difference with its 95 % interval, or why there is none
    dots    the ratio in each seed; infinite where the baseline alone is 0, none where both are
    pairs   seeds that both policies have
    p_holm  None if it was not tested
    """

    figure: str
    name: str
    kind: Kind
    text: str
    ratio: float | None
    low: float | None
    high: float | None
    dots: tuple[float, ...]
    pairs: int
    p_holm: float | None


def findings(figures: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """The findings of one pair of policies, from its entry in summary.json's "comparison"."""
    return [_finding(figure, entry) for figure, entry in figures.items()]


def _finding(figure: str, entry: Mapping[str, Any]) -> Finding:
    seeds = [(each["treated"], each["baseline"]) for each in entry["seeds"]]
    return Finding(
        figure,
        NAMES.get(figure, figure.replace("_", " ")),
        _kind(figure, entry),
        _text(figure, entry),
        entry["ratio"],
        entry["low"],
        entry["high"],
        tuple(a / b if b else math.inf for a, b in seeds if a or b),
        entry["pairs"],
        entry["p_holm"],
    )


def _kind(figure: str, entry: Mapping[str, Any]) -> Kind:
    if entry["p_holm"] is None:
        return "unknown"
    if not is_claimed(entry["p_holm"]):
        return "open"
    ratio = entry["ratio"]
    more = entry["difference"]["value"] > 0 if ratio is None else ratio > 1
    return "better" if more == (figure in MORE_IS_BETTER) else "worse"


def _text(figure: str, entry: Mapping[str, Any]) -> str:
    ratio, low, high = entry["ratio"], entry["low"], entry["high"]
    if ratio is not None and low is not None:
        # Near 1, two decimals would show an interval without 1 as one that holds it.
        digits = 2 if max(abs(low - 1), abs(high - 1)) >= 0.05 else 4
        return f"× {ratio:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    if entry["pairs"] >= LEAST_PAIRS and entry["difference"]["low"] is not None:
        return _difference(figure, entry["difference"])
    return str(entry["note"]) if ratio is None else f"× {ratio:.2f}"


def _difference(figure: str, entry: Mapping[str, float]) -> str:
    scale, unit = UNITS.get(figure, (1.0, ""))
    value, low, high = (entry[name] * scale for name in ("value", "low", "high"))
    return f"{value:+.1f} {unit} [{low:+.1f}, {high:+.1f}]".replace("-", "\N{MINUS SIGN}")


def sentence(pair: str, found: list[Finding]) -> str:
    """The verdict on "a vs b": what differs, with its interval, and what does not."""
    treated, _, baseline = pair.partition(" vs ")
    parts = []
    for kind in ("better", "worse"):
        items = [f"{each.name} {each.text}" for each in found if each.kind == kind]
        if items:
            parts.append(f"{kind} in {_listed(items)}")
    same = [each.name for each in found if each.kind == "open"]
    unknown = [f"{each.name} {each.text}" for each in found if each.kind == "unknown"]
    if same:
        parts.append(f"no difference shown in {_listed(same)}")
    if unknown:
        parts.append(f"no claim on {_listed(unknown)}")
    return f"{treated} against {baseline}: {'; '.join(parts) or 'nothing was compared'}."


def headline(found: Mapping[str, list[Finding]], valid: bool, runs: int) -> str:
    """The report's first sentence; `runs` is how many there are."""
    if runs == 0 and not found:
        return "No run has results."
    if not valid:
        return "This comparison is not valid: its figures support no claim."
    if not found:
        return "One policy was run: there is nothing to compare it with."
    seeds = least_seeds(found)
    kinds = {each.kind for row in found.values() for each in row}
    if seeds < LEAST_PAIRS:
        return f"{_seeds(seeds)} {'is' if seeds == 1 else 'are'} too few to claim a difference."
    if kinds <= {"open", "unknown"}:
        return f"No difference between the policies is shown over {_seeds(seeds)}."
    counts = "; ".join(_count(pair, row) for pair, row in found.items())
    return f"Over {_seeds(seeds)}: {counts}."


def least_seeds(found: Mapping[str, list[Finding]]) -> int:
    """How many seeds the pair of policies with the fewest in common has."""
    return min(max((each.pairs for each in row), default=0) for row in found.values())


def foundation(found: Mapping[str, list[Finding]]) -> str:
    """What the sentences rest on: when they claim a difference, and why they may not."""
    seeds = least_seeds(found)
    if seeds < LEAST_PAIRS:
        return (
            f"× is the ratio of the means over {_seeds(seeds)}. Below {LEAST_PAIRS} seeds chance "
            "alone makes such ratios: they are shown with a dot for each seed, without an interval."
        )
    tests = sum(each.p_holm is not None for row in found.values() for each in row)
    text = (
        f"× is the ratio of the means over {_seeds(seeds)} with its 95 % interval. Better or worse "
        f"is said only with p\u00a0<\u00a0{LEVEL:g} after Holm's correction for all {tests} "
        "comparisons."
    )
    needed = pairs_needed(tests, LEVEL)
    if needed > seeds:
        text += f" {_seeds(seeds)} can never show that for so many; {needed} can."
    return text


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


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
