"""Compares two policies on the same streams: ratio, interval, p value, and claim. Pure.

The *ratio* is that of the means over streams, with a jackknife interval on its logarithm: a ratio
is as far from 1 upwards as its inverse downwards, and "a against b" is the inverse of "b against
a". It is a ratio of means, not a mean of ratios, so that a stream in which the baseline lost
nothing need not be left out. Over several cells it is the geometric mean of the cells' ratios
(Fleming and Wallace, How Not to Lie with Statistics, Communications of the ACM 29(3), 1986), or for
a figure that adds up the ratio of the totals.

A ratio has no interval if a policy has none of a figure, or has it in one stream alone: without
that stream the logarithm is infinite. Then the *difference* of the means stands for it.

The p value is the greater one of two tests, and so errs towards no claim:

- Student's t of the interval. It covers both layers of luck, but its tails are only near the truth.
- The exact signed-rank test over streams (see `significance`).

With p below 0.05 the interval therefore leaves out "no difference". A difference is *claimed* if p,
corrected by Holm for all figures and pairs of policies that are compared together, is below
`LEVEL`: then at most one comparison in twenty claims anything that chance alone has made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from testbed.statistics.jackknife import (
    LEAST_PAIRS,
    NOTHING,
    ROUNDING,
    Estimate,
    FloatArray,
    estimate,
)
from testbed.statistics.significance import holm, signed_rank

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of a pair of policies. None where there is none, and `note` says why.

    pairs   streams in which both have the figure
    effect  the rank-biserial correlation, -1 if the first has less in every stream
    p       None below `LEAST_PAIRS` streams
    p_holm  p, corrected; None until `corrected` has set it
    """

    ratio: float | None
    low: float | None
    high: float | None
    note: str | None
    difference: Estimate
    p: float | None
    effect: float | None
    pairs: int
    p_holm: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in summary.json; "note" is there only if there is something to say."""
        entry: dict[str, Any] = {
            "ratio": self.ratio,
            "low": self.low,
            "high": self.high,
            "difference": self.difference.to_json(),
            "p": self.p,
            "p_holm": self.p_holm,
            "effect": self.effect,
            "pairs": self.pairs,
        }
        return entry if self.note is None else {**entry, "note": self.note}


def compare(treated: FloatArray, baseline: FloatArray, adds_up: bool = False) -> Comparison:
    """Two tables [C, M, S] and [C, K, S] of values that are not negative, of the same S streams.

    `adds_up`: cells are weighed by what is in them (see above).
    """
    pairs = treated.shape[-1]
    if treated.size == 0 or baseline.size == 0:
        return Comparison(None, None, None, "nothing to compare", NOTHING, None, None, 0)
    tables = (treated, baseline)
    scale = max(float(np.abs(table).max()) for table in tables)
    difference = estimate(_difference, tables, scale)
    logarithm = estimate(_log_of_totals if adds_up else _mean_log, tables)
    ratio, note = _ratio(treated, baseline, logarithm, adds_up)
    judged = logarithm if logarithm.p is not None else difference
    if judged.p is None:
        return Comparison(ratio, None, None, note, difference, None, None, pairs)
    test = signed_rank(_by_stream(treated, baseline, adds_up))
    low, high = (None if end is None else math.exp(end) for end in (logarithm.low, logarithm.high))
    p = max(judged.p, test.p)
    return Comparison(ratio, low, high, note, difference, p, test.effect, pairs)


def _ratio(
    treated: FloatArray, baseline: FloatArray, logarithm: Estimate, adds_up: bool
) -> tuple[float | None, str | None]:
    """The ratio, and why it or its interval is missing."""
    if logarithm.value is not None:
        ratio = math.exp(logarithm.value)
        if logarithm.low is not None:
            return ratio, None
        if treated.shape[-1] < LEAST_PAIRS:
            return ratio, f"no interval: {treated.shape[-1]} of at least {LEAST_PAIRS} pairs"
        return ratio, "no interval: without one of its pairs there is no ratio"
    if baseline.sum() == 0:
        return None, "both are 0" if treated.sum() == 0 else "the baseline is 0"
    if adds_up or len(baseline) == 1:
        return 0.0, "no interval: it is 0"
    return None, "no ratio: a mean is 0"


def _by_stream(treated: FloatArray, baseline: FloatArray, adds_up: bool) -> FloatArray:
    """The difference in each stream [S]: means over training runs, in each cell in units of the
    mean of both policies there, unless the figure adds up.
    """
    ours, theirs = treated.mean(axis=1), baseline.mean(axis=1)
    unit = np.ones((len(ours), 1))
    if not adds_up:
        # The sum of both stays what it is if they are exchanged, as the exact test supposes.
        unit = (ours + theirs).mean(axis=1, keepdims=True)
        unit[unit == 0] = 1.0
    found = ((ours - theirs) / unit).sum(axis=0)
    size = np.abs(ours / unit).max() + np.abs(theirs / unit).max()
    return np.where(np.abs(found) <= ROUNDING * size, 0.0, found)


def _difference(tables: Sequence[FloatArray]) -> FloatArray:
    ours, theirs = (table.mean(axis=(1, 2, 3)) for table in tables)
    return np.asarray(ours - theirs)


def _mean_log(tables: Sequence[FloatArray]) -> FloatArray:
    ours, theirs = (table.mean(axis=(2, 3)) for table in tables)
    return np.asarray(np.log(ours / theirs).mean(axis=1))


def _log_of_totals(tables: Sequence[FloatArray]) -> FloatArray:
    ours, theirs = (table.mean(axis=(2, 3)).sum(axis=1) for table in tables)
    return np.asarray(np.log(ours / theirs))


def corrected(family: Mapping[Any, Comparison]) -> dict[Any, Comparison]:
    """The comparisons of one family with `p_holm`; those without p keep None and do not count."""
    tested = {key: each.p for key, each in family.items() if each.p is not None}
    p_holm = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {key: replace(each, p_holm=p_holm.get(key)) for key, each in family.items()}


def is_claimed(p_holm: float | None) -> bool:
    """If a difference may be called one."""
    return p_holm is not None and p_holm < LEVEL
