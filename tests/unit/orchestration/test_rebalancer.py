"""An overloaded server in a run: whom the policy is asked about, and what becomes of its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from testbed.decisions.placement import Ledger, PlacementObservation
from testbed.orchestration.control.loads import Counted
from testbed.orchestration.control.rebalancer import Rebalancer
from testbed.orchestration.deploying.deploy import Chain
from testbed.orchestration.deploying.deployments import Deployments
from testbed.orchestration.deploying.reconfigure import ReconfigurationError
from testbed.scenario.names import GroupKey
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.scheduled import OverloadSpec
from testbed.scenario.types import NS_PER_S, Placement
from tests.support.twin_support import line_plan, make_request

HOP = GroupKey(0, 0)
SMALL, LARGE = make_request(0, rate_pps=400.0), make_request(1, rate_pps=1500.0)
SPEC = OverloadSpec(high=0.9, period_s=0.5, hold_s=1.0, cool_s=2.0)
Answer = Callable[[PlacementObservation], Placement | None]


class Bench:
    """Two chains whose primaries are at node 1, a clock that is set, moves that are noted."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        answer: Answer,
        *,
        backup: int | None = 2,
        lone_stay: bool = False,
        admission: bool = False,
    ) -> None:
        self.seen: list[PlacementObservation] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.moves: list[tuple[int, int]] = []
        self.between = self.looks = 0
        self._answer = answer
        self._now_ns = 0
        self._backup = backup
        plan = line_plan((SMALL, LARGE))
        ledger = Ledger(plan.servers, plan.profiles, delay_matrix_ns(plan.topology), admission)
        self.ledger = ledger
        self.deployments = Deployments(self, ledger, self._note, self._move, lone_stay)
        for request in (SMALL, LARGE):
            members = {0: 1} if backup is None else {0: 1, 1: backup}
            chain = Chain(request, {HOP: members}, {HOP: 0})
            self.deployments.chains[request.id] = chain
            self.deployments.note_placements(chain)
        monkeypatch.setattr(time, "monotonic_ns", lambda: self._now_ns)
        cores = {server.node: server.cpu_cores for server in plan.servers}
        self.rebalancer = Rebalancer(self.deployments, self._count, cores, SPEC, self._read_news)

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The policy."""
        self.seen.append(observation)
        return self._answer(observation)

    def run(self, seconds: float) -> None:
        """Let time pass; it is looked at more often than once a period."""
        end_ns = self._now_ns + round(seconds * NS_PER_S)
        while self._now_ns < end_ns:
            self.rebalancer.look_if_due()
            self._now_ns += NS_PER_S // 10

    def _count(self) -> dict[str, Counted]:
        """At 0.6 ms a packet: 0.24 and 0.9 of the server at node 1."""
        self.looks += 1
        seconds = self._now_ns / NS_PER_S
        return {
            f"r{r.id}": Counted(1, r.id, HOP, True, round(r.rate_pps * seconds), 600_000)
            for r in (SMALL, LARGE)
        }

    def _note(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def _move(self, deployed: Chain, key: GroupKey, node: int) -> dict[str, Any]:
        """As if all was where it was: the next question is about the same."""
        self.moves.append((deployed.request.id, node))
        if node == 0:
            raise ReconfigurationError("no")
        return {"member": deployed.primaries[key]}

    def _read_news(self) -> None:
        self.between += 1

    def questions(self) -> list[dict[str, Any]]:
        """What was noted of each question."""
        return [fields for name, fields in self.events if name == "overload-question"]


def test_the_group_with_most_work_is_asked_about_first(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda seen: Placement(3, None) if seen.request == 0 else None)
    bench.run(1.2)
    assert [(seen.task, seen.request, seen.members) for seen in bench.seen] == [
        ("move", 1, (1, 2)),
        ("move", 0, (1, 2)),
    ]
    assert bench.moves == [(0, 3)]
    assert bench.between == 1
    moves = {"request": 0, "function": 0, "shard": 0, "to": 3}
    assert bench.questions() == [{"node": 1, "utilisation": 1.14, "asked": 2, "moves": moves}]


def test_one_move_at_a_time_and_then_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda _: Placement(3, None))
    bench.run(1.2)
    assert bench.moves == [(1, 3)]
    bench.run(1.5)
    assert len(bench.moves) == 1
    bench.run(2.0)  # the pause of 2 s is over, and a second above the limit
    assert len(bench.moves) == 2


def test_a_move_that_fails_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda _: Placement(0, None))
    bench.run(1.2)
    assert bench.moves == [(1, 0)]
    assert bench.between == 1


@pytest.mark.parametrize("answer", [None, Placement(1, None), Placement(1, 3)])
def test_a_primary_may_stay(monkeypatch: pytest.MonkeyPatch, answer: Placement | None) -> None:
    bench = Bench(monkeypatch, lambda _: answer)
    bench.run(1.2)
    assert bench.moves == []
    assert bench.questions() == [{"node": 1, "utilisation": 1.14, "asked": 2, "moves": None}]


def test_nothing_moves_to_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda _: Placement(3, None), admission=True)
    bench.ledger.add(make_request(7, rate_pps=1200.0), (Placement(3, None),))
    bench.run(1.2)
    assert bench.moves == [(0, 3)]  # the larger one does not fit beside what is there
    bench = Bench(monkeypatch, lambda _: Placement(3, None))
    bench.ledger.server_down(3)
    bench.run(1.2)
    assert bench.moves == []


def test_what_is_held_for_want_of_a_backup_is_not_asked_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, lambda _: Placement(3, None), backup=None, lone_stay=True)
    bench.run(1.2)
    assert bench.seen == [] and bench.moves == []


def test_looks_are_a_period_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda _: None)
    bench.run(2.0)
    assert bench.looks == 4
