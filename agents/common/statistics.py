"""The statistics of an evaluation: what two policies differ by, and how sure that is. Pure.

Values of one policy form a table [M, S]: M training runs (1 for what is not trained), S request
streams, which all policies have in common. Ratios and resampling follow `testbed.results`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from testbed.results.statistics import BOOTSTRAP_SEED, MIN_PAIRS, Ratio

FloatArray = NDArray[np.float64]
RESAMPLES = 2000
LEVELS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval; no interval below `MIN_PAIRS` values."""

    value: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, Any]:
        """As it stands in a summary."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Test:
    """A paired test. `effect` is the matched-pairs rank-biserial correlation (see `wilcoxon`)."""

    __test__ = False  # no test of pytest's

    p: float
    effect: float
    pairs: int


Statistic = Callable[[FloatArray], FloatArray]
"""Of values [B, K], a figure for each row [B]."""


def means(values: FloatArray) -> FloatArray:
    """Mean of each row of [B, K]."""
    return np.asarray(values.mean(axis=1))


def interquartile_means(values: FloatArray) -> FloatArray:
    """Mean of the middle half of each row of [B, K]: a quarter is cut off at either end.

    Recommended for few runs by Agarwal et al. (Deep Reinforcement Learning at the Edge of the
    Statistical Precipice, NeurIPS 2021): an outlier moves it less than the mean, and it uses more
    of the values than the median does.
    """
    return np.asarray(stats.trim_mean(values, 0.25, axis=1))


def stratified_interval(
    strata: Sequence[FloatArray],
    statistic: Statistic = interquartile_means,
    seed: int = BOOTSTRAP_SEED,
) -> Estimate:
    """A statistic over all values of several strata, with a stratified bootstrap interval.

    Each stratum is a table [M, S] of a policy's values in one cell (load, topology). In each of
    `RESAMPLES` resamples training runs and streams of every stratum are drawn with replacement,
    so that each weighs as much as in the data (Agarwal et al. 2021, section 4). Training runs and
    streams are drawn apart, since values of a training run, and of a stream, have much in common
    (Owen, The Pigeonhole Bootstrap, Annals of Applied Statistics 1(2), 2007).
    """
    value = float(statistic(np.concatenate([table.ravel() for table in strata])[None])[0])
    if min(table.shape[1] for table in strata) < MIN_PAIRS:
        return Estimate(value, None, None)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([_resampled(table, rng) for table in strata], axis=1)
    low, high = np.quantile(statistic(drawn), LEVELS)
    return Estimate(value, float(low), float(high))


def _resampled(table: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Resamples of a table [M, S], one in each row of [RESAMPLES, M x S]."""
    runs, streams = table.shape
    rows = rng.integers(0, runs, (RESAMPLES, runs))
    columns = rng.integers(0, streams, (RESAMPLES, streams))
    return table[rows[:, :, None], columns[:, None, :]].reshape(RESAMPLES, -1)


def ratio_of_means(treated: FloatArray, baseline: FloatArray, seed: int = BOOTSTRAP_SEED) -> Ratio:
    """mean(treated) / mean(baseline) of two tables [M, S] and [K, S] of the same S streams.

    As `testbed.results.statistics.paired_ratio`, for policies with several training runs: streams
    are drawn with replacement for both tables alike, training runs for each table apart.
    """
    return mean_ratio([(treated, baseline)], seed)


def mean_ratio(
    strata: Sequence[tuple[FloatArray, FloatArray]], seed: int = BOOTSTRAP_SEED
) -> Ratio:
    """The mean over strata of `ratio_of_means`, each stratum resampled by itself.

    A stratum is a cell (load, topology); each has the same weight, whatever its size. A policy
    compared with itself has the ratio 1, with no width.
    """
    if not strata or min(treated.shape[1] for treated, _ in strata) == 0:
        return Ratio(None, None, None, "no stream with this figure")
    if any(baseline.sum() == 0 for _, baseline in strata):
        return Ratio(None, None, None, "the baseline's mean is 0")
    ratio = float(np.mean([treated.mean() / baseline.mean() for treated, baseline in strata]))
    streams = min(treated.shape[1] for treated, _ in strata)
    if streams < MIN_PAIRS:
        return Ratio(ratio, None, None, f"no interval: {streams} of at least {MIN_PAIRS} streams")
    rng = np.random.default_rng(seed)
    total = np.zeros(RESAMPLES)
    for treated, baseline in strata:
        above, below = _paired_means(treated, baseline, rng)
        if np.any(below == 0):
            return Ratio(ratio, None, None, "no interval: the baseline is 0 in some resamples")
        total += above / below
    low, high = np.quantile(total / len(strata), LEVELS)
    return Ratio(ratio, float(low), float(high), None)


