"""Run ids and records."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from testbed.substrate.ownership import start_ticks, state_folder


@pytest.mark.parametrize("run_id", ["", "..", "abcdeg", "abcdef1", "a/../b"])
def test_a_bad_run_id_never_becomes_a_path(run_id: str) -> None:
    with pytest.raises(ValueError, match="run id"):
        state_folder(run_id)


def test_the_state_folder_is_the_runs_own() -> None:
    assert state_folder("a1b2c3") == Path("/run/deftbed/a1b2c3")


def test_a_start_time_stays_and_ends_with_the_process() -> None:
    assert start_ticks(os.getpid()) == start_ticks(os.getpid()) is not None
    child = subprocess.Popen(["sleep", "60"])
    assert start_ticks(child.pid) is not None
    child.kill()
    child.wait()
    assert start_ticks(child.pid) is None
