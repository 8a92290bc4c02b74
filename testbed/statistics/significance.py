"""P values: an exact paired test, and the correction for many tests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

MOST_EXACT = 100
"""Beyond so many pairs the normal distribution is as good as the exact one, and quicker."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SignedRank:
    """`p` is two-sided; `effect` from -1 to 1 (see `signed_rank`); `pairs` those that differ."""

    p: float
    effect: float
    pairs: int


def signed_rank(differences: FloatArray) -> SignedRank:
    """Wilcoxon's signed-rank test of paired differences [S].

    Individual Comparisons by Ranking Methods, Biometrics Bulletin 1(6), 1945. It supposes only
    that a pair's difference is as likely to have one sign as the other if there is no difference
    between the policies, and p is exact, ties included: the share of all 2^S choices of signs
    whose rank sum is at least as far from the middle. So the chance of a false claim is at most
    the level, whatever the distribution. Pairs without a difference are left out; without any
    other p is 1 and the effect 0.

    The effect is the matched-pairs rank-biserial correlation (Kerby, The Simple Difference
    Formula, Comprehensive Psychology 3, 2014): 1 or -1 if all pairs point one way.
    """
    differing = differences[differences != 0]
    if len(differing) == 0:
        return SignedRank(1.0, 0.0, 0)
    ranks = stats.rankdata(np.abs(differing))
    effect = float((ranks * np.sign(differing)).sum() / ranks.sum())
    if len(differing) > MOST_EXACT:
        p = float(stats.wilcoxon(differing, method="asymptotic").pvalue)
    else:
        p = _exact_p(ranks, differing > 0)
    return SignedRank(p, effect, len(differing))


def _exact_p(ranks: FloatArray, positive: NDArray[np.bool_]) -> float:
    # Tied values share a rank that ends in a half: twice the ranks are whole numbers.
    doubled = np.rint(2 * ranks).astype(np.int64)
    chances = np.zeros(int(doubled.sum()) + 1)
    chances[0] = 1.0
    for rank in doubled.tolist():
        moved = chances.copy()
        moved[rank:] += chances[: len(chances) - rank]
        chances = moved / 2
    sum_positive = int(doubled[positive].sum())
    tail = min(sum_positive, int(doubled.sum()) - sum_positive)
    return min(1.0, 2.0 * float(chances[: tail + 1].sum()))


def least_p(pairs: int, tests: int = 1) -> float:
    """The least p value of `signed_rank` with so many pairs, corrected for so many tests."""
    return min(1.0, tests * 2.0 / 2.0**pairs)


def pairs_needed(tests: int, level: float) -> int:
    """From how many pairs on `least_p` of so many tests is below the level."""
    pairs = 1
    while least_p(pairs, tests) >= level:
        pairs += 1
    return pairs


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of a family of tests, corrected for their number, in the order given.

    Holm's step-down procedure (A Simple Sequentially Rejective Multiple Test Procedure,
    Scandinavian Journal of Statistics 6(2), 1979): the chance that any true hypothesis of the
    family is rejected stays below the level at which the corrected values are read.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(order))
    largest = 0.0
    for rank, number in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[number]))
        corrected[number] = largest
    return [float(each) for each in corrected]
