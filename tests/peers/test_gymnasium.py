"""The placement environment through the eyes of Gymnasium and Stable-Baselines3."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from agents.placement.env import PlacementEnv
from testbed.scenario.load import load_scenario
from tests.support.places import SMOKE

pytestmark = pytest.mark.peers


@pytest.fixture
def env() -> PlacementEnv:
    return PlacementEnv(load_scenario(SMOKE), plans=4)


@pytest.mark.filterwarnings("error")
def test_gymnasiums_checker_is_content(env: PlacementEnv) -> None:
    check_env(env, skip_render_check=True)


def test_stable_baselines3_is_content(env: PlacementEnv) -> None:
    check_env_sb3(env)


def test_an_episode_is_one_plan_and_masks_come_with_it(env: PlacementEnv) -> None:
    _, info = env.reset(seed=1)
    steps, total, terminated = 0, 0.0, False
    while not terminated:
        primary = int(np.flatnonzero(info["primary_mask"][:-1])[0])
        allowed = info["backup_mask"].astype(bool)
        allowed[primary] = False
        action = np.array([primary, int(np.flatnonzero(allowed)[0])])
        _, reward, terminated, truncated, info = env.step(action)
        steps, total = steps + 1, total + reward
        assert not truncated
    assert steps == 4  # one request of two functions; a backup for each after the fault
    assert total < 0.0


def test_an_action_outside_the_masks_is_a_rejection(env: PlacementEnv) -> None:
    outcomes = []
    for action in ([3, 0], [1, 1]):
        env.reset(seed=1)
        _, reward, terminated, _, _ = env.step(np.array(action))
        outcomes.append((reward, terminated))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][1]  # the only request of the plan is gone


@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO])
def test_stable_baselines3_learns_on_it(
    env: PlacementEnv, algorithm: type[PPO] | type[MaskablePPO]
) -> None:
    model = algorithm("MultiInputPolicy", env, n_steps=64, batch_size=32, n_epochs=2, seed=1)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(128)
    after = model.policy.state_dict()
    assert model.num_timesteps == 128
    assert any(not before[name].equal(after[name]) for name in before)
