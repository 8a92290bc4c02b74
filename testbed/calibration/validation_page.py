"""Writes validation.html: the error table of `deftbed validate`, and twin against emulation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from testbed.calibration.accuracy import (
    FIGURES,
    LABELS,
    RANK_TARGET,
    RANKED,
    TARGETS,
    error_text,
    rank_text,
)
from testbed.records.files import write_text
from testbed.results.report.plot_style import INK, POLICY_COLOURS, marker, slot, style, to_svg
from testbed.results.report.report_page import TEMPLATES

_UNITS = {
    "latency_p50_ns": (1e6, "ms"),
    "latency_p99_ns": (1e6, "ms"),
    "delivered_pps": (1.0, "packets/s"),
    "dropped": (0.01, "%"),
}


def write_page(content: dict[str, Any], path: Path) -> None:
    """Write the page for the content of a validation.json."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("validation.html.j2").render(
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        content=content,
        headline=headline(content),
        figures=FIGURES,
        ranked=RANKED,
        labels=LABELS,
        targets={
            figure: f"target ± {error_text(TARGETS[figure], figure)}" if figure in TARGETS else ""
            for figure in FIGURES
        },
        rank_target=RANK_TARGET,
        rows=[_row(row) for row in content["rows"]],
        ranks=[
            {
                "name": name,
                "policies": entry["policies"],
                "cells": [rank_text(entry[figure]) for figure in RANKED],
            }
            for name, entry in content["ranks"].items()
        ],
        plot=Markup(scatter(content["rows"])),
    )
    write_text(path, text)


def headline(content: dict[str, Any]) -> str:
    """How many rows keep each target, in a sentence."""
    parts = []
    for figure, target in TARGETS.items():
        overall = content["overall"][figure]
        kept = overall["rows"] - len(overall["missed"])
        label, bound = LABELS[figure], error_text(target, figure)
        parts.append(f"{label} within {bound} in {kept} of {overall['rows']}")
    return "; ".join(parts)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"{row['scenario']}, {row['policy']}",
        "cells": [_cell(row[figure], figure) for figure in FIGURES],
    }


def _cell(entry: dict[str, Any], figure: str) -> dict[str, str]:
    if entry["error"] is None:
        return {"text": "–", "span": ""}
    text = error_text(entry["error"], figure, signed=True)
    low, high = (error_text(entry[key], figure, signed=True) for key in ("low", "high"))
    missed = " (missed)" if entry["within"] is False else ""
    return {"text": text + missed, "span": f"{low} … {high}" if low != high else ""}


def scatter(rows: Sequence[dict[str, Any]]) -> str:
    """Twin over emulation for each figure, as an <svg> element; a point a run."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    with style():
        picture = Figure(figsize=(11.0, 3.4))
        for number, figure in enumerate(FIGURES):
            _draw(picture.add_subplot(1, len(FIGURES), number + 1), rows, figure, policies)
        picture.tight_layout()
        handles = picture.axes[0].get_legend_handles_labels()
        picture.legend(*handles, loc="upper center", ncols=max(1, len(policies)), frameon=False,
                       bbox_to_anchor=(0.5, 0.0))  # fmt: skip
        return to_svg(picture, "Figures of runs in the twin over those in the emulation")


def _draw(axes: Axes, rows: Sequence[dict[str, Any]], figure: str, policies: Sequence[str]) -> None:
    unit, name = _UNITS[figure]
    values = [0.0]
    for policy in policies:
        pairs = [
            (a / unit, b / unit)
            for row in rows
            if row["policy"] == policy
            for a, b in zip(row[figure]["emulation"], row[figure]["twin"], strict=True)
            if a is not None and b is not None
        ]
        values += [value for pair in pairs for value in pair]
        axes.plot(
            [a for a, _ in pairs], [b for _, b in pairs], linestyle="none", markersize=5,
            marker=marker(policies, policy), color=_colour(policies, policy), label=policy,
        )  # fmt: skip
    most = max(max(values) * 1.05, 1e-9)
    axes.plot([0, most], [0, most], color=INK, linewidth=0.8)
    axes.set(xlim=(0, most), ylim=(0, most), title=LABELS[figure])
    axes.set_xlabel(f"emulation, {name}")
    axes.set_ylabel(f"twin, {name}")


def _colour(policies: Sequence[str], policy: str) -> str:
    """A policy's colour; beyond as many as there are, its marker tells it apart."""
    return POLICY_COLOURS[slot(policies, policy) % len(POLICY_COLOURS)]
