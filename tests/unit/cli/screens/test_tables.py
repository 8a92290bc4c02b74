"""Every table of the terminal shows its numbers whole, however narrow the terminal is."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from agents.placement.evaluation import CONTEST
from testbed.calibration.accuracy import FIGURES as TWIN_FIGURES
from testbed.cli.packet_trace import show as show_trace
from testbed.cli.screens.calibration_screen import print_calibration, print_validation
from testbed.cli.screens.campaign_screen import COUNTS, FIGURES, kinds_table, rows_table
from testbed.cli.screens.comparison_screen import print_summary
from testbed.cli.screens.comparison_table import STRIP_WIDTH, strip
from testbed.cli.screens.doctor_screen import print_report
from testbed.cli.screens.evaluation_screen import print_evaluation
from testbed.cli.screens.tables import Column, FittedTable, names, words
from testbed.cli.throughput import show as show_throughput
from testbed.results.evaluation.summary import summarise_evaluation
from testbed.results.summaries import compare
from testbed.substrate.doctor import report
from tests.support.evaluation_support import manifest, plain, values
from tests.unit.calibration.test_estimation import make_calibration
from tests.unit.substrate.test_probe import FOUND, FULL

WIDTHS = (40, 60, 80, 120, 200)
POLICIES = ("deft", "greedy-delay", "milp-hindsight", "ppo")
NUMBER = re.compile(r"\d[\d.,]*")


def percentile(value: float) -> dict[str, float]:
    return {"value": value, "low": value * 0.97, "high": value * 1.04}


def run_entry(policy: str, seed: int) -> dict[str, Any]:
    size = 1 + POLICIES.index(policy)
    return {
        "seed": seed,
        "valid": True,
        "latency_ns": {"p50": 1_234_567 * size + seed, "p99": 987_654_321 * size + seed * 1e7},
        "lost": 1_234 * size + seed,
        "sent": 9_876_543,
        "goodput_bps": 123_456_789.0 / size,
        "accepted": 12_345,
        "requested": 23_456,
        "overload_s": 1234.5 * size + seed,
        "recovery_ns": [123_456_789_000],
    }


def print_compared(out: Console) -> None:
    runs = {policy: [run_entry(policy, seed) for seed in range(12)] for policy in POLICIES}
    metrics = {
        "loss_ratio": 0.01234,
        "reordered_ratio": 0.0567,
        "delay_ns": {"p50": percentile(31.8e6), "p99": percentile(12_345.6e6)},
        "ipdv_ns": {"p99": percentile(262.1e6)},
        "pdv_ns": 198_765.4e6,
    }
    summary = {
        "scenario": "wide",
        "policies": {name: {"runs": runs[name], "metrics": metrics} for name in POLICIES},
        "comparison": compare(runs, "deft"),
        "valid": True,
    }
    print_summary(summary, Path("results"), out)


def print_evaluated(out: Console) -> None:
    frame = values(list(POLICIES), lambda *where: 12_345.678 * plain(*where))
    summary = summarise_evaluation(frame, manifest(list(POLICIES)), CONTEST)
    print_evaluation(summary, Path("results"), CONTEST, out)


def print_campaign(out: Console) -> None:
    rows: list[dict[str, Any]] = [
        {
            "fault": fault,
            "target": "r12-h3-m1",
            "violations": [],
            "invalid": None,
            **{name: 12_345.6 + number for number, name in enumerate(FIGURES)},
            **{name: 1_234_567 + number for number, name in enumerate(COUNTS)},
        }
        for fault in ("kill-primary", "partition-primary-from-backup")
    ]
    out.print(rows_table(rows))
    out.print(kinds_table(rows))


def print_throughput(out: Console) -> None:
    trial = {
        "metrics": {"sent": 12_345_678, "lost": 1_234, "delay_ns": {"p50": percentile(1.2e9)}},
        "sender_lag_p99_ns": 1_234_567_890,
        "rate_pps": 1_234_567.8,
        "passed": True,
        "punctual": True,
    }
    found: dict[str, Any] = {
        "pps": 1_234_567.8,
        "l3_bps": 9e9,
        "failed_pps": None,
        "notes": [],
        "limit": "",
    }
    show_throughput({"trials": [trial], "throughput": found, "valid": True}, Path("x"), out)


def print_trace(out: Console) -> None:
    sights = [
        {"t_ns": 1_234_567_890 * n, "hop": n, "where": "r0-h0-m0", "node": "NYCMng",
         "what": "handed", "detail": f"as number {1_234_567 + n}"}
        for n in range(3)
    ]  # fmt: skip
    found: dict[str, Any] = {
        "packet": {"chain": 12, "flow": 3, "seq": 123_456},
        "fate": {"what": "delivered", "where": "", "why": "nothing is known against it"},
        "scheduled_ns": 0, "sent_ns": 12_345, "received_ns": 9_876_543_210, "sights": sights,
        "spans": [], "traced": True,
    }  # fmt: skip
    show_trace(found, out)


def print_twin(out: Console) -> None:
    print_calibration(make_calibration(), Path("calibration.json"), out)
    entry = {"error": -0.12345, "low": -0.2345, "high": 0.3456, "within": False}
    row = {"scenario": "admission-overload", "policy": "milp-hindsight"}
    content = {
        "rows": [{**row, **dict.fromkeys(TWIN_FIGURES, entry)}],
        "ranks": {}, "calibration": {}, "unmodelled": [], "reasons": [],
    }  # fmt: skip
    print_validation(content, Path("validation"), out)


def print_doctor(out: Console) -> None:
    print_report(report(dataclasses.replace(FULL), FOUND), out)


SCREENS: tuple[Callable[[Console], None], ...] = (
    print_compared, print_evaluated, print_campaign, print_throughput, print_trace, print_twin,
    print_doctor,
)  # fmt: skip


def shown(screen: Callable[[Console], None], width: int) -> str:
    out = Console(file=io.StringIO(), width=width, highlight=False)
    screen(out)
    return out.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("screen", SCREENS)
def test_numbers_are_whole_at_every_width(screen: Callable[[Console], None], width: int) -> None:
    text, whole = shown(screen, width), shown(screen, 1000)
    assert "…" not in text
    known = set(NUMBER.findall(whole))
    found = set(NUMBER.findall(text))
    assert found <= known, "pieces of numbers"
    # An evaluation shows fewer figures where there is little room; all others show all.
    if screen is not print_evaluated:
        assert found == known
    lines = [line for line in text.splitlines() if not re.match(r"(report|page): ", line)]
    tables = [line for line in lines if "─" in line or "│" in line]
    assert max(map(len, tables), default=0) <= width


def table() -> FittedTable:
    columns = (names("policy"), Column("a long title of a column"), Column("b"), words("why"))
    rows = (
        ("deft", "123,456.7", Text("1.25\n[1.10, 1.40]", "red"), "it was late, and late again"),
        ("ppo", "1", "2", "no"),
    )
    return FittedTable(columns, rows)


def test_with_room_there_is_one_table_and_without_several() -> None:
    wide = shown(lambda out: out.print(table()), 200)
    assert wide.count("policy") == 1 and "it was late, and late again" in wide
    narrow = shown(lambda out: out.print(table()), 26)
    assert narrow.count("policy") == 3 and narrow.count("deft") == 3
    assert "123,456.7" in narrow and "[1.10, 1.40]" in narrow
    least = shown(lambda out: out.print(table()), 17)
    assert "policy" not in least and "why: no" in least


def test_a_strip_has_a_dot_for_each_seed() -> None:
    middle, last = STRIP_WIDTH // 2, STRIP_WIDTH - 1
    assert strip([], 2.0) == " " * middle + "│" + " " * middle
    text = strip([0.5, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0], 2.0)
    assert (text[0], text[middle], text[last]) == ("·", "•", "●")
    beyond = strip([0.0, 0.1, float("inf")], 2.0)
    assert (beyond[0], beyond[middle], beyond[last]) == ("<", "│", ">")
