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

from testbed.records import packets
from testbed.substrate.ownership import clean_stale, known_runs, processes_of
from tests.support.places import ROOT

pytestmark = pytest.mark.emulation

SMOKE = ROOT / "scenarios" / "smoke.yaml"


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from testbed.cli.main import main; main()", "run", str(SMOKE)]
    return subprocess.Popen(
        [*command, "--results", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(done: Callable[[], bool], what: str, bound_s: float = 180.0) -> None:
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


PHASES = {
    "building": "network-build-begin",
    "measuring": "network-built",
    "getting ready": "chain-ready",
    "before the origin": "run-start",
    "traffic": "first-arrival",
    "taking it down": "run-end",
    "collecting": "network-removed",
}
"""By the event after which a run is in it; "run-start" is written half a second before its time."""


CASES = [
    *((phase, signal.SIGINT) for phase in PHASES),
    ("building", signal.SIGTERM),
    ("before the origin", signal.SIGTERM),
    ("traffic", signal.SIGTERM),
]


@pytest.mark.parametrize(("phase", "number"), CASES)
def test_an_interrupted_run_cleans_up_and_keeps_what_it_has(
    tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    folder = tmp_path / "results"
    run = start(folder)
    try:
        wait_for(lambda: has_event(folder, PHASES[phase]), f"no {PHASES[phase]}")
        run.send_signal(number)
        _, errors = run.communicate(timeout=120)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 130, errors
    assert "Traceback" not in errors and "interrupted; what was measured is kept" in errors
    found = manifest(folder)
    assert found["run_id"] not in known_runs() and processes_of(found["run_id"]) == []
    if phase != "collecting":  # all was measured then
        assert (found["complete"], found["valid"]) == (False, False)
        assert "the run was cut short" in found["reasons"]
    summary = reported(folder)
    assert summary["valid"] is False
    (entry,) = summary["policies"]["deft"]["runs"]
    assert (entry["received"] > 0) == (phase in ("traffic", "taking it down", "collecting"))


def reported(folder: Path) -> dict[str, Any]:
    """What `deftbed report` says of a folder, which it has to read."""
    command = [
        sys.executable,
        "-c",
        "from testbed.cli.main import main; main()",
        "report",
        "--json",
    ]
    done = subprocess.run(
        [*command, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").is_file()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_full_disk_ends_a_run_in_order_and_it_says_so(tmp_path: Path) -> None:
    """The results lie on a file system of their own, which has room for the beginning alone."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "none", str(disk)], check=True)
    try:
        folder = disk / "results"
        run = start(folder)
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 1, errors
        assert "No space left on device" in errors
        assert "Traceback" not in errors
        assert manifest(folder)["run_id"] not in known_runs()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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
        _, errors = run.communicate(timeout=120)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 1, errors
    assert "deft, seed 1" in errors
    assert manifest(folder)["run_id"] not in known_runs()
    frame = packets.read(folder / "deft/seed-1/packets.parquet")
    last_ns = int(frame["received_ns"].max()) + manifest(folder)["origin_ns"]
    assert last_ns > killed_ns + 1_000_000_000
