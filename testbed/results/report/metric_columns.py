"""The metrics as tables show them: where each stands in an entry of metrics.json, and its form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MetricColumn:
    """A column. `path` leads to a figure or to a percentile; the figure times `scale` is shown."""

    key: str
    label: str
    unit: str
    path: tuple[str, ...]
    scale: float
    form: str

    def figure(self, entry: Entry) -> Any:
        """What stands in the entry: a number, a percentile with its interval, or None."""
        found: Any = entry
        for name in self.path:
            found = found[name]
        return found

    def text(self, entry: Entry, form: str | None = None) -> tuple[str, str]:
        """The figure, and what is said below it: its interval, or why there is no figure.

        `form` may stand in for the column's own.
        """
        found = self.figure(entry)
        if not isinstance(found, Mapping):
            return self._number(found, form), ""
        if found["value"] is None:
            return "–", str(found["note"])
        high = "∞" if found["high"] is None else self._number(found["high"], form)
        return self._number(found["value"], form), f"{self._number(found['low'], form)} – {high}"

    def _number(self, value: float | None, form: str | None) -> str:
        return "–" if value is None else format(value * self.scale, form or self.form)


METRIC_COLUMNS: tuple[MetricColumn, ...] = (
    MetricColumn("sent", "sent", "packets", ("sent",), 1, ",.0f"),
    MetricColumn("loss", "loss", "%", ("loss_ratio",), 100, ".3g"),
    MetricColumn("duplication", "duplicated", "%", ("duplication_ratio",), 100, ".3g"),
    MetricColumn("reordered", "reordered", "%", ("reordered_ratio",), 100, ".3g"),
    MetricColumn("extent", "extent, most", "packets", ("extent_max",), 1, ".0f"),
    MetricColumn("delay_min", "delay, least", "ms", ("delay_min_ns",), 1e-6, ".2f"),
    MetricColumn("delay_p50", "p50", "ms", ("delay_ns", "p50"), 1e-6, ".2f"),
    MetricColumn("delay_p99", "p99", "ms", ("delay_ns", "p99"), 1e-6, ".2f"),
    MetricColumn("delay_p999", "p99.9", "ms", ("delay_ns", "p999"), 1e-6, ".2f"),
    MetricColumn("ipdv_p50", "ipdv p50", "ms", ("ipdv_ns", "p50"), 1e-6, ".3f"),
    MetricColumn("ipdv_p99", "ipdv p99", "ms", ("ipdv_ns", "p99"), 1e-6, ".2f"),
    MetricColumn("pdv", "PDV", "ms", ("pdv_ns",), 1e-6, ".2f"),
    MetricColumn("goodput", "goodput", "kb/s", ("goodput_bps",), 1e-3, ",.0f"),
    MetricColumn("rate", "rate kept", "%", ("rate_ratio",), 100, ".2f"),
    MetricColumn("lag_p99", "lag p99", "ms", ("lag_ns", "p99"), 1e-6, ".3f"),
)
ON_SCREEN = {
    "loss": "loss",
    "reordered": "reord.",
    "delay_p50": "delay p50",
    "delay_p99": "delay p99",
    "ipdv_p99": "ipdv p99",
    "pdv": "PDV",
}
"""Those that the terminal shows, and what it calls them."""
