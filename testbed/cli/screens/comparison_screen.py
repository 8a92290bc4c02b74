"""Prints the figures of a comparison at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from testbed.cli.screens.comparison_table import print_comparison
from testbed.cli.screens.tables import Column, FittedTable, names
from testbed.results.report.findings import findings
from testbed.results.report.metric_columns import METRIC_COLUMNS, ON_SCREEN

COLUMNS = ("p50 ms", "p99 ms", "lost", "kb/s", "accepted", "overload s", "recovery ms")


def print_summary(summary: dict[str, Any], folder: Path, console: Console | None = None) -> None:
    """The table of figures, the comparison, what stands against them, and the report's path.

    `summary` is the content of summary.json. Printed on standard output unless `console` is given.
    """
    out = console or Console(highlight=False)
    name = summary["scenario"]
    out.print(f"{name}: means over the seeds, counts over all of them", style="bold")
    out.print(_figures(summary))
    if any("metrics" in entry for entry in summary["policies"].values()):
        out.print("all packets together, with 95 % intervals of percentiles", style="bold")
        table, notes = _metrics(summary["policies"])
        out.print(table)
        for note in notes:
            out.print(f"  {note}", markup=False, soft_wrap=True)
    if summary["comparison"]:
        found = {pair: findings(entry) for pair, entry in summary["comparison"].items()}
        print_comparison(found, out)
    if not summary["valid"]:
        out.print("NOT VALID, so these figures support no claim:", style="red")
        for reason in summary["reasons"]:
            out.print(f"  {reason}", markup=False, soft_wrap=True)
    out.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def _figures(summary: dict[str, Any]) -> FittedTable:
    rows = [(policy, *_row(entry["runs"])) for policy, entry in summary["policies"].items()]
    return FittedTable((names("policy"), *map(Column, COLUMNS)), tuple(rows))


def _metrics(policies: dict[str, Any]) -> tuple[FittedTable, list[str]]:
    """The table, and why figures are missing in it."""
    rows, notes = [], []
    columns = [column for column in METRIC_COLUMNS if column.key in ON_SCREEN]
    for policy, entry in policies.items():
        if "metrics" not in entry:
            continue
        cells = []
        for column in columns:
            figure = column.figure(entry["metrics"])
            form = ".1f" if isinstance(figure, dict) else None
            text, below = column.text(entry["metrics"], form)
            if isinstance(figure, dict) and figure["value"] is None:
                notes.append(f"{policy}, {ON_SCREEN[column.key]}: {below}")
                below = ""
            cells.append(f"{text}\n{below}" if below else text)
        rows.append((policy, *cells))
    titles = [Column(f"{ON_SCREEN[column.key]}\n{column.unit}") for column in columns]
    return FittedTable((names("policy"), *titles), tuple(rows)), notes


def _row(runs: list[dict[str, Any]]) -> list[str]:
    recovery = [value for run in runs for value in run["recovery_ns"]]
    return [
        _mean([run["latency_ns"]["p50"] for run in runs], 1e6, ".1f"),
        _mean([run["latency_ns"]["p99"] for run in runs], 1e6, ".1f"),
        f"{sum(run['lost'] for run in runs)}/{sum(run['sent'] for run in runs)}",
        _mean([run["goodput_bps"] for run in runs], 1e3, ".0f"),
        f"{sum(run['accepted'] for run in runs)}/{sum(run['requested'] for run in runs)}",
        _mean([run["overload_s"] for run in runs], 1, ".1f"),
        _mean(recovery, 1e6, ".0f"),
    ]


def _mean(values: list[float | None], unit: float, form: str) -> str:
    known = [value for value in values if value is not None]
    return format(sum(known) / len(known) / unit, form) if known else "-"
