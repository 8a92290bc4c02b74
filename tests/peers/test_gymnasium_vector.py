"""The vector environment of every problem against Gymnasium's own vector of its single ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from agents.placement.env import PlacementEnv, PlacementVectorEnv
from agents.provisioning.env import ProvisioningEnv, ProvisioningVectorEnv
from agents.provisioning.generator import GeneratorConfig
from testbed.scenario.load import load_scenario
from tests.support.places import SCENARIOS

pytestmark = pytest.mark.peers

SCENARIO = load_scenario(SCENARIOS / "admission.yaml")
SHORT = GeneratorConfig(centres=(2, 3), arrival_steps=4)


class Maker(NamedTuple):
    """How a problem's environments are made, and how many steps hold several episodes."""

    single: Callable[[], gym.Env[Any, Any]]
    vector: Callable[[int], gym.vector.VectorEnv[Any, Any, Any]]
    steps: int


PROBLEMS = {
    "placement": Maker(
        lambda: PlacementEnv(SCENARIO, plans=4), lambda n: PlacementVectorEnv(SCENARIO, n, 4), 200
    ),
    "provisioning": Maker(
        lambda: ProvisioningEnv(SHORT), lambda n: ProvisioningVectorEnv(n, SHORT), 1500
    ),
}


@pytest.fixture(params=list(PROBLEMS))
def maker(request: pytest.FixtureRequest) -> Maker:
    return PROBLEMS[request.param]


def same(one: Any, other: Any) -> bool:
    return bool(data_equivalence(one, other, exact=True))


@pytest.mark.parametrize("seed", [5, [9, 2, 9]])
def test_it_is_gymnasiums_vector_of_single_environments(maker: Maker, seed: Any) -> None:
    ours, peer = maker.vector(3), SyncVectorEnv([maker.single] * 3)
    assert ours.metadata["autoreset_mode"] == peer.metadata["autoreset_mode"]
    for space in ("action_space", "observation_space"):
        for prefix in ("", "single_"):
            assert getattr(ours, prefix + space) == getattr(peer, prefix + space)
    peer.action_space.seed(1)
    ends = 0
    for again in (seed, None):  # a reset without a seed goes on with the generators
        assert same(ours.reset(seed=again), peer.reset(seed=again))
        assert ours.np_random_seed == peer.np_random_seed
        for _ in range(maker.steps):
            actions = peer.action_space.sample()
            found = ours.step(actions)
            assert same(found, peer.step(actions))
            assert ours.observation_space.contains(found[0])
            ends += int(found[2].sum())
    assert ends > 6


def test_equal_seeds_give_equal_episodes_and_others_others(maker: Maker) -> None:
    many = maker.vector(8)
    seen, _ = many.reset(seed=[3, 3, 4, 5, 6, 7, 8, 9])
    rows = [np.concatenate([seen[k][b].ravel() for k in seen]).tobytes() for b in range(8)]
    assert rows[0] == rows[1]
    assert len(set(rows[1:])) > 1


def test_a_list_has_a_seed_for_each_environment(maker: Maker) -> None:
    with pytest.raises(ValueError, match="each of 3 environments"):
        maker.vector(3).reset(seed=[1, 2])


def test_what_was_handed_out_is_the_receivers(maker: Maker) -> None:
    ours, other = maker.vector(2), maker.vector(2)
    ours.action_space.seed(1)
    got, kept = [ours.reset(seed=3)], [other.reset(seed=3)]
    for _ in range(12):
        actions = ours.action_space.sample()
        step = copy.deepcopy(actions)
        got.append(ours.step(actions))
        kept.append(other.step(step))
        assert np.array_equal(actions, step)
        assert same(got, kept)  # nothing that was handed out before has changed
    for array in arrays(got):
        array[...] = 0  # what the receiver does with it changes nothing in the environment
    for _ in range(12):
        actions = ours.action_space.sample()
        assert same(ours.step(actions), other.step(actions))


def arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [a for part in value for a in arrays(part)] if isinstance(value, (list, tuple)) else []


def test_the_single_environment_hands_out_what_is_the_receivers(maker: Maker) -> None:
    ours, other = maker.single(), maker.single()
    ours.action_space.seed(1)
    got: list[Any] = [ours.reset(seed=3)]
    other.reset(seed=3)
    over = False
    while not over:
        for array in arrays(got[-1]):
            array[...] = 0
        action = ours.action_space.sample()
        got.append(ours.step(action))
        found = other.step(action)
        assert same(got[-1], found)
        over = found[2]


def test_an_action_outside_the_space_and_a_step_before_the_reset_are_refused(maker: Maker) -> None:
    for env in (maker.single(), maker.vector(2)):
        with pytest.raises(gym.error.ResetNeeded):
            env.step(env.action_space.sample())
        env.reset(seed=1)
        for wrong in (env.action_space.sample() * 0 - 1, env.action_space.sample() * 0 + 99):
            with pytest.raises(gym.error.InvalidAction):
                env.step(wrong)


def test_some_environments_can_be_reset_alone(maker: Maker) -> None:
    ours, peer = maker.vector(3), SyncVectorEnv([maker.single] * 3)
    with pytest.raises(gym.error.ResetNeeded):
        ours.reset(options={"reset_mask": np.array([True, False, True])})
    peer.action_space.seed(1)
    ours.reset(seed=1)
    peer.reset(seed=1)
    for _ in range(5):
        actions = peer.action_space.sample()
        assert same(ours.step(actions), peer.step(actions))
    some = np.array([False, True, True])
    seen, expected = (
        env.reset(seed=[7, 8, 9], options={"reset_mask": some})[0] for env in (ours, peer)
    )
    assert same(seen, expected)
    for _ in range(20):
        actions = peer.action_space.sample()
        assert same(ours.step(actions), peer.step(actions))


def test_gymnasiums_wrapper_counts_whole_episodes(maker: Maker) -> None:
    assert maker.vector(2).metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    counted = RecordEpisodeStatistics(maker.vector(2))
    counted.action_space.seed(1)
    counted.reset(seed=1)
    totals, lengths, found = np.zeros(2), np.zeros(2), 0
    over = np.zeros(2, dtype=bool)
    for _ in range(maker.steps):
        _, rewards, terminated, truncated, info = counted.step(counted.action_space.sample())
        totals, lengths = np.where(over, 0.0, totals + rewards), np.where(over, 0, lengths + 1)
        over = terminated | truncated
        for b in np.flatnonzero(over):
            assert info["episode"]["r"][b] == pytest.approx(totals[b])
            assert info["episode"]["l"][b] == lengths[b]
            found += 1
    assert found > 2
