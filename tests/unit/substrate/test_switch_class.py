"""The switch's scheduling class: given for a run, taken back, and nobody else's touched."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.substrate.switch_class import PRIORITY, PROCESS, make_prompt, prompt_process, restore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask for the class")


@pytest.fixture
def process(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """A process of the switch's name, or of the name that is asked for."""
    program = tmp_path / getattr(request, "param", PROCESS)
    shutil.copy(shutil.which("cat") or "cat", program)
    pipe = subprocess.PIPE
    with subprocess.Popen([program], stdin=pipe, stdout=pipe, bufsize=0) as running:
        assert running.stdin is not None and running.stdout is not None
        running.stdin.write(b"!")
        assert running.stdout.read(1) == b"!"  # it has its name by now
        (tmp_path / "pid").write_text(f"{running.pid}\n")
        yield running.pid
        running.kill()


def prompt(folder: Path) -> str:
    """What `make_prompt` says of the process in the folder's file."""
    return make_prompt(folder / "pid", folder / "lock")


def give_back(folder: Path, used: bool = False) -> int:
    """What `restore` did to it."""
    return restore(lambda: used, folder / "pid", folder / "lock")


def test_the_class_is_given_and_taken_back(process: int, tmp_path: Path) -> None:
    assert prompt(tmp_path) == f"SCHED_FIFO {PRIORITY}"
    assert prompt_process(tmp_path / "pid") == process
    assert give_back(tmp_path, used=True) == 0
    assert prompt_process(tmp_path / "pid") == process
    assert give_back(tmp_path) == process
    assert os.sched_getscheduler(process) == os.SCHED_OTHER
    assert prompt_process(tmp_path / "pid") == 0
    assert give_back(tmp_path) == 0


def test_threads_that_it_starts_do_not_have_the_class(process: int, tmp_path: Path) -> None:
    prompt(tmp_path)
    assert os.sched_getscheduler(process) & os.SCHED_RESET_ON_FORK


def test_an_owners_own_class_stays(process: int, tmp_path: Path) -> None:
    os.sched_setscheduler(process, os.SCHED_RR, os.sched_param(3))
    assert prompt(tmp_path) == "SCHED_RR 3"
    assert give_back(tmp_path) == 0
    assert os.sched_getscheduler(process) == os.SCHED_RR
    os.sched_setscheduler(process, os.SCHED_FIFO, os.sched_param(PRIORITY))
    assert give_back(tmp_path) == 0


@pytest.mark.parametrize("process", ["another"], indirect=True)
def test_a_number_that_another_process_has_by_now(process: int, tmp_path: Path) -> None:
    assert prompt(tmp_path) == "unknown"
    assert os.sched_getscheduler(process) == os.SCHED_OTHER


def test_no_switch(tmp_path: Path) -> None:
    assert prompt(tmp_path) == "unknown"
    assert give_back(tmp_path) == 0


def test_a_class_that_the_host_does_not_grant(
    process: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert prompt(tmp_path) == "SCHED_OTHER 0"
