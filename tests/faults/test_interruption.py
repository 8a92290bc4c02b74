"""A run that is ended at any moment leaves its measurements and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.results import packets
from testbed.substrate.ownership import clean_stale, known_runs

pytestmark = pytest.mark.emulation

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "scenarios" / "smoke.yaml"


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from testbed.cli import main; main()", "run", str(SMOKE)]
    return subprocess.Popen(
        [*command, "--results", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(done: Callable[[], bool], what: str, bound_s: float = 60.0) -> None:
    deadline = time.monotonic() + bound_s
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "deft/seed-1/manifest.json").read_text())
    return found


def has_event(folder: Path, name: str) -> bool:
    path = folder / "deft/seed-1/events.jsonl"
    return path.exists() and f'"event":"{name}"' in path.read_text()


@pytest.mark.parametrize("moment", ["network-build-begin", "first-arrival"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_cleans_up_and_keeps_what_it_has(
    tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    folder = tmp_path / "results"
    run = start(folder)
    try:
        wait_for(lambda: has_event(folder, moment), f"no {moment}")
        run.send_signal(number)
        _, errors = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 130, errors
    found = manifest(folder)
    assert found["run_id"] not in known_runs()
    assert (found["complete"], found["valid"]) == (False, False)
    assert "the run was cut short" in found["reasons"]
    if moment == "first-arrival":
        frame = packets.read(folder / "deft/seed-1/packets.parquet")
        assert frame["received_ns"].notna().any()
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["valid"] is False
        assert (folder / "report.html").exists()


def test_after_a_sigkill_clean_removes_what_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    run = start(folder)
    wait_for(lambda: has_event(folder, "first-arrival"), "no packet arrived")
    run.kill()
    run.communicate(timeout=10)
    run_id = manifest(folder)["run_id"]
    assert run_id in known_runs()
    removed = clean_stale()
    assert any(run_id in line for line in removed)
    assert run_id not in known_runs()


def test_the_death_of_the_controller_ends_no_traffic(tmp_path: Path) -> None:
    """Rules stay in the switches: packets flow on until the run needs the controller again."""
    folder = tmp_path / "results"
    run = start(folder)
    try:
        wait_for(lambda: has_event(folder, "first-arrival"), "no packet arrived")
        events = (folder / "deft/seed-1/events.jsonl").read_text().splitlines()
        started = [json.loads(line) for line in events if "controller-started" in line]
        os.kill(started[0]["pid"], signal.SIGKILL)
        killed_ns = time.monotonic_ns()
        _, errors = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 1, errors
    assert "deft, seed 1" in errors
    assert manifest(folder)["run_id"] not in known_runs()
    frame = packets.read(folder / "deft/seed-1/packets.parquet")
    last_ns = int(frame["received_ns"].max()) + manifest(folder)["origin_ns"]
    assert last_ns > killed_ns + 1_000_000_000
