"""`deftbed validate` from end to end on the smallest scenario, with a calibration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from testbed.twin.calibration import Calibration, Estimate
from tests.support.command import answer
from tests.support.places import SMOKE

pytestmark = pytest.mark.emulation

CALIBRATION = Calibration(
    {
        "edge_ns": Estimate(400_000.0, 0.0, 1),
        "switch_ns": Estimate(200_000.0, 0.0, 1),
        "commit_pipelined_ns": Estimate(100_000.0, 0.0, 1),
    },
    {},
    {"date": "2026-01-01"},
)


def smaller(path: Path) -> Path:
    """The smoke scenario without its fault and its load step, in half the time."""
    scenario = yaml.safe_load(SMOKE.read_text(encoding="utf-8"))
    scenario["faults"], scenario["traffic"]["load_steps"] = [], []
    scenario["traffic"]["duration_s"] = 3.0
    path.write_text(yaml.safe_dump(scenario), encoding="utf-8")
    return path


def test_a_scenario_is_run_in_both_worlds_and_again_without_running(tmp_path: Path) -> None:
    scenario, file = smaller(tmp_path / "small.yaml"), tmp_path / "calibration.json"
    file.write_text(json.dumps(CALIBRATION.to_json()), encoding="utf-8")
    folder = tmp_path / "validation"
    found = answer(
        "validate", str(scenario), "--policies", "greedy-delay", "--seeds", "1",
        "--calibration", str(file), "--results", str(folder),
    )  # fmt: skip
    (row,) = found["rows"]
    assert (row["scenario"], row["policy"], row["seeds"]) == ("smoke", "greedy-delay", [1])
    # Nothing is lost in either world, and both count the packets of the same two seconds.
    assert row["dropped"]["error"] == pytest.approx(0.0, abs=1e-9)
    assert row["delivered_pps"]["twin"][0] == pytest.approx(100.0)
    assert row["delivered_pps"]["emulation"][0] == pytest.approx(100.0, abs=20.0)
    # Both took the path at least: 2.5 ms from west to east.
    for world in ("emulation", "twin"):
        assert row["latency_p50_ns"][world][0] > 2_500_000
    assert found["ranks"]["smoke"]["latency_p50_ns"] is None  # of one policy there is none
    assert found["calibration"]["date"] == "2026-01-01"
    assert json.loads((folder / "validation.json").read_text()) == {
        key: value for key, value in found.items() if key != "validation"
    }
    assert "<svg" in (folder / "validation.html").read_text(encoding="utf-8")

    again = answer("validate", "--from", str(folder / "00-smoke"), "--calibration", str(file))
    assert again["rows"] == found["rows"]
