"""The statistics that the numbers of a run and of a comparison are made with. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
MIN_PAIRS = 3
BOOTSTRAP_SEED = 20_130_613


def nearest_rank(values: NDArray[Any], share: float) -> int | None:
    """The `share` percentile (0 < share <= 1) by nearest rank; None of no values.

    The smallest value such that at least `share` of the values are not above it: the value of
    rank ceil(share x n) in ascending order. It is always a value that was measured.
    """
    if len(values) == 0:
        return None
    # The guard keeps 0.07 x 100 = 7.000000000000001 at rank 7.
    rank = max(1, math.ceil(share * len(values) - 1e-9))
    return int(np.partition(values, rank - 1)[rank - 1])


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of means with a 95 % interval; None where it is not defined, and the note why."""

    ratio: float | None
    low: float | None
    high: float | None
    note: str | None

    def to_json(self) -> dict[str, Any]:
        """As it stands in summary.json; "note" is there only if there is something to say."""
        entry: dict[str, Any] = {"ratio": self.ratio, "low": self.low, "high": self.high}
        return entry if self.note is None else {**entry, "note": self.note}


def paired_ratio(treated: NDArray[np.float64], baseline: NDArray[np.float64]) -> Ratio:
    """mean(treated) / mean(baseline) over pairs, with a paired percentile bootstrap.

    Ratio of means, not mean of ratios: a pair whose baseline is 0 (no packet lost) has no ratio
    of its own and would have to be left out. Pairs are drawn with replacement, `RESAMPLES` times
    with a fixed seed; the interval runs from the 2.5th to the 97.5th percentile of the ratios
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    With n pairs there are only C(2n-1, n) different resamples: 10 for three pairs. Such an
    interval is little more than the span of the pairs and covers the truth far less often than
    95 % of the time; below `MIN_PAIRS` pairs none is given.
    """
    pairs = len(treated)
    if pairs == 0:
        return Ratio(None, None, None, "no pair of runs with this figure")
    if baseline.sum() == 0:
        return Ratio(None, None, None, "the baseline's mean is 0")
    ratio = float(treated.mean() / baseline.mean())
    if pairs < MIN_PAIRS:
        return Ratio(ratio, None, None, f"no interval: {pairs} of at least {MIN_PAIRS} seeds")
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = rng.integers(0, pairs, (RESAMPLES, pairs))
    above, below = treated[drawn].sum(axis=1), baseline[drawn].sum(axis=1)
    if np.any(below == 0):
        return Ratio(ratio, None, None, "no interval: the baseline is 0 in some resamples")
    low, high = np.quantile(above / below, [0.025, 0.975])
    return Ratio(ratio, float(low), float(high), None)
