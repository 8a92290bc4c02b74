"""What runs keep on this host is their owner's alone, from the first moment on."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.fabric import Fabric
from controller.northbound import Northbound
from testbed.orchestration.messages.control_client import ControlClient
from testbed.orchestration.messages.datagrams import bound_socket
from testbed.records.events import EventLog
from testbed.records.sockets import bind_private
from testbed.substrate import buffers, ownership, switch_class
from testbed.substrate.ownership import RunRecord, is_alive, live_runs
from testbed.substrate.runtime_folder import STATE, locked, make_folder
from testbed.vnf.process.control_socket import ControlSocket
from traffic.event_loop import Loop


@pytest.fixture(autouse=True)
def generous_umask() -> Iterator[None]:
    """A umask under which whatever is not made private is everybody's."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_socket_is_private_when_it_is_bound(tmp_path: Path) -> None:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as endpoint:
            bind_private(endpoint, str(tmp_path / f"{kind}.sock"))
        assert mode(tmp_path / f"{kind}.sock") == 0o600


def test_no_socket_of_a_run_waits_for_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_arguments: object) -> None:
        raise AssertionError("between bind and chmod everybody may connect")

    monkeypatch.setattr(os, "chmod", too_late)
    names = [str(tmp_path / f"{number}.sock") for number in range(5)]
    events = EventLog(tmp_path / "events.jsonl")
    opened: list[Any] = [
        Northbound(names[0], Fabric(events)),
        ControlClient(Path(names[1])),
        ControlSocket(names[2], {}),
        Loop(names[3], {}),
        bound_socket(names[4]),
    ]
    assert [mode(Path(name)) for name in names] == [0o600] * len(names)
    for each in (*opened, events):
        each.close()


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of a run that lives, as this process does."""
    monkeypatch.setattr(ownership, "_STATE", tmp_path / "state")
    RunRecord("a1b2c3", tmp_path / "results").touch()
    return tmp_path / "state" / "a1b2c3" / "run.json"


def test_the_folder_of_a_run_is_private(record: Path) -> None:
    assert mode(record.parent) == 0o700
    record.parent.chmod(0o755)
    RunRecord("a1b2c3", record.parent).touch()
    assert mode(record.parent) == 0o700


def test_a_run_that_ends_while_it_is_looked_at_is_either_there_or_not(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_text

    def then_gone(path: Path, *arguments: Any, **options: Any) -> str:
        text = read(path, *arguments, **options)
        path.unlink()
        return text

    monkeypatch.setattr(Path, "read_text", then_gone)
    assert live_runs() == {"a1b2c3": record.parents[2] / "results"}
    assert live_runs() == {}


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"pid": 1}', '{"pid": "x"}'])
def test_a_record_that_is_none_is_of_no_living_run(record: Path, text: str) -> None:
    record.write_text(text)
    assert not is_alive("a1b2c3") and live_runs() == {}


def test_a_record_of_a_process_that_has_ended_is_of_no_living_run(record: Path) -> None:
    found = json.loads(record.read_text())
    record.write_text(json.dumps({**found, "pid": 2**22 + 1, "start_ticks": None}))
    assert not is_alive("a1b2c3")


def test_locks_lie_where_nobody_else_can_write() -> None:
    assert {switch_class.LOCK.parent, buffers.LOCK.parent} == {STATE}


def test_a_lock_is_private_and_no_link_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with locked(folder / "lock") as held:
        held.write("kept")
    assert (mode(folder), mode(folder / "lock")) == (0o700, 0o600)
    (folder / "link").symlink_to(tmp_path / "stranger")
    with pytest.raises(OSError, match="link"), locked(folder / "link"):
        pass
    assert not (tmp_path / "stranger").exists()


def test_a_folder_that_is_there_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o777)
    make_folder(tmp_path / "a")
    assert mode(tmp_path / "a") == 0o700
