"""Comparisons are paired by seed, honest about few seeds and zeros, and recomputable."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from testbed.results.summaries import FIGURES, compare, write_summary
from testbed.statistics.significance import holm
from tests.support.results_support import MS, event, packets, schedule, write_plan, write_run


def run(seed: int, p99: float | None = 100.0, **changes: Any) -> dict[str, Any]:
    base = {
        "seed": seed,
        "valid": True,
        "latency_ns": {"p50": 10.0, "p99": p99},
        "lost": 5,
        "goodput_bps": 1000.0,
        "overload_s": 0.0,
    }
    return {**base, **changes}


def test_ratios_are_of_means_over_the_seeds_that_both_have() -> None:
    runs = {
        "deft": [run(seed, 100.0 * seed) for seed in range(1, 7)] + [run(9, 1e9)],
        "ppo": [run(seed, 50.0 * seed) for seed in range(6, 0, -1)] + [run(8, 1e9)],
    }
    figures = compare(runs, "deft")["ppo vs deft"]
    assert set(figures) == set(FIGURES)
    # Every pair has the ratio one half: so it is without any of them, if pairs stay pairs.
    found = figures["latency_p99"]
    assert (found["ratio"], found["low"], found["high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert found["pairs"] == 6
    assert found["seeds"][1] == {"seed": 2, "treated": 100.0, "baseline": 200.0}
    assert figures["overload"]["ratio"] is None
    assert figures["overload"]["note"] == "both are 0"


def test_p_values_are_corrected_over_all_figures_and_pairs() -> None:
    runs = {
        name: [run(seed, share * (100.0 + seed), lost=round(9 * share)) for seed in range(1, 13)]
        for name, share in (("deft", 1.0), ("greedy-delay", 0.8), ("ppo", 0.5))
    }
    entries = [each for pair in compare(runs, "deft").values() for each in pair.values()]
    assert len(entries) == 3 * len(FIGURES)
    assert [each["p_holm"] for each in entries] == holm([each["p"] for each in entries])
    assert min(each["p_holm"] for each in entries) == pytest.approx(15 * 2 / 2**12)


def test_a_seed_with_a_run_that_is_not_valid_is_left_out_unless_it_is_asked_for() -> None:
    runs = {
        "deft": [run(1, 100.0), run(2, 100.0, valid=False), run(3, 100.0)],
        "ppo": [run(1, 50.0), run(2, 50.0), run(3, 250.0, valid=False)],
    }
    assert compare(runs, "deft")["ppo vs deft"]["latency_p99"]["ratio"] == 0.5
    figure = compare(runs, "deft", include_invalid=True)["ppo vs deft"]["latency_p99"]
    assert figure["ratio"] == pytest.approx(350 / 300)


def test_every_policy_meets_the_baseline_and_ppo_meets_greedy() -> None:
    runs = {name: [run(1)] for name in ("deft", "greedy-delay", "ppo")}
    assert list(compare(runs, "deft")) == [
        "greedy-delay vs deft", "ppo vs deft", "ppo vs greedy-delay",
    ]  # fmt: skip
    assert list(compare(runs, "greedy-delay")) == ["deft vs greedy-delay", "ppo vs greedy-delay"]
    assert compare({"ppo": [run(1)]}, "deft") == {}


def test_few_seeds_have_no_interval() -> None:
    runs = {"deft": [run(1), run(2)], "ppo": [run(1, 50.0), run(2, 50.0)]}
    figure = compare(runs, "deft")["ppo vs deft"]["latency_p99"]
    assert figure["ratio"] == 0.5
    assert (figure["low"], figure["high"]) == (None, None)
    assert figure["note"] == "no interval: 2 of at least 6 pairs"
    assert (figure["p"], figure["p_holm"]) == (None, None)


def test_a_run_without_latency_is_left_out() -> None:
    runs = {"deft": [run(1), run(2, None)], "ppo": [run(1, 50.0), run(2, 1.0)]}
    assert compare(runs, "deft")["ppo vs deft"]["latency_p99"]["ratio"] == 0.5
    runs = {"deft": [run(2, None)], "ppo": [run(2, 1.0)]}
    figure = compare(runs, "deft")["ppo vs deft"]["latency_p99"]
    assert figure["ratio"] is None
    assert figure["note"] == "nothing to compare"


def frame_with(latency_ms: int, lost: int = 0) -> pd.DataFrame:
    records = [(0, 0, seq, seq * MS + latency_ms * MS) for seq in range(20 - lost)]
    return packets([schedule(20)], records)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_plan(tmp_path, ["deft", "ppo"], [1, 2, 3])
    events = [event(0, "decision", request=0, accepted=True, placements=[]), event(50, "run-end")]
    for seed in (1, 2, 3):
        write_run(tmp_path / "deft" / f"seed-{seed}", frame_with(40, 4), events, seed)
        write_run(tmp_path / "ppo" / f"seed-{seed}", frame_with(10, 1), events, seed)
    return tmp_path


def test_the_summary_of_a_folder(results: Path) -> None:
    summary = write_summary(results)
    assert json.loads((results / "summary.json").read_text()) == summary
    assert (summary["format"], summary["scenario"], summary["valid"]) == (2, "small", True)
    assert [entry["seed"] for entry in summary["policies"]["ppo"]["runs"]] == [1, 2, 3]
    figures = summary["comparison"]["ppo vs deft"]
    assert figures["latency_p99"]["ratio"] == pytest.approx(0.25)
    assert figures["lost"]["ratio"] == pytest.approx(0.25)
    assert figures["goodput"]["ratio"] == pytest.approx(19 / 16)
    with open(results / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[0]["policy"] == "deft"
    assert int(rows[0]["latency_p99_ns"]) == 40 * MS
    assert rows[0]["delay_p99_ns"] == "" and int(rows[0]["ipdv_pairs"]) > 0


def test_every_run_chain_and_flow_has_its_metrics(results: Path) -> None:
    summary = write_summary(results)
    with open(results / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # Six runs of one chain with one flow: each is measured as run, chain and flow.
    assert [row["scope"] for row in rows] == ["run", "chain", "flow"] * 6
    entry = json.loads((results / "ppo" / "seed-2" / "metrics.json").read_text())["scopes"][2]
    (row,) = [
        row for row in rows if (row["policy"], row["seed"], row["scope"]) == ("ppo", "2", "flow")
    ]
    assert float(row["delay_p50_ns"]) == entry["delay_ns"]["p50"]["value"]
    assert int(row["lost"]) == entry["lost"] == 1
    # The seeds of a policy are measured together.
    merged = summary["policies"]["deft"]["metrics"]
    assert merged["lost"] == 12 and merged["due"] == 3 * entry["due"]


def test_the_summary_is_made_from_packets_and_events_alone(results: Path) -> None:
    first = write_summary(results)
    for name in ("summary.json", "summary.csv"):
        (results / name).unlink()
    (results / "ppo" / "seed-1" / "summary.json").write_text('{"lost": 12345}')
    assert write_summary(results) == first


def test_an_invalid_or_missing_run_makes_the_summary_invalid(results: Path) -> None:
    write_plan(results, ["deft", "ppo"], [1, 2, 3, 4])
    write_run(results / "ppo" / "seed-4", frame_with(10), [], 4, reasons=["the line was late"])
    summary = write_summary(results)
    assert summary["valid"] is False
    assert summary["reasons"] == ["deft, seed 4: not run", "ppo, seed 4: the line was late"]
