"""The fabric with switches in memory: updates, refusals, silence, reconnection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.fabric import Fabric, FabricError
from controller.rules import SegmentError
from controller.update import SetFlow
from testbed.records.events import EventLog, read_events
from testbed.scenario.steering import Segment, path_mac
from tests.support.controller_support import make_wiring
from tests.support.controller_switches import MemorySwitches
from tests.support.openflow_plant import Plant

WIRING = make_wiring(3, [(0, 1, 1), (1, 2, 1), (0, 2, 5)])
MAC = path_mac(2, 0, 0)
TO_TWO = [Segment(MAC, "user-0", ("server-1", "server-2"))]
TO_ONE = [Segment(MAC, "user-0", ("server-2",))]


class Bench:
    """A fabric, its switches, a thread that gives their answers, and the event log."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.jsonl"
        self.log = EventLog(self.path)
        self.sweeps: list[Callable[[], None]] = []
        self.fabric = Fabric(self.log, confirm_s=0.3, settle_s=0, later=self.sweeps.append)
        self.plant = Plant(WIRING)
        self.switches = MemorySwitches(self.fabric, self.plant)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def _answer(self) -> None:
        while not self._end.wait(0.001):
            self.switches.answer()

    def ready(self) -> None:
        self.fabric.set_topology(WIRING)
        for switch in WIRING.switches:
            self.switches.connect(switch.name)
        self.fabric.wait_ready(10)

    def delivered(self) -> dict[str, int]:
        return dict(self.plant.deliver("user-0", MAC))

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self.log.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_switches_get_host_rules_whether_they_connect_before_or_after(bench: Bench) -> None:
    bench.switches.connect("s0")
    assert bench.fabric.set_topology(WIRING) == 18
    for name in ("s1", "s2"):
        bench.switches.connect(name)
    assert bench.fabric.wait_ready(10) == 3
    assert bench.plant.deliver("user-0", WIRING.host("server-2").mac) == {"server-2": 1}


def test_wait_names_the_switches_that_are_missing(bench: Bench) -> None:
    bench.fabric.set_topology(WIRING)
    bench.switches.connect("s1")
    with pytest.raises(FabricError, match="not ready: s0, s2"):
        bench.fabric.wait_ready(0.05)


def test_install_update_remove(bench: Bench) -> None:
    bench.ready()
    hosts_only = {name: dict(table.flows) for name, table in bench.plant.tables.items()}
    installed = bench.fabric.install("r0", TO_TWO)
    assert bench.delivered() == {"server-1": 1, "server-2": 1}
    assert installed.rules == 3 and installed.sent_ns < installed.confirmed_ns
    bench.fabric.install("r0", TO_ONE)
    assert bench.delivered() == {"server-2": 1}
    assert bench.fabric.remove("r0") == 3  # s0, s1 and s2 still, on the way to server-2
    assert bench.delivered() == {}
    assert {name: table.flows for name, table in bench.plant.tables.items()} == hosts_only
    assert all(not table.groups for table in bench.plant.tables.values())


def test_rules_without_frames_are_swept_later(bench: Bench) -> None:
    bench.ready()
    bench.fabric.install("r0", TO_TWO)
    assert not bench.sweeps
    bench.fabric.install("r0", [Segment(MAC, "user-0", ("server-1",))])
    assert _has_chain(bench, "s2")
    bench.sweeps.pop()()
    assert not _has_chain(bench, "s2")
    assert bench.delivered() == {"server-1": 1}
    assert bench.fabric.status()["chains"] == {"r0": 2}


def test_the_sweep_of_an_older_update_does_nothing(bench: Bench) -> None:
    bench.ready()
    for targets in ("server-2",), ("server-1",), ("server-2",), ("server-0",):
        bench.fabric.install("r0", [Segment(MAC, "user-0", targets)])
    older, newest = bench.sweeps
    older()
    assert _has_chain(bench, "s2")
    newest()
    assert not _has_chain(bench, "s2")
    bench.fabric.remove("r0")
    newest()
    assert bench.delivered() == {}


@pytest.mark.parametrize(
    ("silent", "expected"),
    [
        # To server-1; the rule on s2 never confirmed: nothing changes.
        ("s2", [(1, None)]),
        # Then to both, which s1 never confirmed: back to server-1, never to server-2 alone.
        ("s1", [(1, None), (None, 1), (1, None)]),
    ],
)
def test_an_update_goes_on_only_when_every_switch_has_confirmed(
    bench: Bench, silent: str, expected: list[tuple[int | None, int | None]]
) -> None:
    bench.ready()
    bench.fabric.install("r0", [Segment(MAC, "user-0", ("server-1",))])
    bench.switches.connections[silent].silent = True
    with pytest.raises(FabricError, match=silent):
        bench.fabric.install("r0", TO_ONE)
    flows = [m for m in bench.switches.connections["s1"].sent if isinstance(m, SetFlow)]
    assert [(f.port, f.group_id) for f in flows if f.match.eth_dst == MAC] == expected


