"""The figures of the report's table: where each stands in summary.json, its unit and its form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Run = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `value` gives the figure of a run in `unit`, or None; `form` is a format spec."""

    key: str
    label: str
    unit: str
    form: str
    value: Callable[[Run], float | None]

    def text(self, value: float | None) -> str:
        """A value as the table shows it; a dash if there is none."""
        return "–" if value is None else format(value, self.form)


def _latency_ms(name: str) -> Callable[[Run], float | None]:
    def value(run: Run) -> float | None:
        found = run["latency_ns"][name]
        return None if found is None else float(found / 1e6)

    return value


def _goodput_kbps(run: Run) -> float | None:
    found = run["goodput_bps"]
    return None if found is None else float(found / 1e3)


def _recovery_ms(run: Run) -> float | None:
    found = run["recovery_ns"]
    return sum(found) / len(found) / 1e6 if found else None


COLUMNS: tuple[Column, ...] = (
    Column("latency_p50", "latency p50", "ms", ".1f", _latency_ms("p50")),
    Column("latency_p95", "p95", "ms", ".1f", _latency_ms("p95")),
    Column("latency_p99", "p99", "ms", ".1f", _latency_ms("p99")),
    Column("latency_p999", "p99.9", "ms", ".1f", _latency_ms("p999")),
    Column("sent", "sent", "packets", ",.0f", lambda run: run["sent"]),
    Column("lost", "lost", "packets", ",.0f", lambda run: run["lost"]),
    Column("blocked", "blocked", "packets", ",.0f", lambda run: run["blocked"]),
    Column("goodput", "goodput", "kb/s", ",.0f", _goodput_kbps),
    Column("accepted", "accepted", "requests", ".1f", lambda run: run["accepted"]),
    Column("requested", "requested", "requests", ".1f", lambda run: run["requested"]),
    Column("overload", "overload", "server-s", ".1f", lambda run: run["overload_s"]),
    Column("recovery", "recovery", "ms", ".0f", _recovery_ms),
)


def spread(column: Column, runs: Sequence[Run]) -> tuple[float, float, float] | None:
    """Mean, least and greatest value over the runs that have the figure; None if none has."""
    values = [value for run in runs if (value := column.value(run)) is not None]
    if not values:
        return None
    return sum(values) / len(values), min(values), max(values)
