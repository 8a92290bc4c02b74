"""The report: complete, self-contained, and true to summary.json."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.records import packets
from testbed.results.hops import PARTS
from testbed.results.report.findings import findings, foundation, headline, sentence
from testbed.results.report.plots_map import placed
from testbed.results.report.report_page import write_report
from testbed.results.summaries import write_summary
from tests.support.report_support import write_results

VOID = {"meta", "link", "br", "img", "hr", "input", "col", "wbr"}

READ: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "latency_p50": lambda run: run["latency_ns"]["p50"] / 1e6,
    "latency_p95": lambda run: run["latency_ns"]["p95"] / 1e6,
    "latency_p99": lambda run: run["latency_ns"]["p99"] / 1e6,
    "latency_p999": lambda run: run["latency_ns"]["p999"] / 1e6,
    "sent": lambda run: run["sent"],
    "lost": lambda run: run["lost"],
    "blocked": lambda run: run["blocked"],
    "goodput": lambda run: run["goodput_bps"] / 1e3,
    "accepted": lambda run: run["accepted"],
    "requested": lambda run: run["requested"],
    "overload": lambda run: run["overload_s"],
    "recovery": lambda run: float(np.mean(run["recovery_ns"])) / 1e6,
}


class Page(HTMLParser):
    """Element balance, links and table cells of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.cells: dict[str, str] = {}
        self._cell: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data") and value:
                self.addresses.append(value)
            if name == "data-cell" and value:
                self._cell = value
                self.cells[value] = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        if tag == "td":
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self.cells[self._cell] += f" {data}"


def numbers(text: str) -> list[str]:
    return re.findall(r"[\d,]*\d(?:\.\d+)?", text)


def near(shown: str, value: float) -> bool:
    """Is `shown` the value, rounded to as many decimals as it has?"""
    decimals = len(shown.partition(".")[2])
    return abs(float(shown.replace(",", "")) - value) <= 0.5 * 0.1**decimals + 1e-9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results") / "abilene")


@pytest.fixture(scope="module")
def page_text(folder: Path) -> str:
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def test_page_is_balanced_html(page_text: str) -> None:
    assert page_text.startswith("<!doctype html>")
    assert Page(page_text).open == []


def test_page_needs_no_network(page_text: str, folder: Path) -> None:
    addresses = Page(page_text).addresses
    outside = [each for each in addresses if not each.startswith(("#", "data:image/png;base64,"))]
    assert outside, "links to the raw files"
    assert all((folder / each).is_file() for each in outside)
    fetched = re.findall(r"url\(([^)]*)\)|@import", page_text)
    assert [each for each in fetched if not each.startswith("#")] == []
    assert "<script" not in page_text


def test_every_run_shows_the_figures_of_the_summary(page_text: str, folder: Path) -> None:
    cells = Page(page_text).cells
    summary = json.loads((folder / "summary.json").read_text())
    checked = 0
    for policy, entry in summary["policies"].items():
        for run in entry["runs"]:
            for key, read in READ.items():
                (shown,) = numbers(cells[f"{policy}/{run['seed']}/{key}"])
                assert near(shown, read(run)), (policy, run["seed"], key)
                checked += 1
    assert checked == 3 * 3 * len(READ)


def test_every_policy_shows_mean_and_spread_of_its_runs(page_text: str, folder: Path) -> None:
    cells = Page(page_text).cells
    summary = json.loads((folder / "summary.json").read_text())
    for policy, entry in summary["policies"].items():
        for key, read in READ.items():
            values = [read(run) for run in entry["runs"]]
            shown = numbers(cells[f"{policy}/{key}"])
            expected = [float(np.mean(values)), min(values), max(values)]
            assert len(shown) == 3
            assert all(near(s, e) for s, e in zip(shown, expected, strict=True)), (policy, key)


