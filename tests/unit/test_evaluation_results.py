"""Summary, page and screen of an evaluation: recomputable, corrected, and honest about zeros."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from agents.common.statistics import holm
from testbed.records.files import write_json
from testbed.results.evaluation.figures import BY_KEY, COMPARED, FIGURES
from testbed.results.evaluation.page import write_page
from testbed.results.evaluation.screen import print_evaluation
from testbed.results.evaluation.summary import summarise_evaluation
from testbed.results.evaluation.values import read_values, table_of, write_values
from testbed.results.evaluation.verdict import least_p, sentence, verdict
from tests.unit.evaluation_support import STREAMS, manifest, plain, values

POLICIES = ["deft", "greedy-delay", "pl-rank", "milp-hindsight", "ppo"]


def test_tables_are_models_by_streams_whatever_the_order_of_rows() -> None:
    frame = values(POLICIES, plain, loads=(1.0,))
    shuffled = frame.sample(frac=1.0, random_state=1)
    table = table_of(shuffled, "ppo", "cost")
    assert table.shape == (2, STREAMS)
    np.testing.assert_allclose(table[0], 0.4 * (100 + np.arange(STREAMS)))
    np.testing.assert_allclose(table[1], 0.2 * (100 + np.arange(STREAMS)))
    with pytest.raises(ValueError, match="ppo"):
        table_of(frame.drop(frame.index[-1]), "ppo", "cost")


def test_figures_of_a_cell_are_interquartile_means_of_its_streams() -> None:
    summary = summarise_evaluation(values(POLICIES, plain), manifest(POLICIES))
    assert [cell["load"] for cell in summary["cells"]] == [1.0, 2.0]
    cost = summary["cells"][1]["figures"]["deft"]["cost"]
    assert cost["value"] == pytest.approx(stats.trim_mean(200.0 + 2 * np.arange(STREAMS), 0.25))
    assert cost["low"] < cost["value"] < cost["high"]
    assert summary["models"] == {**dict.fromkeys(POLICIES, 1), "ppo": 2}


def test_all_meet_the_baseline_and_the_learned_the_best_heuristic() -> None:
    summary = summarise_evaluation(values(POLICIES, plain), manifest(POLICIES))
    cell = summary["cells"][0]
    assert cell["best"] == "pl-rank"  # the bound is cheaper, and no competitor
    assert list(cell["comparison"]) == [
        "greedy-delay vs deft", "pl-rank vs deft", "milp-hindsight vs deft", "ppo vs deft",
        "ppo vs pl-rank",
    ]  # fmt: skip
    entry = cell["comparison"]["pl-rank vs deft"]["cost"]
    assert (entry["ratio"], entry["low"], entry["high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert entry["effect"] == -1.0
    # Two training runs at 0.4 and 0.2 of the same streams: 0.3, and their spread is in it.
    learned = cell["comparison"]["ppo vs deft"]["cost"]
    assert (learned["ratio"], learned["low"], learned["high"]) == pytest.approx((0.3, 0.2, 0.4))
    assert summary["overall"]["ppo vs best heuristic"]["cost"]["ratio"] == pytest.approx(0.6)


def test_p_values_are_corrected_over_what_a_table_compares() -> None:
    rng = np.random.default_rng(1)

    def noisy(policy: str, load: float, stream: int, model: int, figure: str) -> float:
        return float(rng.normal({"deft": 10.0, "greedy-delay": 9.5}.get(policy, 9.0)))

    policies = ["deft", "greedy-delay", "pl-rank"]
    frame = values(policies, noisy)
    summary = summarise_evaluation(frame, manifest(policies))
    rows = frame[frame["load"] == 1.0]
    raw = [
        float(stats.wilcoxon(table_of(rows, name, "cost")[0], table_of(rows, "deft", "cost")[0])[1])
        for name in policies[1:]
    ]
    entries = [each["cost"] for each in summary["cells"][0]["comparison"].values()]
    assert [entry["p"] for entry in entries] == pytest.approx(raw)
    assert [entry["p_holm"] for entry in entries] == pytest.approx(holm(raw))


def test_what_is_zero_in_a_cell_is_compared_by_totals_and_differences() -> None:
    def losses(policy: str, load: float, stream: int, model: int, figure: str) -> float:
        if figure != "lost":
            return plain(policy, load, stream, model, figure)
        return 0.0 if load == 1.0 else {"deft": 8.0, "pl-rank": 2.0}[policy]

    policies = ["deft", "pl-rank"]
    summary = summarise_evaluation(values(policies, losses), manifest(policies))
    first, second = (cell["comparison"]["pl-rank vs deft"]["lost"] for cell in summary["cells"])
    assert first["ratio"] is None and first["difference"]["value"] == 0.0
    assert first["p"] == 1.0
    assert second["ratio"] == 0.25
    overall = summary["overall"]["pl-rank vs deft"]["lost"]
    assert (overall["ratio"], overall["cells"]) == (0.25, 2)
    assert overall["difference"]["value"] == -3.0


def test_a_stream_without_the_figure_is_left_out_and_never_claimed() -> None:
    def rejected(policy: str, load: float, stream: int, model: int, figure: str) -> float:
        if policy == "pl-rank" and figure == "latency_p99_ns" and (stream == 3 or load == 2.0):
            return float("nan")  # nothing was delivered
        return plain(policy, load, stream, model, figure)

    policies = ["deft", "pl-rank"]
    summary = summarise_evaluation(values(policies, rejected), manifest(policies))
    one, none = (c["comparison"]["pl-rank vs deft"]["latency_p99_ns"] for c in summary["cells"])
    assert one["pairs"] == STREAMS - 1
    assert one["ratio"] == pytest.approx(0.5)
    assert verdict(BY_KEY["latency_p99_ns"], none).kind == "unknown"
    assert summary["cells"][0]["figures"]["pl-rank"]["latency_p99_ns"]["value"] is None
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def entry(ratio: float, low: float, high: float, p: float = 0.01) -> dict[str, object]:
    return {"ratio": ratio, "low": low, "high": high, "p_holm": p, "effect": -0.9}


def test_a_claim_needs_the_interval_and_the_corrected_test() -> None:
    cost, accepted = BY_KEY["cost"], BY_KEY["acceptance"]
    assert verdict(cost, entry(0.6, 0.5, 0.7)).kind == "better"
    assert verdict(cost, entry(1.6, 1.5, 1.7)).kind == "worse"
    assert verdict(accepted, entry(1.6, 1.5, 1.7)).kind == "better"
    assert verdict(cost, entry(0.6, 0.5, 1.01)).kind == "open"
    assert verdict(cost, entry(0.6, 0.5, 0.7, p=0.06)).kind == "open"
    found = verdict(cost, entry(0.6, 0.5, 0.7))
    assert (found.change, found.interval) == ("−40 %", "[−50, −30]")  # noqa: RUF001
    many = verdict(cost, entry(61.2, 31.0, 209.7))
    assert (many.change, many.interval) == ("× 61", "[31, 210]")
    assert sentence("a vs b", {"cost": found}) == "a against b: better in cost −40 % [−50, −30]."  # noqa: RUF001


def test_the_least_p_value_is_wilcoxons() -> None:
    assert least_p(8, 1) == stats.wilcoxon(np.arange(1, 9)).pvalue
    assert least_p(8, 7) == pytest.approx(7 * 2 / 256)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    frame = values(POLICIES, plain, topologies=("sndlib/abilene", "sndlib/polska"))
    write_values(frame.to_dict("records"), tmp_path)
    write_json(tmp_path / "manifest.json", manifest(POLICIES))
    write_json(tmp_path / "summary.json", summarise_evaluation(frame, manifest(POLICIES)))
    return tmp_path


def test_the_summary_can_be_computed_anew_from_the_rows(folder: Path) -> None:
    stored = json.loads((folder / "summary.json").read_text())
    assert summarise_evaluation(read_values(folder), manifest(POLICIES)) == stored
    assert len((folder / "values.csv").read_text().splitlines()) == 1 + 4 * 6 * STREAMS


def test_the_page_needs_nothing_else_and_says_all(folder: Path) -> None:
    page = write_page(folder).read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?:https?:|//)', page)
    assert "<script" not in page
    for text in ("Interquartile mean", "Holm", "a bound", "2 training runs", "best heuristic here"):
        assert text in page
    assert page.count("<svg") == 2  # a picture for each topology
    for figure in FIGURES:
        assert figure.label in page
    # Every policy in the table of all cells, with its interval: 0.5 of deft is 50 % less.
    assert "[−50, −50]" in page  # noqa: RUF001
    assert write_page(folder).read_text(encoding="utf-8") == page


def test_the_screen_keeps_within_its_width(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    for width in (80, 140):
        out = io.StringIO()
        print_evaluation(summary, folder, Console(file=out, width=width))
        text = out.getvalue()
        assert "…" not in text
        assert ("goodput" in text) == (width == 140)
        assert max(len(line) for line in text.splitlines()[:-1]) <= width
        for name in (*POLICIES, "against best heuristic"):
            assert name in text


def test_all_that_is_compared_says_which_way_is_good() -> None:
    better = {figure.key for figure in COMPARED if figure.more_is_better}
    assert better == {"acceptance", "goodput_pps"}
