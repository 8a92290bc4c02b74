"""The provisioning environments through the eyes of Gymnasium and sb3-contrib."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from sb3_contrib import MaskablePPO
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from agents.provisioning.env import ProvisioningEnv, ProvisioningVectorEnv
from agents.provisioning.generator import GeneratorConfig
from agents.provisioning.reward import RewardWeights
from agents.provisioning.types import WAIT

pytestmark = pytest.mark.peers

SHORT = GeneratorConfig(centres=(2, 3), arrival_steps=8)


@pytest.mark.filterwarnings("error")
def test_gymnasiums_checker_is_content() -> None:
    check_env(ProvisioningEnv(SHORT), skip_render_check=True)


def test_stable_baselines3_is_content() -> None:
    check_env_sb3(ProvisioningEnv(SHORT))


def first_valid(mask: np.ndarray) -> int:
    return int(np.flatnonzero(mask)[0])


def test_an_episode_ends_and_says_so_once_every_fate_is_known() -> None:
    env = ProvisioningEnv(SHORT)
    _, info = env.reset(seed=1)
    terminated, steps, total = False, 0, 0.0
    while not terminated:
        action = np.int64(first_valid(info["action_mask"]))
        seen, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(seen)
        assert not truncated
        steps, total = steps + 1, total + reward
    assert steps > 100
    assert total > 0.0
    assert env.step(np.int64(WAIT))[1:4] == (0.0, True, False)


def test_an_invalid_action_costs_what_the_weights_say() -> None:
    env = ProvisioningEnv(SHORT, RewardWeights(invalid=-7.0))
    _, info = env.reset(seed=1)
    invalid = int(np.flatnonzero(info["action_mask"] == 0)[0])
    assert env.step(np.int64(invalid))[1] == -7.0


def test_the_vector_environment_is_its_single_ones() -> None:
    vector = ProvisioningVectorEnv(3, SHORT)
    singles = [ProvisioningEnv(SHORT) for _ in range(3)]
    seen, info = vector.reset(seed=5)
    alone = [env.reset(seed=5 + b) for b, env in enumerate(singles)]
    over, resets = np.zeros(3, dtype=bool), 0
    for _ in range(1500):
        for b, (one, _) in enumerate(alone):
            assert all(np.array_equal(seen[key][b], one[key]) for key in one)
        actions = np.array([first_valid(mask) for mask in info["action_mask"]])
        seen, rewards, terminated, truncated, info = vector.step(actions)
        for b, env in enumerate(singles):
            if over[b]:  # the vector has begun anew by itself
                alone[b] = env.reset()
                resets += 1
                assert rewards[b] == 0.0 and not terminated[b]
            else:
                one, reward, ended, _, its = env.step(np.int64(actions[b]))
                alone[b] = (one, its)
                assert (rewards[b], terminated[b]) == (reward, ended)
        over = terminated
        assert not truncated.any()
    assert resets > 0
    assert vector.observation_space.contains(seen)


def test_maskable_ppo_trains_on_it_and_takes_valid_actions_alone() -> None:
    env = ProvisioningEnv(SHORT)
    model = MaskablePPO("MultiInputPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=1)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(128)
    assert any(not before[n].equal(v) for n, v in model.policy.state_dict().items())
    batch = env._batch
    assert batch is not None
    assert batch.state.totals.invalid[0] == 0
