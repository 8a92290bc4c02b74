"""Which run under way an order is for, and how the answer is told."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from testbed.lab.live_orders import describe, find_run, give_order
from testbed.scenario.errors import InputError, RunError
from testbed.substrate import ownership
from testbed.substrate.processes import start_ticks
from testbed.vnf.process.control_socket import ControlSocket

RESULTS = ("a/deft/seed-1", "a/deft/seed-2", "b/deft/seed-1")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of two runs that live, as this process does, and of one that died."""
    monkeypatch.setattr(ownership, "_STATE", tmp_path / "state")
    for number, results in enumerate(RESULTS):
        folder = tmp_path / "state" / f"a1b2c{number}"
        folder.mkdir(parents=True)
        ticks = start_ticks(os.getpid()) if number else -1
        record = {"pid": os.getpid(), "start_ticks": ticks, "results": str(tmp_path / results)}
        (folder / "run.json").write_text(json.dumps(record))
    return tmp_path


def test_a_run_is_found_by_its_id_its_folder_and_one_above_it(state: Path) -> None:
    assert find_run("a1b2c1") == "a1b2c1"
    assert find_run(str(state / "b" / "deft" / "seed-1")) == "a1b2c2"
    assert find_run(str(state / "b")) == "a1b2c2"
    (state / "latest").symlink_to(state / "b")
    assert find_run(str(state / "latest")) == "a1b2c2"
    # The other run of that folder has died.
    assert find_run(str(state / "a")) == "a1b2c1"


@pytest.mark.parametrize("asked", ["a1b2c0", "nowhere", None, "."])
def test_what_is_no_single_run_under_way_is_refused(
    state: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    monkeypatch.chdir(state)
    with pytest.raises(InputError, match=r"a1b2c1.*a1b2c2") as caught:
        find_run(asked)
    assert (caught.value.field, caught.value.value) == ("RUN", asked)


def test_the_only_run_need_not_be_named(state: Path) -> None:
    (state / "state" / "a1b2c2" / "run.json").unlink()
    assert find_run(None) == "a1b2c1"
    (state / "state" / "a1b2c1" / "run.json").unlink()
    with pytest.raises(InputError, match="none is under way"):
        find_run(None)


def test_a_run_that_is_being_built_takes_no_orders(state: Path) -> None:
    with pytest.raises(InputError, match="deployed or are in place"):
        give_order("a1b2c1", "scale", {})


def test_a_run_that_ends_before_it_answers_is_told(state: Path) -> None:
    path = state / "state" / "a1b2c1" / "run.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as run:
        run.bind(str(path))
    with pytest.raises(RunError, match="a1b2c1"):
        give_order("a1b2c1", "scale", {})

    ends = ControlSocket(str(path), {})

    def end() -> None:
        select.select([ends], (), ())
        ends.close()

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(RunError, match="ended before it had answered to scale"):
        give_order("a1b2c1", "scale", {})
    thread.join()


def test_a_refusal_is_told_as_the_run_says_it(state: Path) -> None:
    def refuse(order: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(f"instances = {order['instances']}: expected less")

    run = ControlSocket(str(state / "state" / "a1b2c1" / "run.sock"), {"scale": refuse})

    def serve() -> None:
        select.select([run], (), ())
        run.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(RunError) as caught:
        give_order("a1b2c1", "scale", {"instances": 9})
    thread.join()
    run.close()
    assert str(caught.value) == "scale: instances = 9: expected less"


def test_the_report_in_words() -> None:
    move = {"group": "r1-h0-s2", "from": "west", "to": "east", "held_ns": 12_340_000}
    report = {
        "request": 1,
        "function": 0,
        "instances": 2,
        "moves": [{**move, "duration_ns": 250_000_000}],
        "failed": [{"shard": 3, "error": "no"}],
        "duration_ns": 1_000_000_000,
    }
    assert list(describe(report)) == [
        "r1-h0-s2: west to east, inputs held for 12.3 ms, 0.25 s in all",
        "shard 3 stays where it is: no",
        "request 1, function 0: at 2 servers now, after 1.00 s",
    ]