def test_a_silent_switch_is_named_and_the_chain_stays_as_it_was(bench: Bench) -> None:
    bench.ready()
    bench.fabric.install("r0", TO_ONE)
    bench.switches.connections["s1"].silent = True
    with pytest.raises(FabricError, match=r"no barrier reply within 0.3 s: s1$"):
        bench.fabric.install("r0", TO_TWO)
    bench.switches.connections["s1"].silent = False
    bench.fabric.wait_ready(10)
    assert bench.delivered() == {"server-2": 1}
    bench.fabric.install("r0", TO_TWO)
    assert bench.delivered() == {"server-1": 1, "server-2": 1}


def test_a_refusal_fails_the_install_with_its_text(bench: Bench) -> None:
    bench.ready()
    bench.fabric.install("r0", TO_ONE)
    bench.plant.tables["s1"].most_groups = 0
    with pytest.raises(FabricError, match=r"switch s1: .*OFPGMFC_OUT_OF_GROUPS"):
        bench.fabric.install("r0", TO_TWO)
    bench.plant.tables["s1"].most_groups = 1
    assert bench.delivered() == {"server-2": 1}
    bench.fabric.install("r0", TO_TWO)
    assert bench.delivered() == {"server-1": 1, "server-2": 1}


@pytest.mark.parametrize("old_ends_first", [True, False])
def test_a_switch_that_reconnects_gets_its_rules_again(bench: Bench, old_ends_first: bool) -> None:
    bench.ready()
    bench.fabric.install("r0", TO_TWO)
    old = bench.switches.connections["s1"]
    if old_ends_first:
        bench.switches.disconnect("s1")
        assert not bench.fabric.status()["switches"]["s1"]["connected"]  # type: ignore[index]
    bench.plant.tables["s1"].restart()
    assert bench.delivered() == {}
    bench.switches.connect("s1")
    bench.fabric.detach(old.dpid, old)  # late news of the old connection change nothing
    bench.fabric.wait_ready(10)
    assert bench.delivered() == {"server-1": 1, "server-2": 1}


def test_a_switch_that_reconnects_during_an_install_lets_it_succeed(bench: Bench) -> None:
    bench.fabric = bench.switches.fabric = Fabric(bench.log, confirm_s=30)
    bench.ready()
    bench.switches.connections["s1"].silent = True
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(bench.fabric.install("r0", TO_TWO)))
    thread.start()
    poll(lambda: bool(bench.switches.connections["s1"].sent[-1:]) and _has_chain(bench))
    bench.switches.disconnect("s1")
    bench.switches.connect("s1")
    thread.join(20)
    assert done and bench.delivered() == {"server-1": 1, "server-2": 1}


def _has_chain(bench: Bench, switch: str = "s1") -> bool:
    return any(match.eth_dst == MAC for match in list(bench.plant.tables[switch].flows))


def poll(condition: Callable[[], bool], bound_s: float = 20.0) -> None:
    waiter = threading.Event()
    for _ in range(int(bound_s / 0.005)):
        if condition():
            return
        waiter.wait(0.005)
    raise AssertionError("condition not met in time")


def test_what_cannot_be_is_refused(bench: Bench) -> None:
    with pytest.raises(FabricError, match="topology"):
        bench.fabric.install("r0", TO_ONE)
    bench.ready()
    bench.fabric.install("r0", TO_ONE)
    with pytest.raises(SegmentError, match="chain 'r0' has it"):
        bench.fabric.install("r1", TO_ONE)
    with pytest.raises(FabricError, match="'r1'"):
        bench.fabric.remove("r1")
    with pytest.raises(FabricError, match="remove them first"):
        bench.fabric.set_topology(make_wiring(1, []))
    assert bench.fabric.set_topology(WIRING) == 18


def test_the_timeline_tells_rules_sent_before_confirmed(bench: Bench) -> None:
    bench.ready()
    bench.fabric.install("r0", TO_TWO)
    events = list(read_events(bench.path))
    assert [e["switch"] for e in events if e["event"] == "switch-connected"] == ["s0", "s1", "s2"]
    chain = [(e["event"], e["rules"]) for e in events if e.get("chain") == "r0"]
    assert chain == [("rules-sent", 3), ("rules-confirmed", 3)]
