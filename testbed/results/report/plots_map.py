"""Plots the map of the substrate with each policy's placements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Wedge
from numpy.typing import NDArray

from testbed.results.report.plot_style import FAINT, INK, PAPER, colour, no_grid, style, to_svg
from testbed.results.report.read_results import Results, RunFolder

WIDTH, HEIGHT = 100.0, 58.0
"""The drawing area, in units of its own."""
LARGEST_RADIUS = 4.6
_LABEL_PLACES = ((0, -1), (0, 1), (1, 0), (-1, 0), (1, -1), (-1, -1), (1, 1), (-1, 1))

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Placed:
    """How many primaries and backups a policy put at each node, over its runs; shape [N]."""

    primaries: NDArray[np.int64]
    backups: NDArray[np.int64]
    dead: frozenset[int]


def placed(runs: Sequence[RunFolder], nodes: int) -> Placed:
    """Count the placements in the "decision" events of `runs`."""
    primaries, backups = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    dead = set()
    for run in runs:
        for event in run.named("decision"):
            for primary, *others in event.get("placements") or ():
                primaries[primary] += 1
                for backup in others:
                    if backup is not None:
                        backups[backup] += 1
        dead |= {int(event["node"]) for event in run.named("fault")}
    return Placed(primaries, backups, frozenset(dead))


def maps(results: Results) -> list[tuple[str, str]]:
    """(policy, map as SVG) for each policy with a run that knows its substrate."""
    drawn = []
    for policy in results.policies:
        runs = [run for run in results.of(policy) if run.manifest.get("topology")]
        if runs:
            drawn.append((policy, _map(results, policy, runs)))
    return drawn


def _map(results: Results, policy: str, runs: Sequence[RunFolder]) -> str:
    topology = runs[0].manifest["topology"]
    names = [node["name"] for node in topology["nodes"]]
    cores = np.zeros(len(names))
    for server in runs[0].manifest.get("servers", []):
        cores[server["node"]] = server["cpu_cores"]
    radii = LARGEST_RADIUS * np.sqrt(np.maximum(cores, 1e-9) / max(cores.max(), 1e-9))
    radii = np.maximum(radii, 1.0)
    spots = _apart(_screen(topology["nodes"]), radii)
    found = placed(runs, len(names))
    with style():
        bottom, top = spots[:, 1].min() - 11, spots[:, 1].max() + 11
        figure = Figure(figsize=(7.4, 7.4 * (top - bottom) / (WIDTH + 16)))
        axes = figure.add_axes((0, 0, 1, 1))
        no_grid(axes)
        axes.set_aspect("equal")
        axes.set_xlim(-8, WIDTH + 8)
        axes.set_ylim(bottom, top)
        for link in topology["links"]:
            ends = spots[[_index(names, link["a"]), _index(names, link["b"])]]
            axes.plot(ends[:, 0], ends[:, 1], color=FAINT, linewidth=1.6, zorder=1)
        greatest = max(1, int(found.primaries.max()), int(found.backups.max()))
        for node, (x, y) in enumerate(spots):
            shares = (found.primaries[node] / greatest, found.backups[node] / greatest)
            tint = colour(results.policies, policy)
            _node(axes, (x, y), radii[node], shares, tint, node in found.dead)
        _labels(axes, names, spots, radii, found)
        return to_svg(figure, f"where {policy} placed primaries and backups")


def _index(names: Sequence[str], end: int | str) -> int:
    return end if isinstance(end, int) else names.index(end)


def _screen(nodes: Sequence[dict[str, float]]) -> Points:
    """Longitude and latitude, shape [N, 2], fitted into the drawing area with one scale.

    Positions that are no degrees on the Earth are points in a plane.
    """
    places = np.array([[node["longitude_deg"], node["latitude_deg"]] for node in nodes], float)
    if np.abs(places[:, 1]).max() <= 90:
        places[:, 0] *= np.cos(np.deg2rad(places[:, 1].mean()))
    span = np.ptp(places, axis=0)
    scale = min(WIDTH / span[0] if span[0] else np.inf, HEIGHT / span[1] if span[1] else np.inf)
    scale = scale if np.isfinite(scale) else 1.0
    middle = (places.min(axis=0) + places.max(axis=0)) / 2
    return np.asarray((places - middle) * scale + np.array([WIDTH / 2, HEIGHT / 2]))


def _apart(spots: Points, radii: NDArray[np.float64]) -> Points:
    """Push nodes apart that would cover one another; the others stay where they are."""
    spots = spots.copy()
    for _ in range(60):
        moved = False
        for a in range(len(spots)):
            for b in range(a):
                gap = spots[a] - spots[b]
                distance, least = float(np.hypot(*gap)), radii[a] + radii[b] + 2.2
                if distance < least:
                    towards = gap / distance if distance > 1e-9 else np.array([1.0, 0.0])
                    spots[a] += towards * (least - distance) / 2
                    spots[b] -= towards * (least - distance) / 2
                    moved = True
        if not moved:
            break
    return spots


def _node(
    axes: Axes,
    at: tuple[float, float],
    radius: float,
    shares: tuple[float, float],
    tint: str,
    dead: bool,
) -> None:
    axes.add_patch(Circle(at, radius, facecolor=PAPER, edgecolor="none", zorder=2))
    for share, begin, end in ((shares[0], 90, 270), (shares[1], -90, 90)):
        if share > 0:
            wedge = Wedge(at, radius, begin, end, facecolor=tint, alpha=share, zorder=3)
            wedge.set_linewidth(0)
            axes.add_patch(wedge)
    axes.plot([at[0]] * 2, [at[1] - radius, at[1] + radius], color=INK, linewidth=0.6, zorder=4)
    axes.add_patch(Circle(at, radius, fill=False, edgecolor=INK, linewidth=1.1, zorder=4))
    if dead:
        size = radius * 0.95
        for sign in (1, -1):
            ends = ([at[0] - size, at[0] + size], [at[1] - sign * size, at[1] + sign * size])
            axes.plot(*ends, color=PAPER, linewidth=5, zorder=5, solid_capstyle="round")
            axes.plot(*ends, color=INK, linewidth=2.4, zorder=6, solid_capstyle="round")


def _labels(
    axes: Axes, names: Sequence[str], spots: Points, radii: NDArray[np.float64], found: Placed
) -> None:
    """Name and counts beside each node, where they cover least."""
    boxes = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(spots, radii, strict=True)]
    for node, name in enumerate(names):
        counts = f"{found.primaries[node]} | {found.backups[node]}"
        half = (max(len(name), len(counts)) * 1.0, 2.9)
        choices = [_beside(spots[node], radii[node], half, place) for place in _LABEL_PLACES]
        best = min(choices, key=lambda box: sum(_overlap(box, other) for other in boxes))
        boxes.append(best)
        x, y = (best[0] + best[2]) / 2, (best[1] + best[3]) / 2
        axes.text(x, y + 1.45, name, ha="center", va="center", fontsize=10, zorder=7)
        axes.text(
            x, y - 1.45, counts, ha="center", va="center", fontsize=10, weight="bold", zorder=7
        )


_Box = tuple[float, float, float, float]


def _beside(spot: Points, radius: float, half: tuple[float, float], place: tuple[int, int]) -> _Box:
    x = float(spot[0]) + place[0] * (radius + half[0] + 0.3)
    y = float(spot[1]) + place[1] * (radius + half[1] + 0.4)
    return (x - half[0], y - half[1], x + half[0], y + half[1])


def _overlap(one: _Box, other: _Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
