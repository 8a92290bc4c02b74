"""A core that stands still is noted: here the thread that watches it is stopped in its place."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from testbed.orchestration.detection.stalls import NOTED_NS
from testbed.records.events import read_events
from tests.support.places import ROOT

WATCH = """
import json, sys
from testbed.orchestration.detection.stalls import main
main(json.loads(sys.argv[1]))
"""
STOPPED_S = 0.3


def noted(path: Path) -> list[int]:
    """How long each stall took, in ns."""
    events = read_events(path) if path.exists() else ()
    return [event["stalled_ns"] for event in events if event["event"] == "core-stalled"]


def test_a_stall_is_noted_with_its_length(tmp_path: Path) -> None:
    events, core = tmp_path / "events.jsonl", min(os.sched_getaffinity(0))
    config = f'{{"cores": [{core}], "events": "{events}"}}'
    words = [sys.executable, "-c", WATCH, config]
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            deadline = time.monotonic() + 30
            while not events.exists():
                assert time.monotonic() < deadline, "the watch does not begin"
                time.sleep(0.01)
            while not any(ns > 0.9 * STOPPED_S * 1e9 for ns in noted(events)):
                assert time.monotonic() < deadline, "the stall is not noted"
                process.send_signal(signal.SIGSTOP)
                time.sleep(STOPPED_S)  # this is the stall
                process.send_signal(signal.SIGCONT)
                time.sleep(0.05)
        finally:
            process.kill()
    assert all(ns >= NOTED_NS for ns in noted(events))


def test_each_core_is_watched_by_a_thread_of_its_own(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    events = tmp_path / "events.jsonl"
    config = f'{{"cores": {cores}, "events": "{events}"}}'
    words = [sys.executable, "-c", WATCH, config]
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            deadline = time.monotonic() + 30
            while sorted(pinned(process.pid)) != [{core} for core in cores]:
                if len(cores) == 1:
                    pytest.skip("one core: every thread is on it")
                assert time.monotonic() < deadline, pinned(process.pid)
                time.sleep(0.01)
        finally:
            process.kill()


def pinned(pid: int) -> list[set[int]]:
    """The cores of each thread that is on one alone."""
    found = []
    for thread in psutil.Process(pid).threads():
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            found.append(set(os.sched_getaffinity(thread.id)))
    return sorted((each for each in found if len(each) == 1), key=min)
