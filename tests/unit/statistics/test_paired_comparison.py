"""Ratios, their intervals and their claims: by hand, and by simulation of what is true."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from testbed.statistics.jackknife import FloatArray
from testbed.statistics.paired_comparison import LEVEL, Comparison, compare, corrected, is_claimed

Draw = Callable[[np.random.Generator, int, float], tuple[FloatArray, FloatArray]]
"""(generator, seeds, true ratio) -> treated and baseline [S], paired"""


def one(values: NDArray[Any]) -> FloatArray:
    return np.asarray(values, np.float64).reshape(1, 1, -1)


def judged(pair: tuple[FloatArray, FloatArray]) -> Comparison:
    return compare(one(pair[0]), one(pair[1]))


def latency(rng: np.random.Generator, seeds: int, ratio: float) -> tuple[FloatArray, FloatArray]:
    """Much that both have in common (the seed's requests), and skewed noise of each."""
    common = rng.lognormal(3.0, 0.5, seeds)
    noise = rng.lognormal(0.0, 0.2, (2, seeds))
    return ratio * common * noise[0], common * noise[1]


def heavy(rng: np.random.Generator, seeds: int, ratio: float) -> tuple[FloatArray, FloatArray]:
    """As percentiles near a queue's limit: a few seeds are many times the others."""
    noise = rng.lognormal(0.0, 1.0, (2, seeds))
    return ratio * noise[0], noise[1]


def losses(rng: np.random.Generator, seeds: int, ratio: float) -> tuple[FloatArray, FloatArray]:
    """Counts, more spread than Poisson's, some of them 0."""
    common = rng.gamma(0.7, 10.0, seeds)
    rates = common * rng.gamma(2.0, 0.5, (2, seeds))
    drawn = rng.poisson(rates * np.array([[ratio], [1.0]])).astype(np.float64)
    return drawn[0], drawn[1]


def rare(rng: np.random.Generator, seeds: int, ratio: float) -> tuple[FloatArray, FloatArray]:
    """Counts that are 0 in most seeds."""
    common = rng.gamma(0.3, 1.0, seeds)
    drawn = rng.poisson(common * np.array([[ratio], [1.0]])).astype(np.float64)
    return drawn[0], drawn[1]


def overload(rng: np.random.Generator, seeds: int, ratio: float) -> tuple[FloatArray, FloatArray]:
    """Durations, none in half of the seeds."""
    drawn = rng.exponential(3.0, (2, seeds)) * (rng.random((2, seeds)) < 0.5)
    return ratio * drawn[0], drawn[1]


def goodput(rng: np.random.Generator, seeds: int, ratio: float) -> tuple[FloatArray, FloatArray]:
    """Nearly the same for both, and less than what was sent."""
    sent = rng.normal(1000.0, 200.0, seeds)
    drawn = sent * (1.0 - rng.exponential(0.01, (2, seeds)))
    return ratio * drawn[0], drawn[1]


FIGURES: tuple[Draw, ...] = (latency, heavy, losses, rare, overload, goodput)


def family(
    rng: np.random.Generator, seeds: int, pairs: int, ratio: float = 1.0
) -> list[Comparison]:
    found = {}
    for pair in range(pairs):
        for figure in FIGURES:
            treated, baseline = figure(rng, seeds, ratio)
            found[pair, figure.__name__] = compare(one(treated), one(baseline))
    return list(corrected(found).values())


def claims(found: list[Comparison]) -> int:
    return sum(is_claimed(each.p_holm) for each in found)


@pytest.mark.parametrize(("seeds", "pairs"), [(8, 1), (12, 3), (20, 1)])
def test_without_a_difference_at_most_one_family_in_twenty_claims_any(
    seeds: int, pairs: int
) -> None:
    rng, families = np.random.default_rng([seeds, pairs]), 300
    wrong = sum(claims(family(rng, seeds, pairs)) > 0 for _ in range(families))
    # The greatest rate that is not refuted by so few: it is at most 5 %, with 95 % confidence.
    assert stats.beta.ppf(0.95, wrong + 1, families - wrong) <= LEVEL


def test_a_policy_against_itself_claims_nothing_in_twenty_comparisons() -> None:
    """The same decisions on the same seeds: the host alone makes a difference."""
    for number in range(20):
        rng = np.random.default_rng(number)
        found = {}
        for figure in FIGURES:
            plan, _ = figure(rng, 12, 1.0)
            host = 1.0 + rng.normal(0.0, 0.02, (2, 12))
            counts = figure in (losses, rare)
            first, second = plan + rng.poisson(0.3, (2, 12)) if counts else plan * host
            found[figure.__name__] = compare(one(first), one(second))
        assert claims(list(corrected(found).values())) == 0, number


def test_below_six_pairs_nothing_is_tested() -> None:
    rng = np.random.default_rng(1)
    for seeds in range(1, 6):
        for each in family(rng, seeds, 1, ratio=0.1):
            assert (each.low, each.p, each.p_holm) == (None, None, None)
            assert (
                each.ratio is None or f"{seeds} of at least 6" in str(each.note) or not each.ratio
            )


def test_a_true_difference_is_claimed() -> None:
    """A latency of two thirds, among fourteen other comparisons that are not claimed."""
    rng, draws = np.random.default_rng(2), 100
    found = {8: 0, 12: 0, 20: 0}
    same = compare(one(np.ones(20)), one(np.ones(20)))
    for seeds in found:
        for _ in range(draws):
            each = judged(latency(rng, seeds, 2 / 3))
            better = corrected({**dict.fromkeys(range(14), same), "better": each})["better"]
            claimed = is_claimed(better.p_holm)
            assert not claimed or (better.high is not None and better.high < 1)
            found[seeds] += claimed
    assert found[8] == 0  # fifteen tests are too many for the exact test of eight pairs
    assert found[12] >= 60
    assert found[20] >= 95


@pytest.mark.parametrize("seeds", [6, 10, 20])
@pytest.mark.parametrize("figure", [latency, losses, overload, goodput])
def test_the_interval_covers_the_true_ratio(figure: Draw, seeds: int) -> None:
    rng, draws, inside, intervals = np.random.default_rng(seeds), 500, 0, 0
    for _ in range(draws):
        found = judged(figure(rng, seeds, 0.7))
        if found.low is not None and found.high is not None:
            intervals += 1
            inside += found.low <= 0.7 <= found.high
    assert intervals > 0.75 * draws
    # The percentile bootstrap covers 73 to 91 % here. So few would be inside with a chance of one
    # in a thousand if 92 % were covered, and of counts of very unequal seeds 90 %.
    assert inside >= stats.binom.ppf(0.001, intervals, 0.90 if figure is losses else 0.92)


@pytest.mark.parametrize(("runs", "streams"), [(3, 20), (5, 10), (10, 20)])
def test_the_luck_of_a_training_is_in_the_interval(runs: int, streams: int) -> None:
    """Trainings differ by 30 %; leaving out streams alone covers a third of the time."""
    rng, draws, inside = np.random.default_rng(runs), 400, 0
    for _ in range(draws):
        common = rng.lognormal(0.0, 0.4, streams)
        luck = rng.lognormal(-0.045, 0.3, (runs, 1))
        treated = common * luck * rng.lognormal(-0.005, 0.1, (runs, streams))
        found = compare(treated[None], one(common))
        assert found.low is not None and found.high is not None
        inside += found.low <= 1.0 <= found.high
    assert inside >= stats.binom.ppf(0.001, draws, 0.92)


def test_two_lucky_trainings_are_no_claim() -> None:
    rng, wrong, draws = np.random.default_rng(6), 0, 300
    for _ in range(draws):
        luck = rng.lognormal(0.0, 0.3, (2, 1))
        treated = luck * rng.lognormal(0.0, 0.02, (2, 20))
        wrong += is_claimed(corrected({0: compare(treated[None], one(np.ones(20)))})[0].p_holm)
    # Of one training alone nearly all would be claims; two agree by chance once in twenty times.
    assert wrong <= stats.binom.ppf(0.999, draws, LEVEL)


def test_pairs_stay_pairs() -> None:
    baseline = 10.0 ** np.arange(6)
    found = compare(one(baseline / 2), one(baseline))
    assert (found.ratio, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.effect == -1.0
    assert found.p == pytest.approx(2 / 64)  # of Student's t it would be 0
    same = compare(one(baseline), one(baseline))
    assert (same.ratio, same.p, same.effect) == (1.0, 1.0, 0.0)


def test_a_against_b_is_the_inverse_of_b_against_a() -> None:
    rng = np.random.default_rng(3)
    treated, baseline = latency(rng, 9, 0.8)
    there, back = compare(one(treated), one(baseline)), compare(one(baseline), one(treated))
    assert there.ratio is not None and back.ratio is not None
    assert there.low is not None and back.high is not None
    assert there.ratio == pytest.approx(1 / back.ratio)
    assert there.low == pytest.approx(1 / back.high)
    assert there.p == pytest.approx(back.p)


def test_zeros_have_the_difference_instead() -> None:
    zeros, some = np.zeros(8), np.arange(1.0, 9.0)
    neither = compare(one(zeros), one(zeros))
    assert (neither.ratio, neither.note, neither.p) == (None, "both are 0", 1.0)
    gained = compare(one(some), one(zeros))
    assert (gained.ratio, gained.note) == (None, "the baseline is 0")
    assert gained.difference.value == 4.5
    assert gained.p == pytest.approx(2 / 256)
    lost = compare(one(zeros), one(some))
    assert (lost.ratio, lost.low) == (0.0, None)
    assert lost.difference.high is not None and lost.difference.high < 0
    # Lost in one seed alone: without it there is no ratio, and it says nothing.
    once = compare(one(np.eye(8)[0] * 40), one(some))
    assert once.ratio is not None and once.low is None
    assert once.note == "no interval: without one of its pairs there is no ratio"
    assert once.p is not None


def test_cells_weigh_the_same_and_totals_what_is_in_them() -> None:
    small, large = np.full((1, 1, 6), 1.0), np.full((1, 1, 6), 1000.0)
    treated, baseline = np.concatenate([small * 4, large]), np.concatenate([small, large])
    assert compare(treated, baseline).ratio == pytest.approx(2.0)  # the root of 4 x 1
    assert compare(treated, baseline, adds_up=True).ratio == pytest.approx(1004 / 1001)
    clean = np.concatenate([small * 0, large]), np.concatenate([small * 0, 2 * large])
    assert compare(*clean).ratio is None
    assert compare(*clean, adds_up=True).ratio == pytest.approx(0.5)


def test_the_same_streams_in_more_cells_are_no_more_evidence() -> None:
    treated, baseline = latency(np.random.default_rng(4), 8, 0.9)
    once = compare(one(treated), one(baseline))
    many = compare(np.repeat(one(treated), 5, 0), np.repeat(one(baseline), 5, 0))
    assert many.p == pytest.approx(once.p)
    assert many.low == pytest.approx(once.low)


def test_what_was_not_tested_does_not_count_in_the_family() -> None:
    rng = np.random.default_rng(5)
    tested = judged(latency(rng, 12, 0.5))
    few = judged(latency(rng, 3, 0.5))
    nothing = compare(np.zeros((1, 1, 0)), np.zeros((1, 1, 0)))
    found = corrected({"a": tested, "b": few, "c": nothing})
    assert found["a"].p_holm == tested.p
    assert found["b"].p_holm is None and found["c"].p_holm is None
    assert nothing.note == "nothing to compare" and math.isclose(
        found["b"].ratio or 0, few.ratio or 1
    )
