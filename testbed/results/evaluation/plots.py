"""Plots of an evaluation: figures over the load, for each policy, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from testbed.decisions import contest as contests
from testbed.decisions.contest import Contest
from testbed.results.report.plot_style import PAPER, colour, dash, marker, style, to_svg

COLUMNS = 4

Cell = Mapping[str, Any]


def over_load(cells: Sequence[Cell], policies: Sequence[str], contest: Contest) -> str:
    """The plotted figures over the load at one place; `cells` are its entries of the summary."""
    ordered = sorted(cells, key=lambda cell: float(cell["load"]))
    with style():
        rows = -(-len(contest.plotted) // COLUMNS)
        figure = Figure(figsize=(12.4, 0.5 + 2.7 * rows), layout="constrained")
        grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for axes in grid[len(contest.plotted) :]:
            axes.set_visible(False)
        for axes, key in zip(grid, contest.plotted, strict=False):
            _draw(axes, ordered, policies, contest.figure(key))
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 10))
        return to_svg(figure, f"figures over the load on {ordered[0]['topology']}, by policy")


def _draw(
    axes: Axes, cells: Sequence[Cell], policies: Sequence[str], figure: contests.Figure
) -> None:
    loads = np.array([cell["load"] for cell in cells], np.float64)
    for number, policy in enumerate(policies):
        entries = [cell["figures"][policy][figure.key] for cell in cells]
        middle, low, high = (_values(entries, name, figure.scale) for name in _BAND)
        tint = colour(policies, policy)
        # Marks of policies that agree would hide one another.
        shift = 0.0 if len(loads) > 1 else 0.02 * (number - (len(policies) - 1) / 2)
        axes.plot(
            loads + shift, middle, color=tint, linestyle=dash(policies, policy), label=policy,
            marker=marker(policies, policy), markersize=4.5, markeredgecolor=PAPER,
            markeredgewidth=0.6,
        )  # fmt: skip
        if np.isnan(low).all():
            _dots(axes, loads + shift, entries, figure.scale, tint)
        elif len(loads) > 1:
            axes.fill_between(loads, low, high, color=tint, alpha=0.16, linewidth=0)
        else:
            axes.vlines(loads + shift, low, high, color=tint)
    if figure.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif figure.key == "acceptance":
        axes.set_ylim(min(90.0, axes.get_ylim()[0]), 101.0)
    else:
        axes.set_ylim(bottom=0.0)
    axes.set_xticks(loads, [f"{load:g}" for load in loads])
    axes.set_title(f"{figure.label}, {figure.unit}" if figure.unit else figure.label)
    axes.set_xlabel("load")


def _dots(
    axes: Axes, loads: np.ndarray, entries: Sequence[Mapping[str, Any]], scale: float, tint: str
) -> None:
    """A dot for each stream: there are too few for an interval."""
    for load, entry in zip(loads, entries, strict=True):
        known = [value * scale for value in entry["streams"] if value is not None]
        axes.plot([load] * len(known), known, "o", color=tint, markersize=3, alpha=0.6, mew=0)


_BAND = ("value", "low", "high")


def _values(entries: Sequence[Mapping[str, Any]], name: str, scale: float) -> np.ndarray:
    found = [entry[name] for entry in entries]
    return np.array([np.nan if value is None else value * scale for value in found])
