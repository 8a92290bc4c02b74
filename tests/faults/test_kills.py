"""Runs that are killed at random moments leave nothing, and a run beside them goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.kills import Harness, campaign, left_of, line
from testbed.substrate.ownership import (
    RUN_VARIABLE,
    clean,
    marked_bridges,
    marked_interfaces,
    processes_of,
)
from testbed.substrate.switch_class import prompt_process

pytestmark = pytest.mark.emulation

SCENARIO = """
format: 1
name: beside
topology:
  nodes: [{name: west}, {name: east}]
  links: [{a: west, b: east, length_km: 100}]
servers: {default: {cpu_cores: 1.0}}
chains:
  - {name: one, functions: [fw], rate_pps: 20, l3_bytes: 200, delay_bound_s: 0.1}
traffic: {duration_s: DURATION, initial_requests: 1, setup_s: 0.5, pairs: [[west, east]]}
replication: {mode: none}
policies: [greedy-delay]
baseline: greedy-delay
seeds: [1]
"""


def scenario(folder: Path, duration_s: float) -> Path:
    path = folder / f"beside-{duration_s}.yaml"
    path.write_text(SCENARIO.replace("DURATION", str(duration_s)))
    return path


def objects(run_id: str) -> set[str]:
    owned = {**marked_bridges(), **marked_interfaces()}
    names = {name for name, owner in owned.items() if owner == run_id}
    return names | {f"process {pid}" for pid in processes_of(run_id)}


def test_kills_leave_nothing_and_disturb_no_run_beside_them(tmp_path: Path) -> None:
    beside = Harness(scenario(tmp_path, 600.0), tmp_path)  # until it is ended
    try:
        beside.wait_for("run-start")
        before = objects(beside.run_id)
        assert len(before) > 10
        assert prompt_process()
        kills = campaign(scenario(tmp_path, 1.0), 3, seed=int.from_bytes(os.urandom(2), "big"))
        assert [(kill.phase, kill.left, kill.harmed) for kill in kills] == [
            (phase, (), ()) for phase in ("build", "traffic", "tear-down")
        ]
        assert len({kill.run_id for kill in kills} | {beside.run_id}) == 4
        assert all(kill.removed for kill in kills)
        assert objects(beside.run_id) == before
        assert prompt_process()  # the switch serves the run that goes on
        assert "run-end" not in beside.times_ns()
    finally:
        beside.kill()
        clean(beside.run_id)
    assert list(left_of(beside.run_id, beside.witness)) == []
    result = line(tmp_path, 1, kills)
    assert (result["runs"], result["figures"]["runs_that_left_something"]) == (3, 0)


def test_what_is_left_is_found(tmp_path: Path) -> None:
    """The proof proves something: a run that was killed and not cleaned up is seen."""
    killed = Harness(scenario(tmp_path, 5.0), tmp_path)
    try:
        killed.wait_for("run-start")
        killed.kill()
        found = " ".join(left_of(killed.run_id, killed.witness))
        assert all(what in found for what in ("bridge", "interface", "folder", "class"))
    finally:
        killed.kill()
        clean(killed.run_id)
    assert RUN_VARIABLE not in os.environ
