"""How every plot of the report looks: inline SVG that follows the page's light or dark theme."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from testbed.scenario.problems.deciding import POLICIES

# Stand-ins, each used for nothing else: `to_svg` turns them into the page's CSS variables, so
# that one picture is readable on a light page and on a dark one.
INK, FAINT, PAPER = "#010203", "#040506", "#070809"
POLICY_COLOURS = tuple(f"#1000{number:02x}" for number in range(len(POLICIES)))
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "D", "^", "v", "P")

_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    PAPER: "var(--paper)",
    **{colour: f"var(--policy-{n})" for n, colour in enumerate(POLICY_COLOURS)},
}
_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deftbed",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "grid.color": FAINT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def style() -> Any:
    """A context in which figures get the report's look."""
    return mpl.rc_context(_RC)


def to_svg(figure: Figure, label: str) -> str:
    """The figure as an <svg> element for a page; `label` says to a screen reader what it shows."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=nothing, bbox_inches="tight", pad_inches=0.05)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = text.replace("'DejaVu Sans'", "var(--font)").replace("DejaVu Sans", "var(--font)")
    escaped = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escaped}" ', 1)


def slot(policies: Sequence[str], policy: str) -> int:
    """The number of a policy's colour, line and marker: for known ones the same in every report."""
    if policy in POLICIES:
        return POLICIES.index(policy)
    others = [each for each in policies if each not in POLICIES]
    return (len(POLICIES) + others.index(policy)) % len(POLICY_COLOURS)


def colour(policies: Sequence[str], policy: str) -> str:
    """The colour of a policy."""
    return POLICY_COLOURS[slot(policies, policy)]


def dash(policies: Sequence[str], policy: str) -> Any:
    """The line style of a policy, for eyes and printers that see no colour."""
    return DASHES[slot(policies, policy) % len(DASHES)]


def marker(policies: Sequence[str], policy: str) -> str:
    """The marker of a policy."""
    return MARKERS[slot(policies, policy) % len(MARKERS)]


def no_grid(axes: Axes) -> None:
    """Take away grid, ticks and frame: for pictures without coordinates."""
    axes.grid(False)
    axes.set_axis_off()
