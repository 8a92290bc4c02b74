"""Why time stops on the twin, when, and whom it concerns, where it can be seen through."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.scenario.types import NS_PER_S, Fault, RunPlan
from testbed.twin.advance import advance
from testbed.twin.constants import CostWeights, TwinConstants
from testbed.twin.groups import accept, join, place
from testbed.twin.moves import movable, move
from testbed.twin.pack import NEVER_NS, pack_plans
from testbed.twin.state import LOST, OVER, OVERLOADED, REACHED, State, World, clear
from testbed.twin.world import make_world
from tests.support.twin_support import line_plan, make_request

CONSTANTS = TwinConstants(detection_ns=0.15 * NS_PER_S, repair_ns=0.3 * NS_PER_S)
REQUESTS = (make_request(0), make_request(1, rate_pps=1500.0))
DIES = (Fault("server-down", 4 * NS_PER_S, 1),)


def begun(
    plan: RunPlan, constants: TwinConstants = CONSTANTS, weights: CostWeights | None = None
) -> tuple[World, State]:
    """All requests of a plan at node 1, with backups at node 2."""
    world, state = make_world(pack_plans([plan]), 1, constants, weights)
    clear(state, 0, 0)
    for r in range(len(plan.requests)):
        place(state, 0, r, 0, 1, 2)
        accept(state, 0, r)
    return world, state


def concerned(state: State) -> list[int]:
    return state.concerned[0, : state.concerned_count[0], 0].tolist()


def test_time_passes_until_it_was_told_to_stop_and_then_to_the_end() -> None:
    world, state = begun(line_plan(REQUESTS))
    assert advance(world, state, 0, 3 * NS_PER_S) == REACHED
    assert (state.now_ns[0], state.slot[0]) == (3 * NS_PER_S, 30)
    assert advance(world, state, 0, NEVER_NS) == OVER
    assert state.slot[0] == 100


def test_every_slot_that_was_run_has_its_cost() -> None:
    world, state = begun(line_plan(REQUESTS))
    advance(world, state, 0, 5 * NS_PER_S)
    assert not state.cost[0, :10].any()  # packets come from 1 s on
    assert (state.cost[0, 10:50] > 0.0).all()
    assert not state.cost[0, 50:].any()


def test_a_server_is_found_dead_after_the_detection_and_its_groups_lack_a_backup() -> None:
    world, state = begun(line_plan(REQUESTS, faults=DIES))
    assert advance(world, state, 0, NEVER_NS) == LOST
    assert state.now_ns[0] == round(4.15 * NS_PER_S)
    assert concerned(state) == [0, 1]
    assert state.primary[0, :2, 0].tolist() == [2, 2]
    assert state.backup[0, :2, 0].tolist() == [-1, -1]


def test_a_death_at_the_time_at_which_it_is_to_stop_is_told_first() -> None:
    world, state = begun(line_plan(REQUESTS, faults=DIES))
    until_ns = round(4.15 * NS_PER_S)
    assert [advance(world, state, 0, until_ns) for _ in range(2)] == [LOST, REACHED]


def test_where_nothing_is_replaced_a_death_concerns_nobody() -> None:
    constants = TwinConstants(replaces=False)
    world, state = begun(line_plan(REQUESTS, faults=DIES), constants)
    assert advance(world, state, 0, NEVER_NS) == LOST
    assert concerned(state) == []


def test_a_new_backup_takes_part_once_it_has_caught_up() -> None:
    world, state = begun(line_plan(REQUESTS, faults=DIES))
    advance(world, state, 0, NEVER_NS)
    join(world, state, 0, 1, 0, 3)
    assert state.joined_ns[0, 1, 0] == round(4.45 * NS_PER_S)


def test_an_overloaded_server_is_told_with_those_who_could_leave_it_by_their_work() -> None:
    constants = TwinConstants(move_above=0.9, move_hold_ns=NS_PER_S, move_cool_ns=2.0 * NS_PER_S)
    world, state = begun(line_plan(REQUESTS), constants)
    assert advance(world, state, 0, NEVER_NS) == OVERLOADED
    assert state.now_ns[0] == 2 * NS_PER_S
    assert concerned(state) == [1, 0]
    assert movable(world, state, 0, 1, 0, 3)
    move(world, state, 0, 1, 0, 3)
    assert advance(world, state, 0, 3 * NS_PER_S) == REACHED
    assert state.primary[0, 1, 0] == 3


def test_what_a_slot_costs_follows_the_weights() -> None:
    costs = []
    for price in (0.0, 100.0):
        weights = CostWeights(overload=price, packets=500.0)
        busy = (make_request(0, rate_pps=1700.0),)
        world, state = begun(line_plan(busy), weights=weights)
        advance(world, state, 0, NEVER_NS)
        costs.append(state.cost[0].copy())
    # 1.02 of the server from 1 s to 9 s, in slots of 0.1 s.
    assert np.flatnonzero(costs[1] > costs[0]).tolist() == list(range(10, 90))
    assert costs[1].sum() - costs[0].sum() == pytest.approx(8.0 * 100.0 / 500.0)
