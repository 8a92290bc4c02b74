"""The jackknife, against closed forms, and in two layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from testbed.statistics.jackknife import (
    LEAST_PAIRS,
    FloatArray,
    estimate,
    interquartile_means,
    means,
)


def table(values: NDArray[Any]) -> FloatArray:
    return np.asarray(values, np.float64).reshape(1, 1, -1)


def test_of_a_mean_it_is_students_interval_and_test() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 15)
    found = estimate(means, [table(values)], 10.0)
    expected = stats.ttest_1samp(values, 0.0)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(expected.pvalue)


def test_below_six_streams_there_is_a_value_and_nothing_more() -> None:
    found = estimate(means, [table(np.arange(LEAST_PAIRS - 1))])
    assert (found.value, found.low, found.high, found.p) == (2.0, None, None, None)
    assert estimate(means, [table(np.arange(LEAST_PAIRS))]).low is not None


def test_what_is_not_finite_has_no_value_or_no_interval() -> None:
    def inverse(tables: Sequence[FloatArray]) -> FloatArray:
        return np.asarray(1 / means(tables))

    assert estimate(inverse, [table(np.zeros(8))]).value is None
    once = estimate(inverse, [table(np.eye(8)[0])])  # without the one stream there is nothing
    assert (once.value, once.low, once.p) == (8.0, None, None)


def test_rounding_is_no_difference() -> None:
    values = np.full(8, 0.1 + 0.2) - 0.3  # 5.6e-17 each
    found = estimate(means, [table(values)], 0.3)
    assert found.p == 1.0
    assert estimate(means, [table(np.full(8, 0.5))]).p == 0.0


def test_training_runs_are_left_out_as_well_as_streams() -> None:
    # All streams agree and training runs do not: the uncertainty is theirs alone.
    runs = np.array([1.0, 2.0, 6.0])
    found = estimate(means, [np.repeat(runs[None, :, None], 50, axis=2)], 6.0)
    low, high = stats.t.interval(0.95, 2, runs.mean(), stats.sem(runs))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_a_stream_is_left_out_of_all_cells_at_once() -> None:
    # The same streams twice say no more than once.
    values = np.random.default_rng(2).normal(size=12)
    once, twice = table(values), np.stack([table(values)[0]] * 2)
    assert estimate(means, [once]).low == pytest.approx(estimate(means, [twice]).low)


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    values = np.array([1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -1000.0])
    rows = np.stack([table(values), table(values + 1)])
    assert interquartile_means([rows]) == pytest.approx([(2 + 3 + 4 + 5) / 4, 4.5])
    assert interquartile_means([table(np.array([7.0]))[None]]) == pytest.approx([7.0])
    # Of five values 1.25 are cut off at either end: the second counts three quarters.
    odd = interquartile_means([table(np.array([0.0, 1.0, 5.0, 9.0, 99.0]))[None]])
    assert odd == pytest.approx([(0.75 * 1 + 5 + 0.75 * 9) / 2.5])


def test_the_interval_of_the_interquartile_mean_covers() -> None:
    rng, inside, draws = np.random.default_rng(3), 0, 400
    for _ in range(draws):
        found = estimate(interquartile_means, [table(rng.normal(5.0, 2.0, 20))])
        assert found.low is not None and found.high is not None
        inside += found.low <= 5.0 <= found.high
    # So few would be inside with a chance of one in a thousand if the interval covered 95 %.
    assert inside >= stats.binom.ppf(0.001, draws, 0.95)
