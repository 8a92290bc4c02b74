"""Plots of a comparison: ratios, latency distributions, recovery times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from testbed.results.report.findings import NAMES, Finding
from testbed.results.report.plot_style import FAINT, INK, PAPER, colour, dash, marker, style, to_svg
from testbed.results.report.read_results import Results
from testbed.results.run_summary import latencies

LEAST_RATIO, GREATEST_RATIO = 0.02, 50.0
"""The forest plot's axis goes no further; what lies beyond is drawn at its end with an arrow."""
TAIL_POINTS = 240
_ROUND_RATIOS = (0.5, 2, 0.2, 5, 0.1, 10, 0.05, 20, 0.02, 50, 0.7, 1.5, 0.8, 1.2, 0.6, 3, 0.3, 0.9)


def forest(found: Mapping[str, Sequence[Finding]], policies: Sequence[str]) -> str | None:
    """Ratios, intervals and seeds, a row for each figure and pair; None if nothing was compared."""
    figures = list(dict.fromkeys(each.figure for row in found.values() for each in row))
    if not figures:
        return None
    left, right = _ratio_limits([each for row in found.values() for each in row])
    rows = len(figures) * (len(found) + 0.6)
    with style():
        figure = Figure(figsize=(7.6, 0.8 + 0.32 * rows))
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_xlim(left, right)
        axes.axvline(1.0, color=INK, linewidth=1.2)
        at, ticks = 0.0, []
        for name in figures:
            ticks.append((at + (len(found) - 1) / 2, NAMES.get(name, name)))
            for pair, row in found.items():
                finding = next(each for each in row if each.figure == name)
                _interval(axes, at, pair, finding, policies)
                at += 1
            at += 0.6
            axes.axhline(at - 0.8, color=FAINT, linewidth=0.8)
        axes.set_ylim(at - 0.8, -0.8)
        axes.set_yticks([tick for tick, _ in ticks], [text for _, text in ticks])
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        ticks_at = _ratio_ticks(left, right)
        axes.set_xticks(ticks_at, [f"{value:g}" for value in ticks_at])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("ratio of means over seeds, log scale; 1 = no difference")
        return to_svg(figure, "ratios of figures between policies, over all seeds and in each")


def _ratio_limits(found: Sequence[Finding]) -> tuple[float, float]:
    shown = (v for each in found for v in (each.ratio, each.low, each.high, *each.dots))
    known = [value for value in shown if value is not None and 0 < value < np.inf]
    left, right = min([0.7, *known]) / 1.2, max([1.4, *known]) * 1.2
    return max(left, LEAST_RATIO), min(right, GREATEST_RATIO)


def _ratio_ticks(left: float, right: float) -> list[float]:
    """1 and as many round ratios beside it as have room on the axis."""
    room = 0.07 * np.log(right / left)
    chosen = [1.0]
    for value in _ROUND_RATIOS:
        if left <= value <= right and min(abs(np.log(value / c)) for c in chosen) > room:
            chosen.append(value)
    return sorted(chosen)


def _interval(axes: Axes, at: float, pair: str, finding: Finding, policies: Sequence[str]) -> None:
    treated, _, _ = pair.partition(" vs ")
    tint = colour(policies, treated) if treated in policies else INK
    left, right = axes.get_xlim()
    place: Any = axes.get_yaxis_transform()
    axes.text(1.01, at, f"{pair}   {finding.text}", va="center", fontsize=9.5, transform=place)
    _dots(axes, at + 0.24, finding.dots, tint)
    if finding.ratio is None:
        return
    at -= 0.1
    if finding.low is not None and finding.high is not None:
        low, high = max(finding.low, left), min(finding.high, right)
        axes.plot([low, high], [at] * 2, color=tint, linewidth=2.6, solid_capstyle="butt")
        if finding.low < left:
            axes.plot(left, at, marker="<", color=tint, clip_on=False)
        if finding.high > right:
            axes.plot(right, at, marker=">", color=tint, clip_on=False)
    shape = marker(policies, treated) if treated in policies else "o"
    fill = PAPER if finding.kind in ("open", "unknown") else tint
    inside = min(max(finding.ratio, left), right)
    look: dict[str, Any] = {"markerfacecolor": fill, "markersize": 7, "clip_on": False, "zorder": 4}
    axes.plot(inside, at, shape, color=tint, **look)


