"""Plots of the metrics: percentiles with their intervals, and where a packet's time went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from testbed.results.hops import PARTS
from testbed.results.report.plot_style import INK, colour, marker, style, to_svg
from testbed.results.report.read_results import Results
from testbed.statistics.quantiles import PERCENTILES

_PANELS = (
    ("delay_ns", "one-way delay, ms"),
    ("ipdv_ns", "delay variation between neighbours, |ipdv|, ms"),
)
_LABELS = {"p50": "p50", "p95": "p95", "p99": "p99", "p999": "p99.9"}


def percentiles(results: Results) -> str | None:
    """Percentiles of delay and of its variation by policy, all seeds together; None without any."""
    found = {
        policy: entry["metrics"]
        for policy, entry in results.summary.get("policies", {}).items()
        if "metrics" in entry
    }
    if not any(entry[key]["p50"]["value"] for entry in found.values() for key, _ in _PANELS):
        return None
    with style():
        figure = Figure(figsize=(11.5, 1.4 + 0.22 * len(PERCENTILES) * len(found)))
        for axes, (key, label) in zip(figure.subplots(1, 2), _PANELS, strict=True):
            _panel(axes, {policy: entry[key] for policy, entry in found.items()}, results)
            axes.set_xlabel(label)
            if key == _PANELS[0][0]:
                axes.legend(loc="upper right")
        figure.subplots_adjust(wspace=0.14)
        return to_svg(figure, "percentiles of delay and delay variation with 95 % intervals")


def _panel(axes: Axes, found: Mapping[str, Mapping[str, Any]], results: Results) -> None:
    """A row for each percentile and policy: the value as a marker, its interval as a bar."""
    at, ticks = 0.0, []
    for name in PERCENTILES:
        ticks.append((at + (len(found) - 1) / 2, _LABELS[name]))
        for policy, entry in found.items():
            tint, shape = colour(results.policies, policy), marker(results.policies, policy)
            quantile = entry[name]
            label = policy if name == "p50" else None
            if quantile["value"] is None:
                axes.plot([], [], shape, color=tint, label=label)
                where = axes.get_yaxis_transform()
                text = f"{policy}: {quantile['note']}"
                axes.text(0.99, at, text, transform=where, ha="right", va="center", fontsize=8.5)
            else:
                axes.plot(quantile["value"] / 1e6, at, shape, color=tint, label=label, markersize=6)
            if quantile["low"] is not None and quantile["high"] is not None:
                span = [quantile["low"] / 1e6, quantile["high"] / 1e6]
                axes.plot(span, [at, at], color=tint, linewidth=2.4, solid_capstyle="butt")
            at += 1
        at += 0.8
    axes.set_yticks([tick for tick, _ in ticks], [text for _, text in ticks])
    axes.set_ylim(at - 0.6, -0.8)
    axes.set_xlim(left=0)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


_TINTS = ("#9aa3af", "#4c78a8", "#a0c4e8", "#e45756", "#f2a33c", "#54a24b", "#c9ced6")


def hops(results: Results) -> str | None:
    """Mean time by part and hop, a bar for each policy; None if nothing was traced."""
    entries = results.summary.get("policies", {}).items()
    found = {policy: entry.get("metrics", {}).get("hops", []) for policy, entry in entries}
    shown = {policy: rows for policy, rows in found.items() if rows}
    if not shown:
        return None
    with style():
        figure = Figure(figsize=(11.5, 1.5 + 0.6 * len(shown)))
        axes = figure.subplots()
        labelled: set[str] = set()
        for row, spans in enumerate(shown.values()):
            left = 0.0
            for span in spans:
                part, width = str(span["part"]), span["mean_ns"] * span["share"] / 1e6
                label = None if part in labelled else part
                labelled.add(part)
                tint = _TINTS[PARTS.index(part)]
                axes.barh(row, width, 0.62, left, color=tint, label=label)
                if part == "links" and left:
                    axes.plot([left, left], [row - 0.38, row + 0.38], color=INK, linewidth=0.8)
                left += width
        axes.set_yticks(range(len(shown)), list(shown))
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.set_xlabel("mean time of a traced packet that arrived, ms; a line before each hop")
        axes.legend(
            ncols=len(PARTS), loc="upper center", bbox_to_anchor=(0.5, 1.02 + 0.3 / len(shown))
        )
        return to_svg(figure, "where a packet's time went, by policy")
