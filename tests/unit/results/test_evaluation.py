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

from agents.placement.evaluation import CONTEST
from testbed.cli.screens.evaluation_screen import print_evaluation
from testbed.records.files import write_json
from testbed.results.evaluation.page import write_page
from testbed.results.evaluation.summary import summarise_evaluation
from testbed.results.evaluation.values import read_values, table_of, write_values
from testbed.results.evaluation.verdict import sentence, streams_needed, verdict
from testbed.statistics.significance import holm
from tests.support.evaluation_support import STREAMS, manifest, plain, values

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
    summary = summarise_evaluation(values(POLICIES, plain), manifest(POLICIES), CONTEST)
    assert [cell["load"] for cell in summary["cells"]] == [1.0, 2.0]
    cost = summary["cells"][1]["figures"]["deft"]["cost"]
    assert cost["value"] == pytest.approx(stats.trim_mean(200.0 + 2 * np.arange(STREAMS), 0.25))
    assert cost["low"] < cost["value"] < cost["high"]
    assert summary["models"] == {**dict.fromkeys(POLICIES, 1), "ppo": 2}


def test_intervals_stay_where_a_figure_can_be() -> None:
    def at_the_edge(policy: str, load: float, stream: int, model: int, figure: str) -> float:
        if figure == "acceptance":
            return 1.0 if stream % 3 else 0.6
        return 0.0 if stream % 3 else 9.0

    summary = summarise_evaluation(values(["deft"], at_the_edge), manifest(["deft"]), CONTEST)
    figures = summary["cells"][0]["figures"]["deft"]
    assert figures["acceptance"]["high"] == 1.0
    assert figures["overload_s"]["low"] == 0.0


