"""The timeline: a line is there as a whole or its writer hears of it; a torn one is named."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.records.events import EventLog, read_events
from testbed.records.raw import RawFormatError

SHORT = """
import resource, signal, sys
from testbed.records.events import EventLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = EventLog(sys.argv[1])
log.write("first")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    log.write("second", text="x" * 100)
except OSError as error:
    print(error)
    sys.exit(7)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("run-start", t_ns=2)
    log.write("fault", t_ns=1, node=3)
    log.close()
    return tmp_path / "events.jsonl"


def test_events_come_in_the_order_of_time(path: Path) -> None:
    assert [event["event"] for event in read_events(path)] == ["fault", "run-start"]


def test_a_line_that_is_written_in_part_is_an_error(tmp_path: Path) -> None:
    """As on a disk that is full after its first bytes: here the file may not grow beyond them."""
    path = tmp_path / "events.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", SHORT, str(path), "70"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert os.strerror(errno.ENOSPC) in done.stdout and str(path) in done.stdout
    assert path.stat().st_size == 70
    assert [event["event"] for event in read_events(path)] == ["first"]  # its rest is left out


@pytest.mark.parametrize("cut", range(1, 25))
def test_only_a_last_line_that_was_cut_is_left_out(path: Path, cut: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    assert [event["event"] for event in read_events(path)][-1] == "run-start"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{}", "t_ns and event"),
        (b"null", "t_ns and event"),
        (b"[]", "t_ns and event"),
        (b'{"event":"fault","node":1}', "t_ns"),
        (b'{"t_ns":true,"event":"x"}', "t_ns"),
        (b'{"t_ns":1e3,"event":"x"}', "t_ns"),
        (b'{"t_ns":1,"event":"fault","node":"a"}', "node"),
        (b'{"t_ns":1,"event":"decision","request":0,"accepted":1}', "accepted"),
        (b'{"t_ns":1,"event":"moved","instance":null,"node":1}', "instance"),
        (b'{"t_ns":1,"event":"load-step","factor":NaN}', "factor"),
        (b'{"t_ns":1,"ev', "JSON"),
        (b"\xff\xfe{}", "JSON"),
        (b"", "JSON"),
    ],
)
def test_any_other_line_that_is_no_event_is_named(path: Path, line: bytes, what: str) -> None:
    first, *rest = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, line, *rest]))
    with pytest.raises(RawFormatError, match="line 2") as caught:
        list(read_events(path))
    assert what in str(caught.value)


def test_a_log_in_another_encoding_is_named(path: Path) -> None:
    path.write_bytes(json.dumps({"t_ns": 1, "event": "x"}).encode("utf-16") + b"\n")
    with pytest.raises(RawFormatError, match="line 1"):
        list(read_events(path))
