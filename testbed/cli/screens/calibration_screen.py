"""Prints the results of `deftbed calibrate` and `deftbed validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from testbed.calibration.accuracy import (
    FIGURES,
    LABELS,
    RANK_TARGET,
    RANKED,
    TARGETS,
    error_text,
    rank_text,
)
from testbed.cli.screens.tables import Cell, Column, FittedTable, names
from testbed.twin.calibration import Calibration


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
