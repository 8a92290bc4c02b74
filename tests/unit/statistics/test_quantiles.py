"""Percentiles have intervals that cover, or are refused; lost packets count as infinitely late."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from testbed.statistics.quantiles import (
    PERCENTILES,
    Quantile,
    interval_ranks,
    least_samples,
    nearest_rank,
    quantile,
    quantiles,
)

SHARES = list(PERCENTILES.values())


def test_the_least_samples_are_those_of_the_text() -> None:
    assert [least_samples(share) for share in SHARES] == [6, 72, 368, 3688]
    assert least_samples(0.05) == least_samples(0.95)
    for share in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match="share"):
            least_samples(share)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6000), st.sampled_from([*SHARES, 0.1, 0.01]))
def test_the_ranks_are_the_narrowest_whose_tails_are_small_enough(n: int, share: float) -> None:
    # By the binomial sums themselves, term by term, not by their inverse.
    terms = binom.pmf(np.arange(n + 1), n, share)
    below = np.concatenate(([0.0], np.cumsum(terms)))  # below[l] = P(Bin < l)
    ranks = np.arange(1, n + 1)
    lows = ranks[below[ranks] <= 0.025 + 1e-12]
    highs = ranks[1 - below[ranks] <= 0.025 + 1e-12]
    if not len(lows) or not len(highs):
        assert interval_ranks(n, share) is None
        return
    assert interval_ranks(n, share) == (int(lows.max()), int(highs.min()))


def test_intervals_cover_the_quantile_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    times = 600
    for share, n in ((0.5, 40), (0.95, 100), (0.99, 400)):
        truth = -math.log(1 - share)  # of the exponential distribution
        covered = 0
        for _ in range(times):
            found = quantile(np.sort(rng.exponential(size=n)), share)
            assert found.low is not None and found.high is not None
            covered += found.low <= truth <= found.high
        # Three standard deviations of the count below 95 %.
        assert covered / times > 0.95 - 3 * math.sqrt(0.95 * 0.05 / times)


def test_too_few_samples_are_said_and_nothing_is_guessed() -> None:
    few = quantile(np.arange(367.0), 0.99)
    assert few == Quantile(None, None, None, "367 of at least 368 samples")
    assert quantile(np.arange(368.0), 0.99).value == 364.0
    assert quantile(np.array([]), 0.5).note == "0 of at least 6 samples"


def test_lost_packets_are_infinitely_late() -> None:
    delays = np.arange(1.0, 91.0)
    assert quantile(delays, 0.5, 10).value == 50.0  # of 100, not of 90
    at_the_end = quantile(delays, 0.95, 10)
    assert (at_the_end.value, at_the_end.high) == (None, None)
    assert at_the_end.note == "undefined: so many were lost"
    without_limit = quantile(np.arange(1.0, 97.0), 0.95, 4)
    assert (without_limit.value, without_limit.high) == (95.0, None)
    assert without_limit.note == "no upper limit: so many were lost"


@given(st.lists(st.integers(0, 50), min_size=6, max_size=200), st.sampled_from(SHARES))
def test_a_percentile_is_that_of_the_nearest_rank(values: list[int], share: float) -> None:
    found = quantile(np.sort(np.array(values)), share)
    if len(values) >= least_samples(share):
        assert found.value == nearest_rank(np.array(values), share)
        assert found.low is not None and found.value is not None and found.high is not None
        assert found.low <= found.value <= found.high


def test_notes_stand_only_where_there_is_something_to_say() -> None:
    table = quantiles(np.arange(100)[::-1])
    assert table["p50"] == {"value": 49.0, "low": 39.0, "high": 60.0}
    assert table["p999"]["note"] == "100 of at least 3688 samples"
