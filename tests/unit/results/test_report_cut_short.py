"""The folder of a run that was ended at any moment is reported, also before the run's origin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from testbed.lab.comparison import write_results
from testbed.records import packets as packet_records
from testbed.records import server_usage as server_records
from testbed.records.packets import build_packets
from tests.support.results_support import MS, arrivals, schedule
from tests.unit.records.test_torn import NODES, ORIGIN_MS, POLICIES, small_results, timeline


def cut(folder: Path, at_ms: int, origin_ns: int) -> None:
    """Leave of a run what there is at `at_ms` from its origin."""
    run = folder / "deft" / "seed-1"
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    manifest |= {"complete": False, "valid": False, "reasons": ["the run was cut short"]}
    (run / "manifest.json").write_text(json.dumps({**manifest, "origin_ns": origin_ns}))
    samples = [
        {**dict.fromkeys(server_records.SCHEMA.names, 0), "t_ns": (at_ms - ago) * MS, "node": node}
        for ago in (250, 0)
        for node in range(NODES)
    ]
    server_records.write(samples, run / "servers.parquet")
    due = schedule(40)
    sent = np.where(due.schedule["scheduled_ns"] < at_ms * MS, due.schedule["scheduled_ns"] + 1, 0)
    came = [(0, 0, number, (number + 4) * MS) for number in range(at_ms - 4)]
    frame = build_packets([due], {0: sent}, arrivals(came))
    packet_records.write(frame, run / "packets.parquet")
    kept = [each for each in timeline() if each["t_ns"] <= (ORIGIN_MS + at_ms) * MS]
    (run / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in kept))


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("at_ms", [-700, -1, 0, 12])
def test_a_run_that_was_cut_short_is_reported(tmp_path: Path, at_ms: int, alone: bool) -> None:
    folder = small_results(tmp_path / "results")
    cut(folder, at_ms, ORIGIN_MS * MS)
    if alone:
        for path in sorted((folder / POLICIES[1]).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (folder / POLICIES[1]).rmdir()
    summary = write_results(folder)
    (run,) = summary["policies"]["deft"]["runs"]
    assert (run["valid"], run["sent"]) == (False, max(0, at_ms))
    assert "deft, seed 1: the run was cut short" in summary["reasons"]
    assert "the run was cut short" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_run_that_was_killed_before_its_packets_were_put_together_has_them(
    tmp_path: Path,
) -> None:
    folder = small_results(tmp_path / "results")
    cut(folder, 12, ORIGIN_MS * MS)
    run = folder / "deft" / "seed-1"
    (run / "packets.parquet").unlink()
    (run / "raw").mkdir()
    np.save(run / "raw" / "schedule-0.npy", schedule(40).schedule)
    summary = write_results(folder)
    (entry,) = summary["policies"]["deft"]["runs"]
    assert (entry["sent"], entry["unsent"]) == (0, 40)
    assert (run / "packets.parquet").is_file()
