"""The provisioning environments through the eyes of Gymnasium and Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from agents.provisioning.env import ProvisioningEnv
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


class Watched(ProvisioningEnv):
    """Counts steps and those whose action was not valid."""

    taken = invalid = 0

    def step(self, action: Any) -> Any:
        self.taken += 1
        self.invalid += not self.action_masks()[action]
        return super().step(action)


@pytest.mark.parametrize(
    ("algorithm", "options", "masked"),
    [
        (PPO, {"n_steps": 64, "batch_size": 32, "n_epochs": 1}, False),
        (MaskablePPO, {"n_steps": 64, "batch_size": 32, "n_epochs": 1}, True),
        (DQN, {"learning_starts": 32, "batch_size": 32, "buffer_size": 200}, False),
    ],
)
def test_others_learners_train_on_it_and_masked_ones_take_valid_actions_alone(
    algorithm: Any, options: dict[str, Any], masked: bool
) -> None:
    env = Watched(SHORT)
    model = algorithm("MultiInputPolicy", env, seed=1, **options)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(128)
    assert any(not before[n].equal(v) for n, v in model.policy.state_dict().items())
    assert env.taken == 128
    assert (env.invalid == 0) == masked
