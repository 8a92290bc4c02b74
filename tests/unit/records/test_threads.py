"""What a thread raises is heard by whoever waits for it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import pytest

from testbed.records.threads import Timetable, Worker, run_together
from testbed.scenario.errors import RunError

BOUND_S = 10.0


@dataclass(frozen=True)
class Item:
    at_ns: int
    name: str


def broken() -> None:
    raise KeyError("lost")


def test_a_worker_keeps_its_error_and_waiting_for_it_raises_nothing() -> None:
    worker = Worker("broken", broken)
    worker.check()
    worker.wait()  # it has not begun
    worker.start()
    worker.wait(BOUND_S)
    for _ in range(2):
        with pytest.raises(KeyError, match="lost"):
            worker.check()
    with pytest.raises(KeyError, match="lost"):
        worker.join()


def test_a_worker_that_ends_well_is_heard_too() -> None:
    done: list[Worker] = []
    worker = Worker("well", lambda: None, done.append).start()
    worker.join()
    assert done == [worker]


def test_what_runs_together_ends_with_the_first_error_though_others_go_on() -> None:
    never = threading.Event()

    def waits() -> None:
        never.wait()

    with pytest.raises(KeyError, match="lost"):
        run_together({"waits": waits, "broken": broken})
    never.set()


def test_all_that_runs_together_is_waited_for() -> None:
    done: list[str] = []
    run_together({name: lambda name=name: done.append(name) for name in ("a", "b")})  # type: ignore[misc]
    assert sorted(done) == ["a", "b"]


def test_what_cannot_be_carried_out_is_told_and_the_rest_goes_on() -> None:
    done, failed = [], []

    def carry_out(item: Item) -> None:
        if item.name == "bad":
            raise RunError("no such thing")
        if item.name == "worse":
            raise OSError("no room")
        done.append(item.name)

    items = [Item(2, "late"), Item(0, "bad"), Item(1, "worse")]
    table = Timetable("table", items, carry_out, lambda item, error: failed.append((item, error)))
    table.begin(time.monotonic_ns())
    deadline = time.monotonic() + BOUND_S
    while done != ["late"]:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    table.stop()
    table.check()
    assert [(item.name, str(error)) for item, error in failed] == [
        ("bad", "no such thing"),
        ("worse", "no room"),
    ]


def test_another_error_ends_the_table_and_is_raised_by_check() -> None:
    table = Timetable("table", [Item(0, "x")], lambda _: broken(), lambda *_: None)
    table.begin(time.monotonic_ns())
    table.stop()
    with pytest.raises(KeyError, match="lost"):
        table.check()


def test_what_is_not_due_when_it_is_stopped_is_not_carried_out() -> None:
    done: list[Item] = []
    table = Timetable("table", [Item(3600 * 10**9, "x")], done.append, lambda *_: None)
    table.stop()  # it has not begun
    table.begin(time.monotonic_ns())
    table.stop()
    table.check()
    assert done == []