def test_ratios_of_the_summary_stand_in_the_page(page_text: str, folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    for figures in summary["comparison"].values():
        for found in findings(figures):
            # In the sentence or as a name without interval, and in the forest plot.
            assert page_text.count(found.text) >= 1


def test_packet_metrics_are_those_of_metrics_json(page_text: str, folder: Path) -> None:
    cells = Page(page_text).cells
    summary = json.loads((folder / "summary.json").read_text())
    checked = 0
    for policy, entry in summary["policies"].items():
        p50 = entry["metrics"]["delay_ns"]["p50"]
        shown = numbers(cells[f"metrics/{policy}/delay_p50"])
        expected = [p50["value"] / 1e6, p50["low"] / 1e6, p50["high"] / 1e6]
        assert all(near(s, e) for s, e in zip(shown, expected, strict=True)), policy
        scopes = json.loads((folder / policy / "seed-1" / "metrics.json").read_text())["scopes"]
        for scope in scopes:
            keys = [str(scope[key]) for key in ("chain", "flow") if key in scope]
            place = "/".join(["metrics", policy, "1", *keys])
            (lost,) = numbers(cells[f"{place}/sent"])
            assert int(lost.replace(",", "")) == scope["sent"]
            least = scope["delay_ns"]["p999"]
            if least["value"] is None:
                assert least["note"] in cells[f"{place}/delay_p999"]
            checked += 1
    assert checked > 3 * 10


def test_where_the_time_went_is_drawn_if_it_was_traced(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "traced", policies=("deft",), seeds=1)
    assert "Where the time went" not in write_report(folder).read_text()
    path = folder / "deft" / "seed-1" / "packets.parquet"
    frame = packets.read(path)
    spans = json.dumps([[0, part, 1000 + number] for number, part in enumerate(PARTS)])
    packets.write(frame.assign(hops=spans).astype({"hops": "string"}), path)
    hops = write_summary(folder)["policies"]["deft"]["metrics"]["hops"]
    assert [each["mean_ns"] for each in hops] == [1000 + number for number in range(len(PARTS))]
    text = write_report(folder).read_text()
    assert "Where the time went" in text and Page(text).open == []


def test_one_policy_and_one_seed(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "one", policies=("deft",), seeds=1)
    text = write_report(folder).read_text()
    page = Page(text)
    assert page.open == []
    assert "nothing to compare it with" in text
    assert len(numbers(page.cells["deft/latency_p50"])) == 1


def test_a_comparison_cut_short_says_so(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "cut", policies=("deft", "ppo"), seeds=1)
    shutil.rmtree(folder / "ppo")
    (folder / "deft" / "seed-1" / "servers.parquet").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    write_summary(folder)
    text = write_report(folder).read_text()
    assert Page(text).open == []
    assert "not valid: its figures support no claim" in text
    assert "cut short" in text
    assert "ppo, seed 1: not run" in text
    assert "deft, seed 1: missing servers.parquet" in text


def test_text_from_files_cannot_become_markup(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "odd", policies=("deft",), seeds=1)
    summary = json.loads((folder / "summary.json").read_text())
    changed = {**summary, "valid": False, "reasons": ["<b>lag</b> & more"]}
    (folder / "summary.json").write_text(json.dumps(changed))
    assert "&lt;b&gt;lag&lt;/b&gt; &amp; more" in write_report(folder).read_text()


def entry(
    ratio: float | None,
    low: float | None = None,
    high: float | None = None,
    p_holm: float | None = 0.01,
    **more: Any,
) -> Any:
    difference = {"value": 1.0, "low": 0.5, "high": 1.5}
    seeds = [{"seed": n, "treated": 2.0 * n, "baseline": 4.0 * n} for n in range(12)]
    known = {"ratio": ratio, "low": low, "high": high, "p_holm": p_holm, "pairs": 12}
    return {**known, "difference": difference, "seeds": seeds, **more}


@pytest.mark.parametrize(
    ("figure", "figures", "kind", "text"),
    [
        ("latency_p99", entry(0.6, 0.5, 0.9), "better", "× 0.60 [0.50, 0.90]"),
        ("latency_p99", entry(1.6, 1.5, 1.9), "worse", "× 1.60 [1.50, 1.90]"),
        ("goodput", entry(1.6, 1.5, 1.9), "better", "× 1.60 [1.50, 1.90]"),
        ("goodput", entry(0.6, 0.5, 0.9), "worse", "× 0.60 [0.50, 0.90]"),
        ("goodput", entry(1.003, 1.001, 1.005), "better", "× 1.0030 [1.0010, 1.0050]"),
        # An interval without 1 is no claim: of many some are so by chance.
        ("lost", entry(0.6, 0.5, 0.9, p_holm=0.05), "open", "× 0.60 [0.50, 0.90]"),
        ("lost", entry(None, note="the baseline is 0"), "worse", "+1.0 packets [+0.5, +1.5]"),
        ("lost", entry(0.9, p_holm=None, note="no interval", pairs=1), "unknown", "× 0.90"),
        ("lost", entry(None, p_holm=None, note="both are 0", pairs=1), "unknown", "both are 0"),
    ],
)
def test_finding_kinds(figure: str, figures: Any, kind: str, text: str) -> None:
    (found,) = findings({figure: figures})
    assert (found.kind, found.text) == (kind, text)
    assert found.dots == (0.5,) * 11  # seed 0 has none of both


def test_few_seeds_have_ratios_and_dots_and_no_claim() -> None:
    few = entry(0.1, p_holm=None, note="no interval: 5 of at least 6 pairs", pairs=5)
    found = {"ppo vs deft": findings({"lost": few})}
    assert headline(found, True, 10) == "5 seeds are too few to claim a difference."
    text = sentence("ppo vs deft", found["ppo vs deft"])
    assert text == "ppo against deft: no claim on packets lost × 0.10."
    assert "Below 6 seeds" in foundation(found)


def test_seeds_that_can_never_show_it_are_told() -> None:
    row = findings({f"figure {n}": {**entry(1.0, 0.9, 1.1, 0.4), "pairs": 7} for n in range(5)})
    found = {"ppo vs deft": row}
    assert headline(found, True, 14) == "No difference between the policies is shown over 7 seeds."
    assert "all 5 comparisons" in foundation(found)
    assert "7 seeds can never show that for so many; 8 can." in foundation(found)


def test_verdict_tells_wins_losses_and_draws() -> None:
    row = findings(
        {
            "latency_p50": entry(0.5, 0.4, 0.6),
            "lost": entry(2.0, 1.5, 2.5),
            "goodput": entry(1.0, 0.999, 1.001, 0.9),
        }
    )
    found = {"ppo vs deft": row, "greedy-delay vs deft": [row[2]]}
    text = headline(found, True, 24)
    assert "Over 12 seeds: ppo beats deft in 1 of 3 figures, loses in 1" in text
    assert "no difference is shown between greedy-delay and deft" in text
    assert "not valid" in headline(found, False, 24)


@pytest.mark.parametrize("seeds", [2, 6])
def test_every_seed_has_a_dot_and_from_six_on_an_interval(tmp_path: Path, seeds: int) -> None:
    folder = write_results(tmp_path / "few", policies=("deft", "ppo"), seeds=seeds)
    summary = json.loads((folder / "summary.json").read_text())
    for row in map(findings, summary["comparison"].values()):
        assert [len(each.dots) for each in row] == [seeds] * len(row)
        assert [each.low is not None for each in row] == [seeds >= 6] * len(row)
        assert {each.kind for each in row} == {"unknown"} if seeds < 6 else {"open"}
    text = write_report(folder).read_text()
    assert ("Below 6 seeds" in text) == (seeds < 6)
    assert "better in" not in text and "beats" not in text


def test_map_counts_primaries_and_backups(folder: Path) -> None:
    from testbed.results.report.read_results import gather

    runs = gather(folder).of("ppo")
    found = placed(runs, 12)
    pairs = [p for run in runs for e in run.named("decision") for p in e["placements"]]
    assert found.primaries.sum() == found.backups.sum() == len(pairs) > 0
    assert found.primaries[5] == sum(primary == 5 for primary, _ in pairs)
    assert found.backups[5] == sum(backup == 5 for _, backup in pairs)
    assert found.dead == {run.named("fault")[0]["node"] for run in runs}
