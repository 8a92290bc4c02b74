"""The figures of a run's real applications, from iperf3's reports and the lines of fetches.

- `iperf3`: the payload's rate at the receiver, retransmissions, and the mean round-trip time, as
  iperf3 reports them (its report lies in the run's folder).
- `http`: fetches that began, those that failed, and of those that did not: percentiles of the time
  until the connection stood, until the first byte, and until the last one, all from the beginning
  of the fetch; and the payload's rate over the application's time. A fetch that had not ended when
  the run did is not among them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from testbed.records.application_paths import application_path
from testbed.records.events import read_events
from testbed.statistics.quantiles import quantiles

NS_PER_S = 1_000_000_000
TIMES = ("connect_ns", "first_byte_ns", "total_ns")


def read_applications(
    folder: Path, applications: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """An entry for each application of the manifest: its "kind" and "request", and what it got.

    "error" says why there is nothing to report; it is null otherwise.
    """
    return [
        {
            "kind": each["kind"],
            "request": each["request"],
            **_figures(application_path(folder, number, each["kind"]), each),
        }
        for number, each in enumerate(applications)
    ]


def _figures(path: Path, application: Mapping[str, Any]) -> dict[str, Any]:
    if not path.is_file() or not path.stat().st_size:
        return {"error": "it wrote nothing"}
    if application["kind"] == "http":
        return of_fetches(list(read_events(path)), application["end_ns"] - application["at_ns"])
    try:
        return of_iperf(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        return {"error": f"its report cannot be read: {error}"}


def of_iperf(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a report of iperf3's client."""
    end = report.get("end", {})
    if "error" in report or "sum_received" not in end:
        return {"error": str(report.get("error", "its report has no end"))}
    streams = end.get("streams", [])
    rtts_us = [each["sender"]["mean_rtt"] for each in streams if each["sender"].get("mean_rtt")]
    return {
        "goodput_bps": end["sum_received"]["bits_per_second"],
        "retransmits": end["sum_sent"].get("retransmits"),
        "mean_rtt_ns": round(1000 * sum(rtts_us) / len(rtts_us)) if rtts_us else None,
        "error": None,
    }


def of_fetches(fetches: Sequence[Mapping[str, Any]], lasted_ns: int) -> dict[str, Any]:
    """The figures of the events "fetch"."""
    done = [each for each in fetches if each["error"] is None]
    got = sum(each["bytes"] for each in done)
    return {
        "fetches": len(fetches),
        "failed": len(fetches) - len(done),
        "goodput_bps": got * 8 * NS_PER_S / lasted_ns,
        **{name: quantiles(np.array([each[name] for each in done], np.int64)) for name in TIMES},
        "error": None,
    }
