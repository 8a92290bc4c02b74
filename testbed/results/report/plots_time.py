"""Plots over a run's time: goodput, losses and server load, with load steps and faults marked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from testbed.results.report.plot_style import INK, colour, dash, style, to_svg
from testbed.results.report.read_results import NS_PER_S, Results, RunFolder

BIN_S = 0.5
HEAT_COLOURS = "cividis"

Series = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened to every run at `at_s`."""

    at_s: float
    text: str


def marks(results: Results) -> list[Mark]:
    """The load steps and faults, from the first run that has them; equal for every policy."""
    found: dict[str, Mark] = {}
    for run in results.runs:
        names = node_names(run)
        for event in run.named("load-step"):
            text = f"load × {event['factor']:g}"
            found.setdefault(text, Mark(run.seconds(event), text))
        for event in run.named("fault"):
            text = f"{names.get(event['node'], event['node'])} dies"
            found.setdefault(text, Mark(run.seconds(event), text))
    return sorted(found.values(), key=lambda mark: mark.at_s)


def node_names(run: RunFolder) -> dict[int, str]:
    """Names of the substrate nodes by number."""
    nodes = run.manifest.get("topology", {}).get("nodes", [])
    return {index: node["name"] for index, node in enumerate(nodes)}


def over_time(results: Results) -> str | None:
    """Goodput, losses and the busiest server over time: mean over seeds, band from least to most.

    None if no run has packets.
    """
    runs = [run for run in results.runs if len(run.packets)]
    if not runs:
        return None
    end_s = max(float(run.packets["scheduled_ns"].max()) / NS_PER_S for run in runs)
    edges = np.arange(0, end_s + BIN_S, BIN_S)
    panels: list[tuple[str, Callable[[RunFolder, Series], Series | None]]] = [
        ("goodput, kb/s", _goodput_kbps),
        ("lost, packets/s", _lost_pps),
        ("busiest server, %", _busiest_percent),
    ]
    with style():
        figure = Figure(figsize=(11.5, 7.0))
        grid = figure.subplots(len(panels), 1, sharex=True)
        for axes, (label, values) in zip(grid, panels, strict=True):
            for policy in results.policies:
                _band(axes, results, policy, edges, values)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
            _draw_marks(axes, marks(results), named=axes is grid[0])
        figure.align_ylabels(grid)
        grid[-1].set_xlim(0, edges[-1])
        grid[-1].set_xlabel("time from the run's origin, s")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=6, bbox_to_anchor=(0.5, 0.965))
        return to_svg(figure, "goodput, losses and server load over time by policy")


def _band(
    axes: Axes,
    results: Results,
    policy: str,
    edges: Series,
    values: Callable[[RunFolder, Series], Series | None],
) -> None:
    found = [values(run, edges) for run in results.of(policy)]
    rows = [row for row in found if row is not None]
    if not rows:
        return
    table, middles = np.array(rows), edges[:-1] + BIN_S / 2
    tint, line = colour(results.policies, policy), dash(results.policies, policy)
    axes.plot(middles, table.mean(axis=0), color=tint, linestyle=line, label=policy)
    if len(table) > 1:
        low, high = table.min(axis=0), table.max(axis=0)
        axes.fill_between(middles, low, high, color=tint, alpha=0.14, linewidth=0)


def _goodput_kbps(run: RunFolder, edges: Series) -> Series | None:
    arrived = run.packets[run.packets["received_ns"].notna()]
    if not len(run.packets):
        return None
    at_s = arrived["received_ns"].to_numpy(dtype=np.float64) / NS_PER_S
    bits = arrived["l3_bytes"].to_numpy(dtype=np.float64) * 8
    return np.asarray(np.histogram(at_s, edges, weights=bits)[0] / BIN_S / 1e3)


