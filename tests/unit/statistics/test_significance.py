"""The exact paired test and the correction for many tests, by hand, by brute force and by scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from testbed.statistics.significance import holm, least_p, pairs_needed, signed_rank


def test_the_signed_rank_test_is_scipys_and_its_effect_is_counted_by_hand() -> None:
    treated = np.array([1.0, 5.0, 3.0, 8.0, 2.0, 9.0])
    baseline = np.array([2.0, 3.0, 0.0, 4.0, 7.0, 3.0])
    # Differences -1, 2, 3, 4, -5, 6 have ranks 1 to 6: 15 against 6.
    found = signed_rank(treated - baseline)
    assert found.effect == pytest.approx((15 - 6) / 21)
    assert found.pairs == 6
    assert found.p == pytest.approx(stats.wilcoxon(treated, baseline).pvalue)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_p_is_the_share_of_all_signs_that_are_as_far_off(differences: list[int]) -> None:
    given_ = np.array(differences, np.float64)
    found = signed_rank(given_)
    differing = given_[given_ != 0]
    ranks = stats.rankdata(np.abs(differing))
    sums = [
        abs(float((ranks * signs).sum()))
        for signs in itertools.product((-1, 1), repeat=len(differing))
    ]
    seen = abs(float((ranks * np.sign(differing)).sum()))
    assert found.p == pytest.approx(np.mean([each >= seen - 1e-9 for each in sums]))


def test_pairs_without_difference_say_nothing() -> None:
    assert signed_rank(np.zeros(5)).p == 1.0
    mixed = signed_rank(np.array([0.0, 0.0, 1.0, 2.0]))
    assert (mixed.effect, mixed.pairs) == (1.0, 2)


def test_with_many_pairs_it_is_nearly_the_exact_one() -> None:
    values = np.random.default_rng(1).normal(0.2, 1.0, 101)
    exact = float(stats.wilcoxon(values, method="exact").pvalue)
    assert signed_rank(values).p == pytest.approx(exact, rel=0.05)
    assert signed_rank(values[:100]).p == pytest.approx(
        float(stats.wilcoxon(values[:100], method="exact").pvalue)
    )


def test_the_least_p_value_is_that_of_pairs_that_all_point_one_way() -> None:
    assert least_p(8) == signed_rank(np.arange(1.0, 9.0)).p
    assert least_p(8, 7) == pytest.approx(7 * 2 / 256)
    assert pairs_needed(1, 0.05) == 6  # five give 1/16
    assert pairs_needed(15, 0.05) == 10  # nine give 0.0586


def test_holm_by_hand() -> None:
    # Ascending 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1; none may be below the one before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
