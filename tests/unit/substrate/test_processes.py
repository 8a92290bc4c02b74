"""A process may end while it is looked at, and then it has ended: no error, no stranger's data."""

from __future__ import annotations

import builtins
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from testbed.substrate.processes import (
    command_of,
    cpu_ns,
    lives,
    name_of,
    own_line,
    start_ticks,
    variable_of,
    with_variable,
)
from testbed.substrate.switch_class import prompt_process

MARK = "DEFTBED_PROCESSES_TEST"


@contextmanager
def another(**variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has its name, its arguments and its variables by now."""
    pipe, variables = subprocess.PIPE, {**os.environ, **variables}
    with subprocess.Popen(["cat", "-"], stdin=pipe, stdout=pipe, bufsize=0, env=variables) as cat:
        assert cat.stdin is not None and cat.stdout is not None
        cat.stdin.write(b"!")
        assert cat.stdout.read(1) == b"!"
        yield cat
        cat.kill()


@contextmanager
def ends_when_opened(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """The process ends between the open of a file of its own in /proc and the read; which files."""
    opened: list[str] = []
    real = builtins.open

    def meddling(file: Any, *arguments: Any, **options: Any) -> Any:
        found = real(file, *arguments, **options)
        if str(file).startswith(f"/proc/{process.pid}/"):
            opened.append(str(file))
            process.kill()
            process.wait()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", meddling)
        patch.setattr(io, "open", meddling)
        yield opened


@pytest.mark.parametrize(
    ("look", "ended"),
    [
        (start_ticks, None),
        (lives, False),
        (name_of, None),
        (command_of, []),
        (lambda pid: variable_of(pid, MARK), None),
        (lambda pid: with_variable(MARK).get(pid), None),
    ],
)
def test_a_process_that_ends_between_open_and_read_has_ended(
    look: Callable[[int], object], ended: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another(**{MARK: "1"}) as process, ends_when_opened(process, monkeypatch) as opened:
        assert look(process.pid) == ended
        assert opened
        assert look(process.pid) == ended


def test_time_of_a_process_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        another() as process,
        ends_when_opened(process, monkeypatch),
        pytest.raises(ProcessLookupError, match=f"process {process.pid} has ended"),
    ):
        cpu_ns(process.pid)


def test_a_switch_that_ends_meanwhile_is_no_switch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another() as process, ends_when_opened(process, monkeypatch) as opened:
        (tmp_path / "pid").write_text(str(process.pid))
        assert prompt_process(tmp_path / "pid") == 0
        assert opened


def test_a_start_time_stays_and_ends_with_the_process() -> None:
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert start_ticks(os.getpid()) == int(fields[19])
    with another() as process:
        assert start_ticks(process.pid) is not None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not lives(process.pid), "a zombie has ended"
        process.wait()
        assert start_ticks(process.pid) is None


def test_a_start_time_does_not_move_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil tells times from the epoch, with the boot's time as the clock has it at the moment."""
    ticks = start_ticks(os.getpid())
    boots = iter([100.0, 4000.0, 4000.0, 4000.0])
    monkeypatch.setattr(psutil, "boot_time", lambda: next(boots))
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 4000.0)
    assert start_ticks(os.getpid()) == ticks


def test_what_a_living_process_tells() -> None:
    with another(**{MARK: "a=b"}) as process:
        assert name_of(process.pid) == "cat" and command_of(process.pid) == ["cat", "-"]
        assert variable_of(process.pid, MARK) == "a=b" == with_variable(MARK)[process.pid]
        assert variable_of(process.pid, "DEFTBED_NO_SUCH") is None
        assert lives(process.pid)


def test_the_own_line() -> None:
    assert {os.getpid(), os.getppid()} <= own_line()
