"""Small runs and results folders, written as a run writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from testbed.records import packets as packet_records
from testbed.records.packets import Scheduled, build_packets
from testbed.records.raw import ARRIVAL_DTYPE, SCHEDULE_DTYPE, Records

MS = 1_000_000
Arrival = tuple[int, int, int, int]
"""(request, flow, seq, received_ns)"""


def schedule(packets: int, flows: int = 1, gap_ns: int = MS, request: int = 0) -> Scheduled:
    """`packets` packets of 100 B, `gap_ns` apart, round the flows."""
    array = np.empty(packets, SCHEDULE_DTYPE)
    array["flow"] = np.arange(packets) % flows
    array["seq"] = np.arange(packets) // flows
    array["scheduled_ns"] = gap_ns * np.arange(packets)
    return Scheduled(request, "voip", 100, array)


def arrivals(records: Iterable[Arrival]) -> Records:
    """Records in the order of arrival."""
    return np.array(list(records), ARRIVAL_DTYPE)


def packets(schedules: Sequence[Scheduled], records: Iterable[Arrival]) -> pd.DataFrame:
    """Packets that were all sent 1 us late."""
    sent = {each.request: each.schedule["scheduled_ns"] + 1000 for each in schedules}
    return build_packets(schedules, sent, arrivals(records))


def event(t_ms: float, name: str, **fields: Any) -> dict[str, Any]:
    """An event at `t_ms`."""
    return {"t_ns": round(t_ms * MS), "event": name, **fields}


def write_run(
    folder: Path,
    frame: pd.DataFrame,
    events: Sequence[dict[str, Any]],
    seed: int,
    reasons: Sequence[str] = (),
    digest: str = "d",
) -> None:
    """A run folder with manifest, packets and events."""
    folder.mkdir(parents=True)
    manifest = {
        "seed": seed,
        "valid": not reasons,
        "reasons": list(reasons),
        "plan_digest": digest,
        "requests": [],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    packet_records.write(frame, folder / "packets.parquet")
    (folder / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))


def write_plan(results: Path, policies: Sequence[str], seeds: Sequence[int]) -> None:
    """The manifest of a comparison."""
    plan = {"scenario": "small", "baseline": "deft", "policies": policies, "seeds": seeds}
    (results / "manifest.json").write_text(json.dumps(plan))
