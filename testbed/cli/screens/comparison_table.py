"""The table of compared policies: ratios, intervals, and a dot for each seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from testbed.cli.screens.tables import Cell, Column, FittedTable, names
from testbed.results.report.findings import Finding, foundation

STRIP_WIDTH = 19
"""Places of the strip of dots; odd, so that 1 is in its middle."""
STYLES = {"better": "green", "worse": "red", "open": "", "unknown": ""}
_DOTS = {1: "·", 2: "•", 3: "•"}
_MANY = "●"


def print_comparison(found: Mapping[str, Sequence[Finding]], out: Console) -> None:
    """A table for each pair of policies, and what its ratios rest on."""
    for pair, row in found.items():
        out.print(pair.replace(" vs ", " against "), style="bold")
        out.print(comparison_table(row))
    out.print(foundation({pair: list(row) for pair, row in found.items()}), style="dim")


def comparison_table(row: Sequence[Finding]) -> FittedTable:
    """A line a figure: the ratio or what stands for it, the corrected p, and the seeds."""
    reach = _reach(row)
    tested = any(each.p_holm is not None for each in row)
    columns = [names("figure"), Column("ratio [95 % interval]" if tested else "ratio", left=True)]
    if tested:
        columns.append(Column("p"))
    columns.append(Column(_scale(reach), left=True))
    rows: list[tuple[Cell, ...]] = []
    for each in row:
        text = Text(each.text, STYLES[each.kind])
        p = "–" if each.p_holm is None else p_text(each.p_holm)
        rows.append((each.name, text, *([p] if tested else []), strip(each.dots, reach)))
    return FittedTable(tuple(columns), tuple(rows))


def p_text(p: float) -> str:
    """A p value with three decimals."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def strip(ratios: Sequence[float], reach: float) -> str:
    """Ratios as dots from 1 / reach to reach on a logarithmic scale; arrows are beyond it."""
    counts = [0] * STRIP_WIDTH
    below = above = False
    for ratio in ratios:
        if ratio < 1 / reach:
            below = True
        elif ratio > reach:
            above = True
        else:
            share = (math.log(ratio) / math.log(reach) + 1) / 2
            counts[round(share * (STRIP_WIDTH - 1))] += 1
    middle = STRIP_WIDTH // 2
    marks = [_DOTS.get(count, _MANY) if count else " " for count in counts]
    if not counts[middle]:
        marks[middle] = "│"
    if below:
        marks[0] = "<"
    if above:
        marks[-1] = ">"
    return "".join(marks)


def _reach(row: Sequence[Finding]) -> float:
    """How far the strips go to either side of 1: so far that most dots are on them."""
    logs = [abs(math.log(dot)) for each in row for dot in each.dots if 0 < dot < math.inf]
    furthest = max(logs, default=0.0)
    return next((end for end in (1.1, 1.25, 1.5, 2.0, 4.0) if math.log(end) >= furthest), 10.0)


def _scale(reach: float) -> str:
    left, right = f"{1 / reach:.2g}", f"{reach:g}"
    room = STRIP_WIDTH // 2
    return f"{left:<{room}}1{right:>{room}}"