def total_ratio(
    strata: Sequence[tuple[FloatArray, FloatArray]], seed: int = BOOTSTRAP_SEED
) -> Ratio:
    """Ratio of the sums over strata of the means, each stratum resampled by itself.

    For figures that add up and may be 0 in a stratum, such as packets lost: what all strata have
    together counts, so that one with little of it has little weight.
    """
    below = sum(float(baseline.mean()) for _, baseline in strata)
    if below == 0:
        return Ratio(None, None, None, "the baseline's mean is 0")
    ratio = sum(float(treated.mean()) for treated, _ in strata) / below
    streams = min(treated.shape[1] for treated, _ in strata)
    if streams < MIN_PAIRS:
        return Ratio(ratio, None, None, f"no interval: {streams} of at least {MIN_PAIRS} streams")
    rng = np.random.default_rng(seed)
    drawn = np.sum([_paired_means(*each, rng) for each in strata], axis=0)
    if np.any(drawn[1] == 0):
        return Ratio(ratio, None, None, "no interval: the baseline is 0 in some resamples")
    low, high = np.quantile(drawn[0] / drawn[1], LEVELS)
    return Ratio(ratio, float(low), float(high), None)


def mean_difference(
    strata: Sequence[tuple[FloatArray, FloatArray]], seed: int = BOOTSTRAP_SEED
) -> Estimate:
    """The mean over strata of mean(treated) - mean(baseline), resampled as in `mean_ratio`.

    It has a meaning where the ratio has none, because the baseline is 0.
    """
    value = float(np.mean([treated.mean() - baseline.mean() for treated, baseline in strata]))
    if min(treated.shape[1] for treated, _ in strata) < MIN_PAIRS:
        return Estimate(value, None, None)
    rng = np.random.default_rng(seed)
    drawn = np.mean([_paired_means(*each, rng) for each in strata], axis=0)
    low, high = np.quantile(drawn[0] - drawn[1], LEVELS)
    return Estimate(value, float(low), float(high))


def _paired_means(
    treated: FloatArray, baseline: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Means of resamples of two tables [M, S] and [K, S]: streams in common, runs apart."""
    streams = treated.shape[1]
    drawn = rng.integers(0, streams, (RESAMPLES, streams))
    runs = [rng.integers(0, len(table), (RESAMPLES, len(table))) for table in (treated, baseline)]
    return _means(treated, runs[0], drawn), _means(baseline, runs[1], drawn)


def _means(table: FloatArray, runs: NDArray[np.int64], streams: NDArray[np.int64]) -> FloatArray:
    """Means of resamples: rows [B, M] and columns [B, S] of a table; shape [B]."""
    means: FloatArray = table[runs[:, :, None], streams[:, None, :]].mean(axis=(1, 2))
    return means


def wilcoxon(treated: FloatArray, baseline: FloatArray) -> Test:
    """Wilcoxon's signed-rank test of paired values [S], two-sided, with its effect size.

    The effect is the matched-pairs rank-biserial correlation (Kerby, The Simple Difference
    Formula, Comprehensive Psychology 3, 2014): the ranks of the pairs in which the treated value
    is greater, less those of the others, as a share of all; 1 or -1 if all pairs point one way.
    Pairs without a difference are left out; if there is no other, p is 1 and the effect 0.
    """
    difference = treated - baseline
    difference = difference[difference != 0]
    if len(difference) == 0:
        return Test(1.0, 0.0, 0)
    ranks = stats.rankdata(np.abs(difference))
    effect = float((ranks * np.sign(difference)).sum() / ranks.sum())
    p = float(stats.wilcoxon(difference).pvalue)
    return Test(p, effect, len(difference))


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