def _lost_pps(run: RunFolder, edges: Series) -> Series | None:
    if not len(run.packets):
        return None
    lost = run.packets[run.packets["sent_ns"].notna() & run.packets["received_ns"].isna()]
    at_s = lost["scheduled_ns"].to_numpy(dtype=np.float64) / NS_PER_S
    return np.asarray(np.histogram(at_s, edges)[0] / BIN_S)


def _busiest_percent(run: RunFolder, edges: Series) -> Series | None:
    if not len(run.servers):
        return None
    table = server_table(run.servers, edges)
    return np.asarray(table.max(axis=0) * 100)


def server_table(servers: pd.DataFrame, edges: Series) -> Series:
    """Mean utilisation, shape [nodes seen, bins]; 0 where a bin has no sample."""
    column = np.digitize(servers["t_ns"].to_numpy(dtype=np.float64) / NS_PER_S, edges) - 1
    nodes = servers["node"].to_numpy(dtype=np.int64)
    size = (int(nodes.max()) + 1, len(edges) - 1)
    total, count = np.zeros(size), np.zeros(size)
    inside = (column >= 0) & (column < size[1])
    at = (nodes[inside], column[inside])
    np.add.at(total, at, servers["utilisation"].to_numpy(dtype=np.float64)[inside])
    np.add.at(count, at, 1.0)
    return np.divide(total, count, out=np.zeros(size), where=count > 0)


def server_load(results: Results) -> str | None:
    """Utilisation of every server over time, a panel for each policy; None without samples.

    Those from before the origin, which are all that a run has that was ended there, are not shown.
    """
    with_samples = [run for run in results.runs if (run.servers["t_ns"] >= 0).any()]
    policies = [p for p in results.policies if any(run.policy == p for run in with_samples)]
    if not policies:
        return None
    end_s = max(float(run.servers["t_ns"].max()) / NS_PER_S for run in with_samples)
    edges = np.arange(0, end_s + BIN_S, BIN_S)
    names = node_names(with_samples[0])
    with style():
        rows = int(max(run.servers["node"].max() for run in with_samples)) + 1
        height = 0.5 + len(policies) * (0.45 + 0.17 * rows)
        figure = Figure(figsize=(11.5, height), layout="constrained")
        grid = figure.subplots(len(policies), 1, sharex=True, squeeze=False)[:, 0]
        for axes, policy in zip(grid, policies, strict=True):
            own = [run for run in with_samples if run.policy == policy]
            table = np.mean(
                [_padded(server_table(run.servers, edges), rows) for run in own], axis=0
            )
            # Edges in the cell's colour close the seams that viewers draw between cells.
            look = {"cmap": HEAT_COLOURS, "edgecolors": "face", "linewidth": 0.4}
            mesh = axes.pcolormesh(
                edges, np.arange(rows + 1), table * 100, vmin=0, vmax=100, **look
            )
            axes.set_yticks(np.arange(rows) + 0.5, [names.get(n, str(n)) for n in range(rows)])
            axes.tick_params(axis="y", labelsize=8.5, length=0)
            axes.invert_yaxis()
            axes.grid(False)
            axes.set_title(policy, color=colour(results.policies, policy), pad=14)
            _draw_marks(axes, marks(results), named=True, tint="white")
        figure.colorbar(mesh, ax=list(grid), label="utilisation, % (mean over seeds)", pad=0.01)
        grid[-1].set_xlabel("time from the run's origin, s")
        return to_svg(figure, "utilisation of each server over time by policy")


def _padded(table: Series, rows: int) -> Series:
    return np.pad(table, ((0, rows - len(table)), (0, 0)))


def _draw_marks(axes: Axes, found: list[Mark], named: bool, tint: str = INK) -> None:
    for mark in found:
        axes.axvline(mark.at_s, color=tint, linewidth=1.1, linestyle=(0, (4, 3)))
        if named:
            where = axes.get_xaxis_transform()
            text = f"▾ {mark.text}"
            axes.text(mark.at_s, 1.015, text, transform=where, fontsize=9, ha="left", va="bottom")
