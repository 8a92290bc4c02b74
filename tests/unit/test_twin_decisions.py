"""Decision by decision, the twin shows what the ledger shows and pays what the outcome costs."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.scenario.placement import PlacementObservation
from testbed.scenario.types import NS_PER_S, Fault, Placement
from testbed.twin.constants import TwinConstants
from testbed.twin.decisions import DecisionBatch
from testbed.twin.observe import pack_observations
from testbed.twin.pack import pack_plans
from testbed.twin.replay import place_all, promote
from testbed.twin.simulate import simulate
from tests.unit.twin_support import line_plan, make_request, random_plan

CONSTANTS = TwinConstants()
DRAIN_NS = round(CONSTANTS.drain_ns)


def draw(rng: np.random.Generator, seen: PlacementObservation) -> Placement | None:
    alive = np.flatnonzero(seen.alive)
    primary, backup = rng.choice(alive, 2, replace=False)
    if rng.random() < 0.05:
        return None
    return Placement(int(primary), int(backup) if rng.random() < 0.9 else None)


@pytest.mark.parametrize("seed", range(8))
def test_observations_equal_those_of_the_ledger_to_the_last_bit(seed: int) -> None:
    plan = random_plan(seed)
    batch = DecisionBatch(pack_plans([plan]), 1, 0)
    rng = np.random.default_rng(seed)
    count = 0

    def decide(seen: PlacementObservation) -> Placement | None:
        nonlocal count
        count += 1
        expected, found = pack_observations([seen]), batch.observe()
        for name, a, b in zip(expected._fields, expected, found, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
        choice = draw(rng, seen)
        nodes = (-1, -1) if choice is None else (choice.primary, choice.backup)
        primary, backup = nodes[0], -1 if nodes[1] is None else nodes[1]
        batch.step(np.array([primary]), np.array([backup]))
        return choice

    place_all(plan, decide, DRAIN_NS)
    assert count > 20


@pytest.mark.parametrize("seed", range(6))
def test_the_rewards_of_an_episode_add_up_to_minus_the_cost_of_its_outcome(seed: int) -> None:
    plan = random_plan(seed)
    batch = DecisionBatch(pack_plans([plan]), 1, 0, CONSTANTS)
    rng = np.random.default_rng(seed)
    total, ends = 0.0, []

    def decide(seen: PlacementObservation) -> Placement | None:
        nonlocal total
        choice = draw(rng, seen)
        primary = -1 if choice is None else choice.primary
        backup = -1 if choice is None or choice.backup is None else choice.backup
        rewards, done = batch.step(np.array([primary]), np.array([backup]))
        total += float(rewards[0])
        ends.append(bool(done[0]))
        return choice

    placements = place_all(plan, decide, DRAIN_NS)
    assert total == pytest.approx(-simulate(plan, placements, CONSTANTS).cost)
    assert ends == [False] * (len(ends) - 1) + [True]


def play(batch: DecisionBatch, rows: slice, steps: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    seen = []
    for _ in range(steps):
        chosen = rng.integers(0, 5, size=(2, 6))[:, rows]
        rewards, done = batch.step(chosen[0], chosen[1])
        used = batch.observe().used_cores
        seen.append(np.concatenate([rewards[:, None], done[:, None], used], axis=1))
    return seen


def test_a_batch_equals_its_parts_bit_for_bit() -> None:
    plans = [random_plan(0)] + [
        random_plan(0).__class__(
            **{
                **{f: getattr(random_plan(s), f) for f in random_plan(s).__dataclass_fields__},
                "servers": random_plan(0).servers,
            }
        )
        for s in (1, 2, 3)
    ]
    pool = pack_plans(plans)
    whole = play(DecisionBatch(pool, 6, 7), slice(0, 6), 120)
    parts = [
        play(DecisionBatch(pool, 1, 7, first=number), slice(number, number + 1), 120)
        for number in range(6)
    ]
    for step, row in enumerate(whole):
        np.testing.assert_array_equal(row, np.concatenate([part[step] for part in parts]))


def test_an_environment_draws_new_plans_and_others_draw_others() -> None:
    servers = random_plan(0).servers
    pool = pack_plans([line_plan((make_request(),), faults=()) for _ in range(50)])
    assert servers
    batch = DecisionBatch(pool, 8, 3)
    first = batch.plan_number()
    _, done = batch.step(np.full(8, 1), np.full(8, 2))
    assert done.all()
    assert len(set(first.tolist())) > 3
    assert (batch.plan_number() != first).sum() > 4
    assert (DecisionBatch(pool, 8, 3).plan_number() == first).all()


def test_reward_feels_the_load_step_and_the_fault_that_are_not_seen_yet() -> None:
    def first_reward(primary: int, backup: int, **plan: object) -> float:
        request = make_request(rate_pps=1200.0)
        batch = DecisionBatch(pack_plans([line_plan((request,), **plan)]), 1, 0)  # type: ignore[arg-type]
        return float(batch.step(np.array([primary]), np.array([backup]))[0][0])

    calm = first_reward(1, 2)
    assert first_reward(1, 2, load_steps=((5 * NS_PER_S, 2.0),)) < 2 * calm
    fault = (Fault("server-down", 5 * NS_PER_S, 1),)
    assert first_reward(1, -1, faults=fault) < 3 * first_reward(1, 2, faults=fault)


def test_nodes_that_do_not_exist_are_refused() -> None:
    batch = DecisionBatch(pack_plans([line_plan((make_request(),))]), 1, 0)
    with pytest.raises(ValueError, match="primary"):
        batch.step(np.array([4]), np.array([0]))
    with pytest.raises(ValueError, match="backup"):
        batch.step(np.array([0]), np.array([-2]))


def test_a_failover_leaves_who_is_left() -> None:
    placements = (Placement(0, 1), Placement(1, 0), Placement(2, 1), Placement(0, None))
    assert promote([Placement(0, 1, (2, 3))], {0, 2}) == (Placement(1, 3),)
    assert promote(placements, {0}) == (
        Placement(1, None), Placement(1, None), Placement(2, 1), Placement(0, None),
    )  # fmt: skip
    assert promote((Placement(0, 1),), {0, 1}) == (Placement(0, None),)
