"""A failed emulation test leaves its files in a folder named after it, and it is said where."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.kept import VARIABLE
from tests.support.places import ROOT

TESTS = """
import pytest

pytestmark = pytest.mark.emulation

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "events.jsonl").write_text("{}")
    yield folder
    (folder / "events.jsonl").unlink()

def test_good(run, tmp_path):
    (tmp_path / "other.log").write_text("of another test")

@pytest.mark.parametrize("number", [1])
def test_bad(run, tmp_path, number):
    (tmp_path / "sender.log").write_text("late")
    assert number == 2
"""


def test_files_of_a_failed_test_are_kept_under_its_name_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = emulation: x\n")
    kept = tmp_path / "kept"
    command = [
        sys.executable, "-m", "pytest", "-p", "tests.support.kept", "-o", "cache_dir=cache",
        "--basetemp", str(tmp_path / "temp"), "test_two.py",
    ]  # fmt: skip
    environment = {**os.environ, VARIABLE: str(kept), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    (folder,) = kept.iterdir()
    assert folder.name == "test_two.py-test_bad-1"
    assert f"logs and captures of a failed test: {folder}" in done.stdout
    files = {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert files == {"events.jsonl": "{}", "sender.log": "late"}
