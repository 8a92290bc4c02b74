"""Decision by decision, the twin shows what the ledger shows and pays what the outcome costs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from agents.placement.batch import DecisionBatch
from agents.placement.observe import pack_observations
from agents.placement.on_twin import play
from testbed.decisions.placement import PlacementObservation, ledger_of
from testbed.scenario.types import NS_PER_S, Fault, Placement, RunPlan, Task, load_factor
from testbed.twin.constants import CostWeights
from testbed.twin.decided import NewBackup
from testbed.twin.pack import pack_plans
from testbed.twin.simulate import simulate
from tests.support.twin_drawn import Drawn, Noting, drawn_policy, drawn_scenario
from tests.support.twin_reference import Reference, Seen
from tests.support.twin_support import line_plan, make_request, random_plan

MANY = range(300)


def ledger_observations(drawn: Drawn) -> list[PlacementObservation]:
    """What a ledger shows at each decision: it is told what is placed, what left and who died."""
    plan, policy, out = drawn.plan, drawn_policy(drawn.plan), []
    reference = Reference(plan, drawn.constants, drawn.weights)
    ledger = ledger_of(plan)
    entered: set[int] = set()

    def decide(seen: Seen) -> Placement | None:
        here = {chain.request.id: chain for chain in reference.chains}
        for gone in entered - set(here):
            ledger.remove(gone)
        entered.clear()
        for number, chain in here.items():
            entered.add(number)
            ledger.add(chain.request, [Placement(g.primary, g.backup) for g in chain.groups])
        for fault in plan.faults:
            if fault.at_ns + drawn.constants.detection_ns <= seen.now_ns:
                ledger.server_down(fault.node)
        ledger.load_factor = load_factor(plan, int(seen.now_ns))
        request = next(one for one in plan.requests if one.id == seen.request)
        if seen.task == "place":
            out.append(ledger.observe(request, seen.placed))
        else:
            again: Task = "backup" if seen.task == "backup" else "move"
            out.append(ledger.observe_again(request, seen.placed, again, seen.members))
        return policy.decide(seen)

    reference.run(decide)
    return out


def test_observations_equal_those_of_the_ledger_to_the_last_bit() -> None:
    tasks: list[str] = []
    for seed in MANY:
        drawn = drawn_scenario(seed)
        noting: Noting[PlacementObservation] = Noting(drawn_policy(drawn.plan))
        play([drawn.plan], [noting.decide], drawn.constants, drawn.weights)
        expected = ledger_observations(drawn)
        assert len(expected) == len(noting.seen), seed
        for ours, theirs in zip(expected, noting.seen, strict=True):
            for field in dataclasses.fields(ours):
                one, other = getattr(ours, field.name), getattr(theirs, field.name)
                np.testing.assert_array_equal(one, other, err_msg=f"{seed}: {field.name}")
                assert np.asarray(one).dtype == np.asarray(other).dtype, field.name
            tasks.append(theirs.task)
    assert tasks.count("backup") > 50
    assert tasks.count("move") > 50
    assert tasks.count("place") > 500


def test_a_batch_shows_as_arrays_what_it_shows_one_by_one() -> None:
    for seed in range(40):
        drawn = drawn_scenario(seed)
        batch = DecisionBatch(pack_plans([drawn.plan]), 1, 0, drawn.constants, drawn.weights)
        steps = 0

        def decide(seen: PlacementObservation, batch: DecisionBatch = batch) -> Placement | None:
            nonlocal steps
            expected, found = pack_observations([seen]), batch.observe()
            for name, a, b in zip(expected._fields, expected, found, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=name)
            # The answers of this policy follow from how often it was asked.
            choice = Placement(steps % len(seen.alive), (steps * 3 + 1) % len(seen.alive))
            batch.step(np.array([choice.primary]), np.array([choice.backup]), again=False)
            steps += 1
            return choice

        play([drawn.plan], [decide], drawn.constants, drawn.weights)
        assert steps > 0


@pytest.mark.parametrize("shaped", [False, True])
def test_the_rewards_of_an_episode_add_up_to_minus_its_cost(shaped: bool) -> None:
    for seed in MANY:
        drawn = drawn_scenario(seed)
        pool = pack_plans([drawn.plan])
        batch = DecisionBatch(pool, 1, 0, drawn.constants, drawn.weights, shaped=shaped)
        rewards, ends = episode(batch, drawn.plan)
        cost = play(
            [drawn.plan], [drawn_policy(drawn.plan).decide], drawn.constants, drawn.weights
        )[0].result.cost
        assert sum(rewards) == pytest.approx(-cost, rel=1e-9), seed
        assert ends == [False] * (len(ends) - 1) + [True], seed


@pytest.mark.parametrize("discount", [0.0, 0.8, 0.99])
def test_a_learner_whose_discount_the_potential_has_is_paid_the_same_discounted_sum(
    discount: float,
) -> None:
    """Whatever is decided: shaping adds nothing to what is optimised (Ng, Harada, Russell, 1999).

    At first nothing is placed, so that the potential is 0, as it is at the end.
    """
    for seed in MANY:
        drawn = drawn_scenario(seed)
        pool = pack_plans([drawn.plan])
        sums = []
        for shaped in (False, True):
            batch = DecisionBatch(
                pool, 1, 0, drawn.constants, drawn.weights, shaped=shaped,
                potential_discount=discount,
            )  # fmt: skip
            rewards, _ = episode(batch, drawn.plan)
            sums.append(sum(discount**t * reward for t, reward in enumerate(rewards)))
        assert sums[1] == pytest.approx(sums[0], rel=1e-9, abs=1e-9), seed


def episode(batch: DecisionBatch, plan: RunPlan) -> tuple[list[float], list[bool]]:
    """Rewards and ends of the decisions of a drawn policy."""
    policy = drawn_policy(plan)
    rewards: list[float] = []
    ends: list[bool] = []
    while not (ends and ends[-1]):
        choice = policy.decide(None)
        primary = -1 if choice is None else choice.primary
        backup = -1 if choice is None or choice.backup is None else choice.backup
        reward, done = batch.step(np.array([primary]), np.array([backup]), again=False)
        rewards.append(float(reward[0]))
        ends.append(bool(done[0]))
    return rewards, ends


def test_what_was_decided_gives_the_same_run_when_it_is_only_carried_out() -> None:
    backups = moves = 0
    for seed in MANY:
        drawn = drawn_scenario(seed)
        played = play(
            [drawn.plan], [drawn_policy(drawn.plan).decide], drawn.constants, drawn.weights
        )[0]
        again = simulate(
            drawn.plan, played.placements, drawn.constants, drawn.weights, played.backups,
            played.moves,
        )  # fmt: skip
        backups += len(played.backups)
        moves += sum(node is not None for node in played.moves)
        assert repr(again.requests) == repr(played.result.requests), seed
        for name in ("cost", "overload_s", "utilisation", "wait_ns", "histogram"):
            one, other = getattr(again, name), getattr(played.result, name)
            np.testing.assert_array_equal(one, other, err_msg=f"{seed}: {name}")
    assert backups > 20
    assert moves > 20


def test_a_new_backup_is_noted_if_it_can_join() -> None:
    fault = (Fault("server-down", 4 * NS_PER_S, 1),)
    plan = line_plan((make_request(),), faults=fault)

    def noted(node: int) -> tuple[NewBackup, ...]:
        def decide(seen: PlacementObservation) -> Placement:
            return Placement(1, 2) if seen.task == "place" else Placement(2, node)

        return play([plan], [decide])[0].backups

    assert noted(3) == (NewBackup(0, 0, 3),)
    assert noted(2) == ()  # where the primary is
    assert noted(1) == ()  # dead


def play_rows(batch: DecisionBatch, rows: slice, steps: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    seen = []
    for _ in range(steps):
        chosen = rng.integers(0, 5, size=(2, 6))[:, rows]
        rewards, done = batch.step(chosen[0], chosen[1])
        used = batch.observe().used_cores
        seen.append(np.concatenate([rewards[:, None], done[:, None], used], axis=1))
    return seen


@pytest.mark.parametrize(("shaped", "discount"), [(False, 1.0), (True, 1.0), (True, 0.8)])
def test_a_batch_equals_its_parts_bit_for_bit(shaped: bool, discount: float) -> None:
    servers = random_plan(0).servers
    pool = pack_plans([dataclasses.replace(random_plan(s), servers=servers) for s in range(4)])

    def rows(count: int, first: int) -> list[np.ndarray]:
        batch = DecisionBatch(
            pool, count, 7, first=first, shaped=shaped, potential_discount=discount
        )
        return play_rows(batch, slice(first, first + count), 120)

    whole = rows(6, 0)
    parts = [rows(1, n) for n in range(6)]
    assert sum(row[:, 1].sum() for row in whole) > 6  # episodes that ended
    for step, row in enumerate(whole):
        np.testing.assert_array_equal(row, np.concatenate([part[step] for part in parts]))


def test_an_environment_draws_new_plans_and_others_draw_others() -> None:
    pool = pack_plans([line_plan((make_request(),), faults=()) for _ in range(50)])
    batch = DecisionBatch(pool, 8, 3)
    first = batch.state.plan.copy()
    _, done = batch.step(np.full(8, 1), np.full(8, 2))
    assert done.all()
    assert len(set(first.tolist())) > 3
    assert (batch.state.plan.copy() != first).sum() > 4
    assert (DecisionBatch(pool, 8, 3).state.plan == first).all()


def first_reward(primary: int, backup: int, **plan: object) -> float:
    pool = pack_plans([line_plan((make_request(rate_pps=1200.0),), **plan)])  # type: ignore[arg-type]
    batch = DecisionBatch(pool, 1, 0)
    return float(batch.step(np.array([primary]), np.array([backup]))[0][0])


def test_reward_feels_the_load_step_and_the_fault_that_are_not_seen_yet() -> None:
    calm = first_reward(1, 2)
    assert first_reward(1, 2, load_steps=((5 * NS_PER_S, 2.0),)) < 2 * calm
    fault = (Fault("server-down", 5 * NS_PER_S, 1),)
    assert first_reward(1, -1, faults=fault) < 3 * first_reward(1, 2, faults=fault)


def test_an_overload_to_come_is_paid_for_by_the_decision_that_brings_it() -> None:
    request = make_request(rate_pps=1200.0, functions=("nat", "fw"))
    pool = pack_plans([line_plan((request,), load_steps=((5 * NS_PER_S, 2.0),))])
    paid = []
    for price in (0.0, 100.0):
        batch = DecisionBatch(pool, 1, 0, weights=CostWeights(overload=price, packets=500.0))
        paid.append(-batch.step(np.array([1]), np.array([2]))[0][0])
    assert paid[1] - paid[0] == pytest.approx(4.0 * 100.0 / 500.0)  # from 5 s to 9 s


def test_nodes_that_do_not_exist_are_refused() -> None:
    batch = DecisionBatch(pack_plans([line_plan((make_request(),))]), 1, 0)
    with pytest.raises(ValueError, match="primary"):
        batch.step(np.array([4]), np.array([0]))
    with pytest.raises(ValueError, match="backup"):
        batch.step(np.array([0]), np.array([-2]))
