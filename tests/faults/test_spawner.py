"""The warm parent starts processes, tells of their end and leaves none behind."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from testbed.orchestration.deploying.spawner import Spawner, SpawnError
from testbed.substrate.ownership import RunRecord, state_folder
from testbed.substrate.processes import lives, variable_of

RUN_ID = secrets.token_hex(3)


@pytest.fixture(autouse=True)
def recorded(tmp_path: Path) -> Iterator[None]:
    """As a run has it: a clean-up by somebody else would end processes without a record."""
    if os.geteuid() != 0:
        yield
        return
    with RunRecord(RUN_ID, tmp_path):
        yield
    shutil.rmtree(state_folder(RUN_ID))


def wait_for(done: Callable[[], bool], what: str, bound_s: float = 10.0) -> None:
    deadline = time.monotonic() + bound_s
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def sleeper(config: dict[str, Any]) -> None:
    """A process of a run: writes its number, then waits for a signal."""
    if config.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(config["file"]).write_text(str(os.getpid()))
    while True:
        signal.pause()


def start(spawner: Spawner, name: str, folder: Path, **config: Any) -> int:
    file = folder / name
    pid = spawner.start(name, f"{__name__}:sleeper", {"file": str(file), **config})
    wait_for(file.exists, f"{name} did not run")
    return pid


def test_a_process_starts_with_the_mark_of_its_run_and_ends(tmp_path: Path) -> None:
    with Spawner(RUN_ID, tmp_path / "log") as spawner:
        pid = start(spawner, "one", tmp_path)
        assert variable_of(pid, "DEFTBED_RUN") == RUN_ID
        assert spawner.pid("one") == pid
        spawner.end(["one"])
        wait_for(lambda: spawner.pid("one") is None, "the end was not reported")
        assert spawner.exits() == {"one": -signal.SIGTERM}


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    with Spawner(RUN_ID, tmp_path / "log") as spawner:
        pid = start(spawner, "deaf", tmp_path, deaf=True)
        spawner.end(["deaf"], timeout_s=0.2)
        wait_for(lambda: not lives(pid), "it lives")


def test_a_failing_process_leaves_its_reason_in_its_log(tmp_path: Path) -> None:
    with Spawner(RUN_ID, tmp_path / "log") as spawner:
        spawner.start("bad", "testbed.nowhere:main", {})
        wait_for(lambda: spawner.exits().get("bad") == 1, "the end was not reported")
    assert "testbed.nowhere" in (tmp_path / "log" / "bad.log").read_text()


def fails(_config: dict[str, Any]) -> None:
    """A process that has something to do, and cannot."""
    raise ValueError("no")


def done(_config: dict[str, Any]) -> None:
    """A process that has something to do, and does it."""


def test_who_died_without_being_asked_to_is_told(tmp_path: Path) -> None:
    with Spawner(RUN_ID, tmp_path / "log") as spawner:
        for name in ("ended", "killed", "struck"):
            start(spawner, name, tmp_path)
        spawner.start("done", f"{__name__}:done", {}, ends=True)
        spawner.start("gone", f"{__name__}:done", {})
        spawner.start("failed", f"{__name__}:fails", {}, ends=True)
        spawner.end(["ended"])
        spawner.kill(["killed"])
        os.kill(spawner.pid("struck") or 0, signal.SIGKILL)
        wait_for(lambda: len(spawner.exits()) == 6, "the ends were not reported")
        assert spawner.died() == {"failed": 1, "gone": 0, "struck": -signal.SIGKILL}
        # The name is another process's then, and what the former one met is over.
        (tmp_path / "struck").unlink()
        start(spawner, "struck", tmp_path)
        assert "struck" not in spawner.died()
        spawner.kill(["struck"])
        (tmp_path / "struck").unlink()
        start(spawner, "struck", tmp_path)
        assert "struck" not in spawner.died()


def test_the_end_of_the_warm_parent_is_heard(tmp_path: Path) -> None:
    with Spawner(RUN_ID, tmp_path / "log") as spawner:
        start(spawner, "one", tmp_path)
        spawner.check()
        (parent,) = (
            p.pid for p in psutil.Process().children() if "zygote" in " ".join(p.cmdline())
        )
        os.kill(parent, signal.SIGKILL)
        with pytest.raises(SpawnError, match="warm parent has ended"):
            wait_for(lambda: bool(spawner.check()), "nobody heard it")  # type: ignore[func-returns-value]
        with pytest.raises(SpawnError):
            spawner.start("two", f"{__name__}:done", {})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_death_of_the_harness_ends_its_processes(tmp_path: Path, number: int) -> None:
    code = f"""
import signal, sys
from pathlib import Path
from testbed.orchestration.deploying.spawner import Spawner, SpawnError
spawner = Spawner({RUN_ID!r}, Path({str(tmp_path)!r}) / "log")
spawner.start("child", {__name__!r} + ":sleeper", {{"file": {str(tmp_path / "child")!r}}})
signal.pause()
"""
    harness = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    try:
        file = tmp_path / "child"
        wait_for(lambda: file.exists() and file.read_text() != "", "the child did not run", 60)
        pid = int(file.read_text())
        harness.send_signal(number)
        harness.wait(timeout=10)
        wait_for(lambda: not lives(pid), "the child outlived its harness")
    finally:
        harness.kill()
        harness.wait()
