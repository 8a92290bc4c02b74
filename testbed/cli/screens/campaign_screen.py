"""Prints the faults of a campaign one by one, and their times by kind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from testbed.cli.screens.tables import Column, FittedTable, names
from testbed.statistics.quantiles import quantile_of

FIGURES = ("detection_ms", "promotion_ms", "replay_ms", "gap_ms", "held_ms", "back_to_protected_ms")
COUNTS = ("lost", "declared", "on_failed_link", "lost_undeclared")

Row = dict[str, Any]


class CampaignScreen:
    """Prints rows as JSON on standard output, or tables at the end; says what is going on."""

    def __init__(self, console: Console, as_json: bool) -> None:
        self._console = console
        self._as_json = as_json
        self._rows: list[Row] = []

    def progress(self, text: str) -> None:
        """Say what is going on, on standard error."""
        self._console.print(text, markup=False, soft_wrap=True, style="dim")

    def row(self, row: Row) -> None:
        """A fault that was judged."""
        self._rows.append(row)
        if self._as_json:
            print(json.dumps(row), flush=True)
        if row["invalid"] is not None:
            if row["number"] == 0:
                text = f"{row['episode']} does not count: {row['invalid']}"
                self._console.print(text, markup=False, soft_wrap=True, style="yellow")
            return
        for violation in row["violations"]:
            where = f"{row['episode']}, {row['fault']} of {row['target']}"
            self._console.print(f"{where}: {violation}", markup=False, soft_wrap=True, style="red")

    def end(self, totals: dict[str, Any], folder: Path) -> None:
        """The last line, or the tables."""
        if self._as_json:
            print(json.dumps(totals), flush=True)
            return
        out = Console(highlight=False)
        out.print(rows_table(self._rows))
        out.print("by kind, of what counts: median and 99th percentile", style="bold")
        out.print(kinds_table([row for row in self._rows if row["invalid"] is None]))
        counted = [row for row in self._rows if row["invalid"] is None]
        broken = sorted({row["episode"] for row in counted if row["violations"]})
        for episode in broken:
            out.print(f"NOT AS PROMISED: see {folder / episode}", style="red", soft_wrap=True)
        out.print(
            f"{totals['faults']} faults, {totals['violations']} violations, "
            f"{totals['lost_undeclared']} packets lost undeclared; {folder}",
            soft_wrap=True,
        )


def rows_table(rows: Sequence[Row]) -> FittedTable:
    """A line a fault."""
    titles = (*map(_title, FIGURES), *COUNTS, "violations")
    lines = []
    for row in rows:
        figures = [_number(row[name]) for name in FIGURES]
        counts = [str(row[name]) for name in COUNTS]
        kept = str(len(row["violations"])) if row["invalid"] is None else "not counted"
        lines.append((row["fault"], row["target"], *figures, *counts, kept))
    columns = (names("fault"), names("target"), *(Column(_title(each)) for each in titles))
    return FittedTable(columns, tuple(lines), keys=2)


def kinds_table(rows: Sequence[Row]) -> FittedTable:
    """A line a kind."""
    lines = []
    for kind in sorted({row["fault"] for row in rows}):
        of_kind = [row for row in rows if row["fault"] == kind]
        lines.append(
            (
                kind,
                str(len(of_kind)),
                *[_percentiles([row[name] for row in of_kind]) for name in FIGURES],
                str(sum(row["lost_undeclared"] for row in of_kind)),
                str(sum(len(row["violations"]) for row in of_kind)),
            )
        )
    titles = ("faults", *map(_title, FIGURES), "undeclared", "violations")
    return FittedTable((names("kind"), *map(Column, titles)), tuple(lines))


def _title(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _percentiles(values: Sequence[float | None]) -> str:
    known = np.array([value for value in values if value is not None], np.float64)
    if len(known) == 0:
        return "-"
    return f"{quantile_of(known, 0.5):.1f} / {quantile_of(known, 0.99):.1f}"
