"""The figures of an evaluation: their columns in the raw values, units, and which way is good."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EvaluationFigure:
    """A figure. A raw value times `scale` is in `unit`; `form` is a format spec for it.

    `difference_unit` is that of the difference of two values, if it is another. A figure that adds
    up over cells may be 0 in some, and is compared by its total. No value is below 0 or beyond
    `most`.
    """

    key: str
    label: str
    unit: str
    scale: float
    form: str
    more_is_better: bool = False
    difference_unit: str | None = None
    adds_up: bool = False
    most: float = math.inf

    def text(self, value: float | None) -> str:
        """A raw value in the figure's unit; a dash if there is none."""
        return "–" if value is None else format(value * self.scale, self.form)


FIGURES: tuple[EvaluationFigure, ...] = (
    EvaluationFigure("acceptance", "accepted", "%", 100.0, ".1f", True, "points", most=1.0),
    EvaluationFigure("latency_mean_ns", "latency mean", "ms", 1e-6, ".1f"),
    EvaluationFigure("latency_p50_ns", "latency p50", "ms", 1e-6, ".1f"),
    EvaluationFigure("latency_p99_ns", "latency p99", "ms", 1e-6, ".1f"),
    EvaluationFigure("loss", "loss", "%", 100.0, ".2f", False, "points", True, 1.0),
    EvaluationFigure("lost", "lost", "packets", 1.0, ",.1f", adds_up=True),
    EvaluationFigure("overload_s", "overload", "s", 1.0, ".2f", adds_up=True),
    EvaluationFigure("goodput_pps", "goodput", "packets/s", 1.0, ".1f", True, adds_up=True),
    EvaluationFigure("cost", "cost", "", 1.0, ".2f"),
    EvaluationFigure("decision_p50_ns", "decision p50", "ms", 1e-6, ".3f"),
    EvaluationFigure("decision_p99_ns", "decision p99", "ms", 1e-6, ".3f"),
)
COMPARED = tuple(figure for figure in FIGURES if not figure.key.startswith("decision"))
"""What policies are compared by; wall times are of the machine and stand beside."""
TOLD = tuple(figure for figure in COMPARED if figure.key not in ("latency_mean_ns", "loss"))
"""What tables have room for: the others say much the same."""
BY_KEY = {figure.key: figure for figure in FIGURES}
