"""What the twin asks of overloaded servers, and what a move does, where it can be seen through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agents.placement.batch import DecisionBatch
from agents.placement.on_twin import Played, play
from agents.placement.types import BACKUP, MOVE
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import NS_PER_S, Fault, Placement, RunPlan
from testbed.twin.constants import CostWeights, TwinConstants
from testbed.twin.pack import pack_plans
from tests.support.twin_support import line_plan, make_request

CONSTANTS = TwinConstants(
    move_above=0.9, move_hold_ns=NS_PER_S, move_cool_ns=2.0 * NS_PER_S, repair_ns=0.3 * NS_PER_S
)
Answer = Callable[[PlacementObservation], int | None]
SMALL, LARGE = make_request(0, rate_pps=400.0), make_request(1, rate_pps=1500.0)
"""A NAT takes 0.6 ms: 0.24 and 0.9 of a server that both have to share."""
BOTH = line_plan((SMALL, LARGE))


class Asked:
    """Places all primaries at node 1 with backups at 2, and answers as it is told."""

    def __init__(self, answer: Answer, backup: int | None) -> None:
        self.answer, self.backup = answer, backup
        self.moves: list[PlacementObservation] = []

    def decide(self, seen: PlacementObservation) -> Placement | None:
        if seen.task == "place":
            return Placement(1, self.backup)
        if seen.task == "backup":
            return Placement(seen.members[0], None)
        self.moves.append(seen)
        node = self.answer(seen)
        return None if node is None else Placement(node, None)


def played(
    answer: Answer,
    plan: RunPlan = BOTH,
    constants: TwinConstants = CONSTANTS,
    backup: int | None = 2,
) -> tuple[Asked, Played]:
    policy = Asked(answer, backup)
    return policy, play([plan], [policy.decide], constants)[0]


def utilisation(run: Played, at_s: float) -> list[float]:
    return [float(rho) for rho in run.result.utilisation[round(at_s * 10)]]


def test_nothing_is_asked_where_the_scenario_says_nothing() -> None:
    policy, run = played(lambda _: 3, constants=TwinConstants())
    assert not policy.moves and run.moves == ()
    assert run.result.overload_s > 0.0


def test_the_groups_are_asked_about_the_largest_first_until_the_policy_moves_one() -> None:
    policy, run = played(lambda seen: 3 if seen.request == 0 else None)
    assert [seen.request for seen in policy.moves[:2]] == [1, 0]
    assert run.moves[:2] == (None, 3)
    # Packets flow from 1 s on, so the server is due at 2 s; the move is done 0.3 s later.
    assert utilisation(run, 2.2)[1] == pytest.approx(1.14)
    assert utilisation(run, 2.4)[1] == pytest.approx(0.9)
    assert utilisation(run, 2.4)[3] == pytest.approx(0.24)


def test_who_stays_is_asked_again_after_the_pause() -> None:
    policy, run = played(lambda _: None)
    # At 2 s, then 2 s of pause and 1 s above the limit: at 5 s and at 8 s.
    assert len(policy.moves) == 3 * 2
    assert run.moves == (None,) * 6
    assert run.result.overload_s == pytest.approx(8.0)


def test_a_move_shortens_the_overload_and_what_packets_wait() -> None:
    _, stays = played(lambda _: None)
    _, moves = played(lambda seen: 3 if seen.request == 1 else None)
    assert moves.result.overload_s == pytest.approx(1.3)
    assert moves.result.loss < 0.5 * stays.result.loss
    assert moves.result.cost < stays.result.cost


def test_what_is_shown_says_who_is_where_and_what_is_used() -> None:
    policy, _ = played(lambda _: None)
    seen = policy.moves[0]
    assert (seen.task, seen.members, seen.request) == ("move", (1, 2), 1)
    assert seen.used_cores[1] == pytest.approx(1.14)  # its own part is in it
    assert seen.primary_cores == pytest.approx(0.9)


def test_a_primary_that_moves_to_its_backup_changes_roles_with_it_at_once() -> None:
    policy, run = played(lambda seen: 2 if seen.request == 1 else None)
    before, after = utilisation(run, 1.9), utilisation(run, 2.0)
    assert before[1:3] == pytest.approx([0.24 + 0.9, 0.06 + 0.225])
    assert after[1:3] == pytest.approx([0.24 + 0.225, 0.06 + 0.9])
    # Node 2 is above the limit now; who is there has a backup at node 1.
    assert policy.moves[1].members == (2, 1)


@pytest.mark.parametrize("node", [1, -1])
def test_a_move_to_where_it_is_or_to_nowhere_is_none(node: int) -> None:
    _, run = played(lambda _: node)
    assert set(run.moves) == {None}


def test_nothing_moves_to_a_server_that_is_known_to_be_dead() -> None:
    plan = line_plan((SMALL, LARGE), faults=(Fault("server-down", NS_PER_S, 3),))
    _, run = played(lambda _: 3, plan)
    assert run.moves and set(run.moves) == {None}


def test_a_target_that_dies_before_the_move_is_done_leaves_all_as_it_was() -> None:
    plan = line_plan((SMALL, LARGE), faults=(Fault("server-down", int(2.1 * NS_PER_S), 3),))
    _, run = played(lambda seen: 3 if seen.request == 1 else None, plan)
    assert run.moves[0] == 3
    assert utilisation(run, 2.5)[1] == pytest.approx(1.14)
    assert run.result.requests[1].delivered > 0.8 * run.result.requests[1].packets


def test_outputs_that_are_held_cannot_be_handed_over() -> None:
    constants = TwinConstants(move_above=0.9, holds=True)
    _, run = played(lambda _: 3, constants=constants, backup=None)
    assert run.moves and set(run.moves) == {None}


def batch_of(shaped: bool) -> DecisionBatch:
    pool = pack_plans([BOTH])
    batch = DecisionBatch(pool, 1, 0, CONSTANTS, CostWeights(), shaped=shaped)
    batch.reset(np.array([0]))
    return batch


def rewards(batch: DecisionBatch, moves_to: int) -> list[tuple[int, float]]:
    """(task, reward) of each decision of an episode."""
    out, done = [], np.array([False])
    while not done[0]:
        task = int(batch.asks.task[0])
        large = int(batch.asks.asked[0, 0]) == 1
        node = 1 if task not in (MOVE, BACKUP) else moves_to if large else -1
        reward, done = batch.step(np.array([node]), np.array([2]), again=False)
        out.append((task, float(reward[0])))
    return out


def test_both_rewards_add_up_to_the_same_with_moves_in_them() -> None:
    plain, shaped = rewards(batch_of(False), 3), rewards(batch_of(True), 3)
    assert [task for task, _ in plain].count(MOVE) >= 1
    assert [task for task, _ in plain] == [task for task, _ in shaped]
    assert sum(r for _, r in plain) == pytest.approx(sum(r for _, r in shaped), rel=1e-9)


def test_a_good_move_is_rewarded_at_once_and_staying_is_not() -> None:
    moved = [reward for task, reward in rewards(batch_of(True), 3) if task == MOVE]
    stayed = [reward for task, reward in rewards(batch_of(True), -1) if task == MOVE]
    assert moved[0] > 0.5 > stayed[0]
