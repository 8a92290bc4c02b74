"""Run ids and records."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.substrate.ownership import state_folder


@pytest.mark.parametrize("run_id", ["", "..", "abcdeg", "abcdef1", "a/../b"])
def test_a_bad_run_id_never_becomes_a_path(run_id: str) -> None:
    with pytest.raises(ValueError, match="run id"):
        state_folder(run_id)


def test_the_state_folder_is_the_runs_own() -> None:
    assert state_folder("a1b2c3") == Path("/run/deftbed/a1b2c3")
