"""Estimates with 95 % intervals, by the jackknife. Pure.

Values stand in tables [C, M, S]: C cells, M training runs (1 for what is not trained) and S streams
of requests, which all tables have in common. A run of a comparison on the network is a stream.

The error of an estimate is that of leaving out one value at a time (Tukey, Bias and Confidence in
Not-Quite Large Samples, Annals of Mathematical Statistics 29, 1958; Miller, The Jackknife: A
Review, Biometrika 61(1), 1974): with the estimates t(i) without value i,

    variance = (n - 1) / n x sum (t(i) - mean t)^2,   interval = t +- Student's quantile x error.

There are two layers of luck. A stream is left out of all cells and all tables at once, for every
policy met it, and streams of one seed resemble each other in all cells. A training run is left out
of all cells at once. The variances of the layers are added, which counts what only the pair of run
and stream explains twice: it errs towards a wider interval, as the pigeonhole bootstrap does (Owen,
Annals of Applied Statistics 1(2), 2007). Student's distribution has the degrees of freedom of the
layer with the fewest values (Cameron, Gelbach and Miller, Robust Inference with Multiway
Clustering, Journal of Business and Economic Statistics 29(2), 2011). Three training runs therefore
say little, as they should. One training run has no layer: the interval is of that one model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
LEAST_PAIRS = 6
"""Below so many streams there is no interval, and nothing is claimed: with five pairs that all
point one way, the exact test of `significance` still gives chance one in sixteen."""
ROUNDING = 1e-9
"""What is smaller than this share of the values is rounding, not a difference."""

FloatArray = NDArray[np.float64]
Statistic = Callable[[Sequence[FloatArray]], FloatArray]
"""Of tables [B, C, M, S], a figure for each of B. M and S may be less than in the data."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval and the p value of "it is 0"; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in a summary."""
        return {"value": self.value, "low": self.low, "high": self.high}


NOTHING = Estimate(None, None, None)


def estimate(statistic: Statistic, tables: Sequence[FloatArray], scale: float = 1.0) -> Estimate:
    """A statistic of tables [C, M, S] with its interval; `scale` is the size of what it is made of.

    There is no value if the statistic is not finite, and no interval if it is not finite without
    some stream or training run, or below `LEAST_PAIRS` streams.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic([table[None] for table in tables])[0])
        if not np.isfinite(value):
            return NOTHING
        if tables[0].shape[-1] < LEAST_PAIRS:
            return Estimate(value, None, None)
        layers = _layers(statistic, tables)
    variance = sum(_variance(layer) for layer in layers)
    if not np.isfinite(variance):
        return Estimate(value, None, None)
    error = 0.0 if variance**0.5 <= ROUNDING * scale else variance**0.5
    freedom = min(len(layer) for layer in layers) - 1
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    centre = 0.0 if abs(value) <= ROUNDING * scale else value
    return Estimate(value, value - half, value + half, _p(centre, error, freedom))


def _p(value: float, error: float, freedom: int) -> float:
    if value == 0.0:
        return 1.0
    return 2.0 * float(stdtr(freedom, -abs(value) / error)) if error else 0.0


def _variance(layer: FloatArray) -> float:
    if not np.isfinite(layer).all():
        return float("nan")
    count = len(layer)
    return float((count - 1) / count * ((layer - layer.mean()) ** 2).sum())


def _layers(statistic: Statistic, tables: Sequence[FloatArray]) -> list[FloatArray]:
    """For each layer of luck, the estimates without each of its values."""
    kept = _without_each(tables[0].shape[-1])
    layers = [statistic([np.moveaxis(table[:, :, kept], 2, 0) for table in tables])]
    for number, table in enumerate(tables):
        if table.shape[1] > 1:
            left = [each[None] for each in tables]
            left[number] = np.moveaxis(table[:, _without_each(table.shape[1]), :], 1, 0)
            layers.append(statistic(left))
    return layers


@functools.lru_cache(maxsize=64)
def _without_each(count: int) -> NDArray[np.int64]:
    """Row i has the numbers below `count` but i."""
    numbers = np.arange(count)
    return np.array([np.delete(numbers, each) for each in numbers]).reshape(count, count - 1)


def means(tables: Sequence[FloatArray]) -> FloatArray:
    """Mean of the values of one table [B, C, M, S]; every cell has the same weight."""
    (table,) = tables
    return np.asarray(table.mean(axis=(1, 2, 3)))


def interquartile_means(tables: Sequence[FloatArray]) -> FloatArray:
    """Mean of the middle half of the values of one table [B, C, M, S].

    Recommended for few runs by Agarwal et al. (Deep Reinforcement Learning at the Edge of the
    Statistical Precipice, NeurIPS 2021): an outlier moves it less than the mean, and it uses more
    of the values than the median does. A quarter of the weight is cut off at either end, so that a
    value on the edge counts in part: it changes smoothly when a value is left out.
    """
    (table,) = tables
    ordered = np.sort(table.reshape(len(table), -1), axis=1)
    count = ordered.shape[1]
    edges = np.clip(np.arange(count + 1) / count, 0.25, 0.75)
    return np.asarray(ordered @ (np.diff(edges) / 0.5))