def test_all_meet_the_baseline_and_the_learned_the_best_heuristic() -> None:
    summary = summarise_evaluation(values(POLICIES, plain), manifest(POLICIES), CONTEST)
    cell = summary["cells"][0]
    assert cell["best"] == "pl-rank"  # the bound is cheaper, and no competitor
    assert list(cell["comparison"]) == [
        "greedy-delay vs deft", "pl-rank vs deft", "milp-hindsight vs deft", "ppo vs deft",
        "ppo vs pl-rank",
    ]  # fmt: skip
    entry = cell["comparison"]["pl-rank vs deft"]["cost"]
    assert (entry["ratio"], entry["low"], entry["high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert entry["effect"] == -1.0
    # Two training runs at 0.4 and 0.2 of the same streams: 0.3, and their spread is in it, as that
    # of two values is: one degree of freedom.
    learned = cell["comparison"]["ppo vs deft"]["cost"]
    assert learned["ratio"] == pytest.approx(0.3)
    assert learned["low"] < 0.1 and learned["high"] > 1.0
    overall = summary["overall"]["ppo vs best heuristic"]["cost"]
    assert overall["ratio"] == pytest.approx(0.6)
    assert overall["p_holm"] > 0.05


SUBSETS = [
    ("deft",), ("milp-hindsight",), ("ppo",), ("deft", "ppo"), ("ppo", "milp-hindsight"),
    ("pl-rank", "ppo"),
]  # fmt: skip


@pytest.mark.parametrize(("loads", "streams"), [((1.0,), 1), ((1.0, 2.0), 12)])
@pytest.mark.parametrize("policies", SUBSETS)
def test_any_policies_loads_and_streams_are_summed_up(
    tmp_path: Path, policies: tuple[str, ...], loads: tuple[float, ...], streams: int
) -> None:
    frame = values(list(policies), plain, loads, streams)
    told = manifest(list(policies), baseline=policies[0])
    summary = summarise_evaluation(frame, told, CONTEST)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    write_json(tmp_path / "manifest.json", told)
    write_json(tmp_path / "summary.json", summary)
    page = write_page(tmp_path, CONTEST).read_text(encoding="utf-8")
    out = io.StringIO()
    print_evaluation(summary, tmp_path, CONTEST, Console(file=out, width=80))
    for policy in policies:
        assert policy in page and policy in out.getvalue()
    expected = {f"{name} vs {policies[0]}" for name in policies[1:]}
    if "ppo" in policies and set(policies) & {"pl-rank", "greedy-delay"}:
        expected.add("ppo vs best heuristic")
    assert set(summary["overall"]) == expected
    if streams < 6:
        assert all(
            each["p_holm"] is None for pair in summary["overall"].values() for each in pair.values()
        )


def noisy(policy: str, load: float, stream: int, model: int, figure: str) -> float:
    seed = [*map(ord, policy + figure), round(load), stream, model]
    return float(np.random.default_rng(seed).lognormal(2.0, 0.3))


def test_p_values_are_corrected_over_what_is_shown_together() -> None:
    policies = ["deft", "greedy-delay", "pl-rank"]
    summary = summarise_evaluation(values(policies, noisy), manifest(policies), CONTEST)
    overall = [each for pair in summary["overall"].values() for each in pair.values()]
    cells = [
        each
        for cell in summary["cells"]
        for pair in cell["comparison"].values()
        for each in pair.values()
    ]
    assert len(cells) == 2 * len(overall) == 2 * 2 * len(CONTEST.compared)
    for family in (overall, cells):
        assert [each["p_holm"] for each in family] == holm([each["p"] for each in family])


def test_without_a_difference_an_evaluation_claims_nothing() -> None:
    """Five policies that are one: eight evaluations, each over two loads."""
    policies = ["deft", "best-fit", "greedy-delay", "pl-rank", "ppo"]
    for number in range(8):

        def same(policy: str, load: float, stream: int, model: int, figure: str) -> float:
            return noisy(f"{policy}{number}", load, stream, model, figure)  # noqa: B023

        summary = summarise_evaluation(values(policies, same), manifest(policies), CONTEST)
        for pair in summary["overall"].values():
            kinds = {verdict(CONTEST.figure(key), each).kind for key, each in pair.items()}
            assert kinds == {"open"}, number


def test_what_is_zero_in_a_cell_is_compared_by_totals_and_differences() -> None:
    def losses(policy: str, load: float, stream: int, model: int, figure: str) -> float:
        if figure != "lost":
            return plain(policy, load, stream, model, figure)
        return 0.0 if load == 1.0 else {"deft": 8.0, "pl-rank": 2.0}[policy]

    policies = ["deft", "pl-rank"]
    summary = summarise_evaluation(values(policies, losses), manifest(policies), CONTEST)
    first, second = (cell["comparison"]["pl-rank vs deft"]["lost"] for cell in summary["cells"])
    assert first["ratio"] is None and first["difference"]["value"] == 0.0
    assert first["p"] == 1.0
    assert second["ratio"] == pytest.approx(0.25)
    overall = summary["overall"]["pl-rank vs deft"]["lost"]
    assert (overall["ratio"], overall["cells"]) == (pytest.approx(0.25), 2)
    assert overall["difference"]["value"] == -3.0


def test_a_stream_without_the_figure_is_left_out_and_never_claimed() -> None:
    def rejected(policy: str, load: float, stream: int, model: int, figure: str) -> float:
        if policy == "pl-rank" and figure == "latency_p99_ns" and (stream == 3 or load == 2.0):
            return float("nan")  # nothing was delivered
        return plain(policy, load, stream, model, figure)

    policies = ["deft", "pl-rank"]
    summary = summarise_evaluation(values(policies, rejected), manifest(policies), CONTEST)
    one, none = (c["comparison"]["pl-rank vs deft"]["latency_p99_ns"] for c in summary["cells"])
    assert one["pairs"] == STREAMS - 1
    assert one["ratio"] == pytest.approx(0.5)
    assert verdict(CONTEST.figure("latency_p99_ns"), none).kind == "unknown"
    assert summary["cells"][0]["figures"]["pl-rank"]["latency_p99_ns"]["value"] is None
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def entry(ratio: float, low: float, high: float, p: float = 0.01) -> dict[str, object]:
    difference = {"value": ratio - 1, "low": low - 1, "high": high - 1}
    known = {"ratio": ratio, "low": low, "high": high, "difference": difference}
    return {**known, "p_holm": p, "effect": -0.9}


def test_a_claim_needs_the_interval_and_the_corrected_test() -> None:
    cost, accepted = CONTEST.figure("cost"), CONTEST.figure("acceptance")
    assert verdict(cost, entry(0.6, 0.5, 0.7)).kind == "better"
    assert verdict(cost, entry(1.6, 1.5, 1.7)).kind == "worse"
    assert verdict(accepted, entry(1.6, 1.5, 1.7)).kind == "better"
    assert verdict(cost, entry(0.6, 0.5, 0.7, p=0.06)).kind == "open"
    found = verdict(cost, entry(0.6, 0.5, 0.7))
    assert (found.change, found.interval) == ("−40 %", "[−50, −30]")  # noqa: RUF001
    many = verdict(cost, entry(61.2, 31.0, 209.7))
    assert (many.change, many.interval) == ("× 61", "[31, 210]")
    assert sentence("a vs b", {"cost": found}) == "a against b: better in cost −40 % [−50, −30]."  # noqa: RUF001


def test_it_is_told_how_many_streams_could_show_something() -> None:
    policies = ["deft", "pl-rank"]
    summary = summarise_evaluation(values(policies, noisy, streams=7), manifest(policies), CONTEST)
    assert streams_needed(summary["overall"]) == 9  # nine figures: 9 x 2 / 2^9 is 0.035
    out = io.StringIO()
    print_evaluation(summary, Path("x"), CONTEST, Console(file=out, width=80))
    assert "7 streams are too few to show a difference: 9 can." in out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    frame = values(POLICIES, plain, topologies=("sndlib/abilene", "sndlib/polska"))
    write_values(frame.to_dict("records"), tmp_path)
    write_json(tmp_path / "manifest.json", manifest(POLICIES))
    write_json(tmp_path / "summary.json", summarise_evaluation(frame, manifest(POLICIES), CONTEST))
    return tmp_path


def test_the_summary_can_be_computed_anew_from_the_rows(folder: Path) -> None:
    stored = json.loads((folder / "summary.json").read_text())
    assert summarise_evaluation(read_values(folder), manifest(POLICIES), CONTEST) == stored
    assert len((folder / "values.csv").read_text().splitlines()) == 1 + 4 * 6 * STREAMS


def test_the_page_needs_nothing_else_and_says_all(folder: Path) -> None:
    page = write_page(folder, CONTEST).read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?:https?:|//)', page)
    assert "<script" not in page
    for text in (
        "Interquartile mean",
        "Holm",
        "a bound",
        "2 training runs",
        "best heuristic here",
        "ppo: 2 training runs, whose luck is in the intervals",
    ):
        assert text in page
    assert page.count("<svg") == 2  # a picture for each topology
    for figure in CONTEST.figures:
        assert figure.label in page
    # Every policy in the table of all cells, with its interval: 0.5 of deft is 50 % less.
    assert "[−50, −50]" in page  # noqa: RUF001
    assert write_page(folder, CONTEST).read_text(encoding="utf-8") == page


def test_the_screen_keeps_within_its_width(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    for width in (80, 140):
        out = io.StringIO()
        print_evaluation(summary, folder, CONTEST, Console(file=out, width=width))
        text = out.getvalue()
        assert "…" not in text
        assert ("goodput" in text) == (width == 140)
        assert max(len(line) for line in text.splitlines()[:-1]) <= width
        for name in (*POLICIES, "against best heuristic"):
            assert name in text


def test_all_that_is_compared_says_which_way_is_good() -> None:
    better = {figure.key for figure in CONTEST.compared if figure.more_is_better}
    assert better == {"acceptance", "goodput_pps"}
