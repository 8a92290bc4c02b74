"""Errors of the twin and rank correlations, on figures whose truth is known."""

from __future__ import annotations

import pytest

from testbed.calibration.accuracy import (
    Figures,
    Pair,
    assess,
    error_of,
    rank_correlation,
    spread,
    within,
)


def pair(policy: str, seed: int, emulation: Figures, twin: Figures, scenario: str = "s") -> Pair:
    return Pair(scenario, policy, seed, emulation, twin, valid=True)


def figures(p50: float | None, dropped: float = 0.0, pps: float = 100.0) -> Figures:
    return Figures(p50, None if p50 is None else 2 * p50, pps, dropped)


def test_latency_and_throughput_err_in_relation_and_drops_by_difference() -> None:
    assert error_of("latency_p50_ns", 20.0, 23.0) == pytest.approx(0.15)
    assert error_of("delivered_pps", 100.0, 95.0) == pytest.approx(-0.05)
    assert error_of("dropped", 0.01, 0.03) == pytest.approx(0.02)
    assert error_of("dropped", 0.0, 0.0) == 0.0


def test_what_is_not_there_has_no_error() -> None:
    assert error_of("latency_p50_ns", None, 1.0) is None
    assert error_of("latency_p50_ns", 1.0, None) is None
    assert error_of("delivered_pps", 0.0, 1.0) is None


def test_the_spread_is_over_the_seeds_that_have_the_figure() -> None:
    pairs = [
        pair("a", 1, figures(10.0), figures(11.0)),
        pair("a", 2, figures(10.0), figures(8.0)),
        pair("a", 3, figures(None), figures(8.0)),
    ]
    found = spread(pairs, "latency_p50_ns")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((-0.2, 0.1))
    assert found.runs == 2
    assert found.mean == pytest.approx(-0.05)
    assert spread(pairs[2:], "latency_p50_ns") is None


def test_errors_of_both_signs_are_within_targets_alike() -> None:
    assert within("latency_p50_ns", -0.149) is True
    assert within("latency_p50_ns", -0.151) is False
    assert within("dropped", 0.021) is False
    assert within("latency_p99_ns", 5.0) is None


def test_ranks_count_and_not_values() -> None:
    assert rank_correlation([1.0, 2.0, 30.0], [5.0, 6.0, 7.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    # 1 - 6 (0 + 1 + 1 + 0) / (4 x 15), Spearman's formula
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)


def test_two_policies_or_equal_ones_have_no_rank_correlation() -> None:
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None
    assert rank_correlation([0.0, 0.0, 0.0], [0.0, 0.1, 0.2]) is None


def test_policies_are_ranked_by_their_means_over_seeds() -> None:
    # Seed 1 alone would rank b before a; the means do not.
    pairs = [
        pair("a", 1, figures(10.0), figures(9.0)),
        pair("a", 2, figures(10.0), figures(9.0)),
        pair("b", 1, figures(5.0), figures(5.0)),
        pair("b", 2, figures(40.0), figures(41.0)),
        pair("c", 1, figures(50.0), figures(49.0)),
    ]
    found = assess(pairs)
    assert found["ranks"]["s"]["latency_p50_ns"] == pytest.approx(1.0)
    assert found["ranks"]["s"]["policies"] == 3
    assert found["ranks"]["s"]["dropped"] is None


def test_a_row_for_each_scenario_and_policy_and_the_worst_of_all() -> None:
    pairs = [
        pair("a", 1, figures(10.0, 0.10), figures(12.0, 0.10)),
        pair("a", 1, figures(10.0, 0.00), figures(10.5, 0.05), scenario="t"),
    ]
    found = assess(pairs)
    assert [(row["scenario"], row["policy"]) for row in found["rows"]] == [("s", "a"), ("t", "a")]
    latency, dropped = found["overall"]["latency_p50_ns"], found["overall"]["dropped"]
    assert latency["missed"] == ["s, a"] and latency["worst"] == pytest.approx(0.2)
    assert latency["mean_absolute_error"] == pytest.approx(0.125)
    assert dropped["missed"] == ["t, a"] and dropped["worst"] == pytest.approx(0.05)
