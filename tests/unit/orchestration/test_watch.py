"""What ends the watch of the servers is raised by whoever needs it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from testbed.orchestration.detection.watch import PERIOD_S, ServerWatch
from testbed.records.events import EventLog
from testbed.vnf.dataplane.cpu import ServerCpu

BOUND_S = 20 * PERIOD_S


def gone(node: int) -> int:
    raise FileNotFoundError(f"cgroup of node {node}")


def watch_of(folder: Path) -> ServerWatch:
    folder.mkdir()
    clock = ServerCpu.create(folder / "cpu-3", 1.0, 1_000_000)
    return ServerWatch({3: clock}, gone, lambda _: [], EventLog(folder / "events.jsonl"))


def until_it_fails(watch: ServerWatch) -> None:
    deadline = time.monotonic() + BOUND_S
    while time.monotonic() < deadline:
        watch.check()
        time.sleep(0.01)


def test_a_watch_that_ended_is_heard_while_the_run_goes_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="node 3"), watch_of(tmp_path / "a") as watch:
        until_it_fails(watch)


def test_it_is_heard_at_the_end_too(tmp_path: Path) -> None:
    watch, heard = watch_of(tmp_path / "a"), pytest.raises(FileNotFoundError, match="node 3")
    with heard, watch, contextlib.suppress(FileNotFoundError):
        until_it_fails(watch)


def test_it_does_not_replace_the_runs_own_error(tmp_path: Path) -> None:
    watch = watch_of(tmp_path / "a")
    with pytest.raises(ValueError, match="the run's"), watch:
        with contextlib.suppress(FileNotFoundError):
            until_it_fails(watch)
        raise ValueError("the run's")
