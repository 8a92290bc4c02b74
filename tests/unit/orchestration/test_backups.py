"""Further backups of a group: where they go, and what the ledger books for them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest

from agents.placement.features import masks
from agents.placement.observe import pack_observations
from agents.placement.policies import make_policy
from testbed.decisions.placement import Ledger, PlacementObservation
from testbed.orchestration.deploying.backups import REJECTED, further_backup, lost_one, place
from testbed.scenario.load import load_scenario
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.plan import make_plan
from testbed.scenario.types import Placement
from tests.support.places import SCENARIOS

PLAN = make_plan(load_scenario(SCENARIOS / "faults.yaml"), 1)
REQUEST = PLAN.requests[0]
NODES = len(PLAN.servers)


def ledger() -> Ledger:
    return Ledger(PLAN.servers, PLAN.profiles, delay_matrix_ns(PLAN.topology))


@dataclass
class Scripted:
    """Answers in turn, and keeps what it saw."""

    answers: list[Placement | None]
    seen: list[PlacementObservation] = field(default_factory=list)

    def decide(self, observation: PlacementObservation) -> Placement | None:
        self.seen.append(observation)
        return self.answers.pop(0)


@pytest.mark.parametrize(
    "name",
    ["deft", "random", "round-robin", "first-fit", "best-fit", "greedy-delay", "pl-rank", "milp"],
)
def test_every_policy_fills_a_group_with_distinct_nodes(name: str) -> None:
    policy = make_policy(name, 3, None, PLAN)
    for wanted in range(4):
        found = place(policy, ledger(), REQUEST, [], wanted)
        assert isinstance(found, Placement)
        assert len(set(found.nodes)) == len(found.nodes) == 1 + wanted
    down = ledger()
    for node in (0, 3):
        down.server_down(node)
    found = place(policy, down, REQUEST, [], 3)
    assert isinstance(found, Placement) and sorted(found.nodes) == [1, 2, 4]


def test_the_first_backup_is_the_policys_whatever_their_number() -> None:
    for name in ("deft", "greedy-delay"):
        policy = make_policy(name, 7, None)
        choice = policy.decide(ledger().observe(REQUEST, []))
        found = place(policy, ledger(), REQUEST, [], 3)
        assert choice is not None and isinstance(found, Placement)
        assert found.nodes[:2] == choice.nodes
        assert place(policy, ledger(), REQUEST, [], 1) == choice
        assert place(policy, ledger(), REQUEST, [], 0) == Placement(choice.primary, None)


def test_the_policy_is_told_what_the_group_has() -> None:
    policy = Scripted([Placement(2, 4), Placement(2, 1), Placement(2, 0)])
    assert place(policy, ledger(), REQUEST, [], 3) == Placement(2, 4, (1, 0))
    assert [seen.task for seen in policy.seen] == ["place", "backup", "backup"]
    assert [seen.members for seen in policy.seen] == [(), (2, 4), (2, 4, 1)]


def test_there_are_fewer_backups_where_the_policy_names_no_node() -> None:
    for answer in (None, Placement(2, None), Placement(2, 4)):
        policy = Scripted([Placement(2, 4), answer])
        assert place(policy, ledger(), REQUEST, [], 2) == Placement(2, 4)
    assert place(Scripted([None]), ledger(), REQUEST, [], 2) == REJECTED


def test_a_lost_backup_is_replaced_where_no_member_is() -> None:
    seen = ledger().observe(REQUEST, [])
    assert further_backup(Scripted([Placement(3, 0)]), seen, (3, 1)) == 0
    assert further_backup(Scripted([Placement(3, 1)]), seen, (3, 1)) is None


def test_admission_refuses_what_a_server_has_no_capacity_for() -> None:
    book = Ledger(PLAN.servers, PLAN.profiles, delay_matrix_ns(PLAN.topology), admission=True)
    seen = book.observe(REQUEST, [])
    room = seen.capacity_cores[1] / seen.backup_cores - 1.0
    for number, factor in ((100, room - 0.5), (101, 1.0)):
        functions = REQUEST.functions[:1]
        rate_pps = REQUEST.rate_pps * factor
        other = dataclasses.replace(REQUEST, id=number, functions=functions, rate_pps=rate_pps)
        admitted = place(Scripted([Placement(2, 1)]), book, REQUEST, [], 1)
        assert admitted == Placement(2, 1)
        book.add(other, (Placement(0, 1),))
    assert place(Scripted([Placement(2, 1)]), book, REQUEST, [], 1) == "no capacity at node 1"
    full = book.observe(REQUEST, [])
    assert further_backup(Scripted([Placement(2, 1)]), full, (2,)) is None
    assert further_backup(Scripted([Placement(2, 3)]), full, (2,)) == 3


def test_the_ledger_books_every_backup() -> None:
    book, profile = ledger(), PLAN.profiles[REQUEST.functions[0]]
    before = book.observe(REQUEST, [])
    book.add(REQUEST, [Placement(0, 1, (2, 3))])
    cores = REQUEST.rate_pps * np.array([profile.service_ns, *[profile.backup_service_ns] * 3, 0])
    assert book.used_cores() == pytest.approx(cores / 1e9)
    after = book.observe(REQUEST, [Placement(0, 1, (2, 3))])
    taken = before.memory_free_bytes - after.memory_free_bytes
    assert taken.tolist() == [profile.memory_bytes] * 4 + [0]
    assert after.held.tolist() == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("cause", "primary", "backups", "lost"),
    [
        ("failed", 0, [], True),
        ("failed", 0, [2], False),  # of three: the one that joined for a move is there
        ("leave", 0, [], True),  # and leaves, for the move was given up
        ("hand-over", 2, [], True),
        ("hand-over", 2, [1], False),
        ("create-group", 0, [], False),  # the policy found no node for one
        ("join", 0, [], False),
        ("failed", None, [], False),
    ],
)
def test_a_backup_is_missed_whatever_took_it(
    cause: str, primary: int | None, backups: list[int], lost: bool
) -> None:
    news = {"cause": cause, "primary": primary, "backups": backups}
    assert lost_one(news, 1) is lost


def test_a_learned_policy_may_name_no_node_that_has_a_member_however_many_there_are() -> None:
    for count in range(1, 4):
        members = tuple(range(count))
        book = ledger()
        book.add(REQUEST, [Placement(0, None)])
        seen = book.observe_again(REQUEST, [], "backup", members)
        _, backup = masks(pack_observations([seen]))
        assert np.flatnonzero(backup[0]).tolist() == list(range(count, NODES))
        moving = dataclasses.replace(seen, task="move")
        primary, _ = masks(pack_observations([moving]))
        assert set(np.flatnonzero(primary[0])) & set(members[2:]) == set()
