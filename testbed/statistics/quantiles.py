"""Percentiles with distribution-free intervals; a sample that is too small is refused. Pure.

The p-quantile of n values is the value of rank ceil(p x n) (nearest rank). Its interval runs from
the value of rank l to that of rank u, where l is the greatest and u the least rank with

    P(Bin(n, p) < l) <= 0.025   and   P(Bin(n, p) >= u) <= 0.025,

so it covers the quantile of whatever distribution the values were drawn from with a probability of
at least 95 % (David and Nagaraja, Order Statistics, 2003, section 7.1; Le Boudec, Performance
Evaluation of Computer and Communication Systems, 2010, theorem 2.1). Such ranks exist if
p^n <= 0.025 and (1-p)^n <= 0.025: for p50 from 6 values on, for p95 from 72, for p99 from 368, for
p99.9 from 3,688. With fewer there is no interval, and no percentile either: it would be a guess
from the greatest few values. The values are taken for independent; where neighbours resemble each
other, as in a queue, the interval is narrower than it should be.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

CONFIDENCE = 0.95
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999}
_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True, slots=True)
class Quantile:
    """A percentile with its interval; None where there is none, and `note` says why."""

    value: float | None
    low: float | None
    high: float | None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in metrics.json; "note" is there only if there is something to say."""
        entry: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high}
        return entry if self.note is None else {**entry, "note": self.note}


def rank_of(samples: int, share: float) -> int:
    """The rank (from 1) of the `share` quantile (0 < share <= 1) of so many values, nearest rank.

    The least rank such that at least `share` of the values are not above that of the rank.
    """
    # The guard keeps 0.07 x 100 = 7.000000000000001 at rank 7.
    return max(1, math.ceil(share * samples - 1e-9))


def nearest_rank(values: NDArray[Any], share: float) -> int | None:
    """As `quantile_of`, of whole numbers that may be none: None of no values."""
    return int(quantile_of(values, share)) if len(values) else None


def quantile_of(values: NDArray[Any], share: float) -> float:
    """The `share` quantile (0 < share <= 1) by nearest rank: always a value that was measured.

    For reports that need no interval. Raises ValueError of no values.
    """
    if len(values) == 0:
        raise ValueError("values: expected at least one")
    rank = rank_of(len(values), share)
    return float(np.partition(values, rank - 1)[rank - 1])


@functools.cache
def least_samples(share: float) -> int:
    """How many values a sample must have for an interval of its `share` quantile (0 < share < 1).

    Raises ValueError outside.
    """
    if not 0 < share < 1:
        raise ValueError(f"share = {share}: expected between 0 and 1")
    return math.ceil(math.log(_TAIL) / math.log(max(share, 1 - share)))


@functools.lru_cache(maxsize=4096)
def interval_ranks(samples: int, share: float) -> tuple[int, int] | None:
    """The ranks (from 1) between which the quantile lies; None if there are too few samples."""
    if samples < least_samples(share):
        return None
    # ppf(q) is the least k with P(Bin <= k) >= q.
    low = max(1, int(binom.ppf(_TAIL, samples, share)))
    high = min(samples, int(binom.ppf(1 - _TAIL, samples, share)) + 1)
    return low, high


def quantile(ordered: NDArray[Any], share: float, undefined: int = 0) -> Quantile:
    """The `share` quantile of values in ascending order and `undefined` ones above all of them.

    A packet that is lost has no delay; RFC 7679 (section 5.1) takes such a delay for infinitely
    large, so that losing slow packets does not improve a percentile. If the rank is that of a lost
    packet, the percentile is undefined.
    """
    known = len(ordered)
    ranks = interval_ranks(known + undefined, share)
    if ranks is None:
        return Quantile(
            None, None, None, f"{known + undefined} of at least {least_samples(share)} samples"
        )
    rank = rank_of(known + undefined, share)
    low, value, high = (
        float(ordered[each - 1]) if each <= known else None for each in (ranks[0], rank, ranks[1])
    )
    note = None
    if value is None:
        note = "undefined: so many were lost"
    elif high is None:
        note = "no upper limit: so many were lost"
    return Quantile(value, low, high, note)


def quantiles(values: NDArray[Any], undefined: int = 0) -> dict[str, dict[str, Any]]:
    """The percentiles of `PERCENTILES`, as they stand in metrics.json."""
    ordered = np.sort(values)
    return {
        name: quantile(ordered, share, undefined).to_json() for name, share in PERCENTILES.items()
    }