def _dots(axes: Axes, at: float, ratios: Sequence[float], tint: str) -> None:
    """A dot for each seed; those beyond the axis stand at its ends, as arrows."""
    left, right = axes.get_xlim()
    inside = [ratio for ratio in ratios if left <= ratio <= right]
    axes.plot(inside, [at] * len(inside), "o", color=tint, markersize=3.4, alpha=0.6, mew=0)
    for shape, place, count in (
        ("<", left, sum(ratio < left for ratio in ratios)),
        (">", right, sum(ratio > right for ratio in ratios)),
    ):
        axes.plot([place] * count, [at] * count, shape, color=tint, markersize=4, clip_on=False)


def latency_tails(results: Results) -> str | None:
    """Share of arrived packets later than t, by policy: seeds thin, all seeds together bold."""
    with style():
        figure = Figure(figsize=(11.5, 4.6))
        axes = figure.subplots()
        drawn = False
        for policy in results.policies:
            seeds = [latencies(run.packets) / 1e6 for run in results.of(policy)]
            seeds = [each for each in seeds if len(each)]
            if not seeds:
                continue
            drawn = True
            tint, line = colour(results.policies, policy), dash(results.policies, policy)
            for each in seeds:
                axes.plot(*_tail(each), color=tint, linewidth=0.7, alpha=0.45)
            axes.plot(*_tail(np.concatenate(seeds)), color=tint, linestyle=line, label=policy)
        if not drawn:
            return None
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(5e-4, 1.15)
        axes.set_yticks([1, 0.5, 0.1, 0.05, 0.01, 0.001])
        axes.set_yticklabels(["100 %", "50 % (p50)", "10 %", "5 % (p95)", "1 % (p99)", "0.1 %"])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("latency from the scheduled time, ms, log scale")
        axes.set_ylabel("share of packets later than this")
        axes.legend(loc="upper right")
        return to_svg(figure, "latency tails by policy")


def _tail(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (value, share of values above it), dense where the tail is thin."""
    ordered = np.sort(values)
    shares = np.unique(np.r_[np.geomspace(1 / len(ordered), 1, TAIL_POINTS), np.linspace(0, 1, 80)])
    ranks = np.clip(np.ceil((1 - shares) * len(ordered)).astype(int) - 1, 0, len(ordered) - 1)
    return ordered[ranks], shares


def recovery(results: Results) -> str | None:
    """Each group's recovery time as a dot, by policy; None if there was none."""
    times = {
        policy: [value / 1e6 for run in results.summaries(policy) for value in run["recovery_ns"]]
        for policy in results.policies
    }
    if not any(times.values()):
        return None
    with style():
        figure = Figure(figsize=(11.5, 0.9 + 0.55 * len(times)))
        axes = figure.subplots()
        for row, (policy, values) in enumerate(times.items()):
            tint = colour(results.policies, policy)
            # A fixed pattern, not chance, keeps dots apart: the page is the same every time.
            offsets = [0.22 * ((index * 0.618) % 1 - 0.5) * 2 for index in range(len(values))]
            shape = marker(results.policies, policy)
            heights = [row + offset for offset in offsets]
            axes.plot(values, heights, shape, color=tint, alpha=0.65, markersize=5.5)
            if values:
                median = float(np.median(values))
                axes.plot([median] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=2)
            else:
                axes.text(0, row, "  none", va="center", style="italic")
        axes.set_yticks(range(len(times)), [f"{p} ({len(v)})" for p, v in times.items()])
        axes.set_ylim(len(times) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.grid(False, axis="y")
        axes.set_xlabel("from the fault to the new primary's first packet, ms (bar: median)")
        return to_svg(figure, "recovery times by policy")
