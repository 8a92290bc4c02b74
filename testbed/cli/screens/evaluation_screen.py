"""Prints the figures of an evaluation at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from testbed.cli.screens.tables import Column, FittedTable, names
from testbed.decisions.contest import Contest, Figure
from testbed.results.evaluation.verdict import streams_needed, verdict
from testbed.statistics.paired_comparison import LEVEL

NAME_WIDTH, COLUMN_WIDTH = 20, 14
MANY_CELLS = 6
"""Beyond so many cells the screen shows them in the page alone."""
STYLES = {"better": "green", "worse": "red", "open": "dim", "unknown": "dim"}

Json = Mapping[str, Any]


def print_evaluation(
    summary: Json, folder: Path, contest: Contest, console: Console | None = None
) -> None:
    """Tables of figures and comparisons, and where the page is, on standard output."""
    out = console or Console(highlight=False)
    shown = _shown(out, contest)
    cells = summary["cells"]
    streams = summary["streams"]
    if len(cells) <= MANY_CELLS:
        for cell in cells:
            out.print(f"{cell['topology']}, load {cell['load']:g}", style="bold")
            out.print(_figures(cell, summary, shown))
    if summary["overall"]:
        what = "all cells together" if len(cells) > 1 else "compared"
        out.print(f"{what}: relative change of means, {streams} streams a cell", style="bold")
        out.print(_comparison(summary["overall"], shown))
        needed = streams_needed(summary["overall"])
        if needed > streams:
            out.print(f"{streams} streams are too few to show a difference: {needed} can.")
    out.print(
        "Below a figure: its 95 % interval, from six streams on. Coloured: better or worse, with "
        f"p < {LEVEL:g} after Holm's correction over all figures and pairs.",
        style="dim",
    )
    out.print(f"page: {folder / 'evaluation.html'}", soft_wrap=True)


def _shown(out: Console, contest: Contest) -> list[Figure]:
    """The figures that there is room for, in the order of the page."""
    room = max(1, (out.width - NAME_WIDTH) // COLUMN_WIDTH)
    return [figure for figure in contest.figures if figure.key in contest.screen[:room]]


def _figures(cell: Json, summary: Json, figures: Sequence[Figure]) -> FittedTable:
    titles = [Column(f"{figure.label}\n{figure.unit}") for figure in figures]
    rows = []
    for policy in summary["policies"]:
        note = "best heuristic" if policy == cell["best"] else ""
        note = "a bound" if policy in summary["bounds"] else note
        row = [_two(policy, note)]
        for figure in figures:
            entry = cell["figures"][policy][figure.key]
            known = entry["low"] is not None
            interval = f"{figure.text(entry['low'])}–{figure.text(entry['high'])}"
            row.append(_two(figure.text(entry["value"]), interval if known else ""))
        rows.append(tuple(row))
    return FittedTable((names("policy"), *titles), tuple(rows))


def _comparison(pairs: Json, figures: Sequence[Figure]) -> FittedTable:
    figures = [figure for figure in figures if figure.compared]
    rows = []
    for pair, entry in pairs.items():
        treated, _, reference = pair.partition(" vs ")
        row = [_two(treated, f"against {reference}")]
        for figure in figures:
            each = verdict(figure, entry[figure.key])
            interval = each.interval if each.interval.startswith("[") else ""
            row.append(_two(each.change, interval, STYLES[each.kind]))
        rows.append(tuple(row))
    return FittedTable((names(""), *(Column(figure.label) for figure in figures)), tuple(rows))


def _two(first: str, second: str, colour: str = "") -> Text:
    return Text.assemble((first, colour), "\n", (second, "dim"))
