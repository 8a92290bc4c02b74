"""What `deftbed calibrate` and `deftbed validate` show on the screen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from testbed.calibration.accuracy import FIGURES, RANK_TARGET, RANKED, TARGETS
from testbed.cli.screens.tables import Cell, Column, FittedTable, names
from testbed.twin.calibration import Calibration

LABELS = {
    "latency_p50_ns": "latency p50",
    "latency_p99_ns": "latency p99",
    "delivered_pps": "delivered",
    "dropped": "dropped",
}


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, float], None]]:
    """A bar; what it gives is told what is being done, and which share of all is done."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<40}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


def print_calibration(calibration: Calibration, out: Path, console: Console | None = None) -> None:
    """The constants with their standard errors, and where they were written."""
    screen = console or Console(highlight=False)
    rows = []
    for name, estimate in calibration.constants.items():
        scale, unit = (1e3, " µs") if name.endswith("_ns") else (1.0, "")
        value, error = estimate.value / scale, estimate.standard_error / scale
        rows.append(
            (
                name.removesuffix("_ns").replace("_", " "),
                f"{value:,.2f}{unit}",
                f"{error:,.2f}{unit}" if estimate.samples > 1 else "-",
                str(estimate.samples),
            )
        )
    columns = map(Column, ("value", "standard error", "observations"))
    screen.print(FittedTable((names("constant"), *columns), tuple(rows)))
    _print_reasons(screen, calibration.source.get("reasons", []))
    screen.print(f"calibration: {out}", soft_wrap=True)


def print_validation(content: dict[str, Any], path: Path, console: Console | None = None) -> None:
    """The error table, the ranks, what was missed, and where it was written."""
    screen = console or Console(highlight=False)
    screen.print("error of the twin: mean over seeds [least, greatest]", style="bold")
    columns = (names("scenario"), names("policy"), *(Column(LABELS[each]) for each in FIGURES))
    rows: list[tuple[Cell, ...]] = [
        (row["scenario"], row["policy"], *(_cell(row[f], f) for f in FIGURES))
        for row in content["rows"]
    ]
    targets = [f"± {error_text(TARGETS[f], f)}" if f in TARGETS else "" for f in FIGURES]
    last = frozenset({len(rows) - 1})
    screen.print(FittedTable(columns, (*rows, ("target", "", *targets)), 2, last))
    for name, ranks in content["ranks"].items():
        found = ", ".join(f"{LABELS[f]} {rank_text(ranks[f])}" for f in RANKED)
        screen.print(
            f"rank correlation over {ranks['policies']} policies, {name}: {found} "
            f"(target {RANK_TARGET})",
            soft_wrap=True,
        )
    calibration = content["calibration"]
    if calibration is None:
        screen.print("no calibration: the defaults were used", style="yellow")
    for doubt in calibration["doubts"] if calibration else ():
        text = f"the calibration is in doubt: {doubt}"
        screen.print(text, style="yellow", markup=False, soft_wrap=True)
    for what in content["unmodelled"]:
        text = f"the twin leaves out: {what}"
        screen.print(text, style="yellow", markup=False, soft_wrap=True)
    _print_reasons(screen, content["reasons"])
    screen.print(f"validation: {path}", soft_wrap=True)


def _print_reasons(screen: Console, reasons: list[str]) -> None:
    if reasons:
        screen.print("runs that were NOT VALID, so these figures support no claim:", style="red")
    for reason in reasons:
        screen.print(f"  {reason}", markup=False, soft_wrap=True)


def _cell(entry: dict[str, Any], figure: str) -> Cell:
    if entry["error"] is None:
        return "-"
    text = error_text(entry["error"], figure, signed=True)
    if entry["high"] != entry["low"]:
        low, high = (error_text(entry[k], figure, signed=True) for k in ("low", "high"))
        text += f"\n[{low}, {high}]"
    return Text(text, "red" if entry["within"] is False else "")


def error_text(error: float, figure: str, signed: bool = False) -> str:
    """An error as people read it: percent, or percentage points of a share."""
    digits = f"{100 * error:+.1f}" if signed else f"{100 * error:.0f}"
    return f"{digits} {'pp' if figure == 'dropped' else '%'}"


def rank_text(rank: float | None) -> str:
    """A rank correlation, or that there is none."""
    return "-" if rank is None else f"{rank:.2f}"
