"""The statistics of an evaluation, against values computed by hand or by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from agents.common.statistics import (
    holm,
    interquartile_means,
    mean_difference,
    mean_ratio,
    means,
    ratio_of_means,
    stratified_interval,
    total_ratio,
    wilcoxon,
)
from testbed.results.statistics import paired_ratio


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    values = np.array([1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -1000.0])
    rows = np.stack([values, values + 1])
    assert interquartile_means(rows) == pytest.approx([(2 + 3 + 4 + 5) / 4, 4.5])
    assert interquartile_means(np.array([[7.0]])).tolist() == [7.0]


def test_the_interval_of_the_mean_is_scipys_bootstrap() -> None:
    rng = np.random.default_rng(1)
    values = rng.lognormal(size=40)
    found = stratified_interval([values[None]], means)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=rng
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert found.low is not None and found.high is not None
    width = expected.high - expected.low
    # The ends of a bootstrap of 2000 are themselves uncertain: by about 3 % of its width.
    assert abs(found.low - expected.low) < 0.1 * width
    assert abs(found.high - expected.high) < 0.1 * width


def test_strata_keep_their_weight_in_every_resample() -> None:
    # Without variance within strata nothing but their weights could vary.
    found = stratified_interval([np.full((1, 5), 1.0), np.full((2, 10), 4.0)])
    assert (found.low, found.high) == (found.value, found.value)
    assert stratified_interval([np.ones((1, 2))]).low is None


def test_training_runs_are_drawn_as_well_as_streams() -> None:
    # All streams agree, training runs do not: the uncertainty is theirs alone.
    table = np.repeat([[1.0], [2.0], [6.0]], 50, axis=1)
    found = stratified_interval([table], means)
    assert found.value == pytest.approx(3.0)
    assert (found.low, found.high) == (1.0, 6.0)  # one in 27 resamples each: more than 2.5 %
    ratio = ratio_of_means(table, np.full((1, 50), 2.0))
    assert (ratio.ratio, ratio.low, ratio.high) == (1.5, 0.5, 3.0)


def test_the_ratio_of_single_runs_is_that_of_paired_runs() -> None:
    rng = np.random.default_rng(2)
    baseline = rng.lognormal(size=30)
    treated = 0.5 * baseline * rng.lognormal(sigma=0.1, size=30)
    found, expected = ratio_of_means(treated[None], baseline[None]), paired_ratio(treated, baseline)
    assert found.ratio == pytest.approx(expected.ratio)
    assert expected.low is not None and expected.high is not None
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.1 * width)
    assert found.high == pytest.approx(expected.high, abs=0.1 * width)


def test_pairs_stay_pairs() -> None:
    baseline = np.array([[1.0, 10.0, 100.0, 1000.0]])
    ratio = ratio_of_means(baseline / 2, baseline)
    assert (ratio.ratio, ratio.low, ratio.high) == (0.5, 0.5, 0.5)
    difference = mean_difference([(baseline - 3.0, baseline)])
    assert difference.value == pytest.approx(-3.0)
    assert difference.low == pytest.approx(-3.0)
    assert difference.high == pytest.approx(-3.0)


def test_the_mean_ratio_gives_every_stratum_the_same_weight() -> None:
    small, large = np.full((1, 4), 1.0), np.full((1, 40), 1000.0)
    found = mean_ratio([(small * 3, small), (large, large)])
    assert (found.ratio, found.low, found.high) == (2.0, 2.0, 2.0)
    skewed = np.random.default_rng(4).lognormal(sigma=2.0, size=(1, 12))
    same = mean_ratio([(skewed, skewed), (large, large)])
    assert (same.ratio, same.low, same.high) == (1.0, 1.0, 1.0)
    assert mean_ratio([]).ratio is None


def test_the_ratio_of_totals_counts_what_there_is() -> None:
    # Ten lost in one cell and none in the other; half of them remain, and three appear.
    lossy, clean = np.full((1, 4), 10.0), np.zeros((1, 4))
    found = total_ratio([(lossy / 2, lossy), (clean + 3.0, clean)])
    assert (found.ratio, found.low, found.high) == (0.8, 0.8, 0.8)
    assert total_ratio([(lossy, clean)]).ratio is None
    assert mean_difference([(lossy / 2, lossy), (clean + 3.0, clean)]).value == -1.0


def test_what_has_no_ratio_says_why() -> None:
    ones, zeros = np.ones((1, 4)), np.zeros((1, 4))
    assert ratio_of_means(ones, zeros).note == "the baseline's mean is 0"
    some = np.array([[0.0, 0.0, 0.0, 1.0]])
    found = ratio_of_means(ones, some)
    assert (found.ratio, found.low) == (4.0, None)
    assert found.note == "no interval: the baseline is 0 in some resamples"
    assert ratio_of_means(ones[:, :2], ones[:, :2]).note == ("no interval: 2 of at least 3 streams")
    assert mean_difference([(ones, zeros)]).low == 1.0


def test_wilcoxon_is_scipys_and_its_effect_is_counted_by_hand() -> None:
    treated = np.array([1.0, 5.0, 3.0, 8.0, 2.0, 9.0])
    baseline = np.array([2.0, 3.0, 0.0, 4.0, 7.0, 3.0])
    # Differences -1, 2, 3, 4, -5, 6 have ranks 1 to 6: 15 against 6.
    found = wilcoxon(treated, baseline)
    assert found.effect == pytest.approx((15 - 6) / 21)
    assert found.pairs == 6
    assert found.p == stats.wilcoxon(treated, baseline).pvalue
    # Exactly: 1 of 64 sign patterns has a rank sum of 0, one of 21.
    assert wilcoxon(baseline + np.arange(1, 7), baseline).p == pytest.approx(2 / 64)


def test_pairs_without_difference_say_nothing() -> None:
    same = np.ones(5)
    assert wilcoxon(same, same).p == 1.0
    mixed = wilcoxon(np.array([1.0, 1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0, 1.0]))
    assert (mixed.effect, mixed.pairs) == (1.0, 2)


def test_holm_by_hand() -> None:
    # Ascending 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1; none may be below the one before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(3).normal(size=(3, 12))
    assert stratified_interval([values]) == stratified_interval([values])
    assert stratified_interval([values]) != stratified_interval([values], seed=1)
    assert ratio_of_means(values + 9, values + 8) == ratio_of_means(values + 9, values + 8)
