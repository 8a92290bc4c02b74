"""PPO on problems whose answer is known."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.common.rollout import Batch, CutValues, RolloutBuffer
from agents.learners.ppo import PpoConfig, update
from agents.placement.network import Inputs, PlacementNetwork


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # as in training: two are far slower where a core is busy


def identity_inputs(
    batch: int, nodes: int, generator: torch.Generator
) -> tuple[Inputs, torch.Tensor]:
    marks = torch.stack([torch.randperm(nodes, generator=generator)[:2] for _ in range(batch)])
    node = torch.zeros(batch, nodes, 4)
    rows = torch.arange(batch)
    node[rows, marks[:, 0], 0] = 1.0
    node[rows, marks[:, 1], 1] = 1.0
    every = torch.ones(batch, nodes, dtype=torch.bool)
    mask = torch.ones(batch, nodes + 1, dtype=torch.bool)
    inputs = Inputs(node, torch.zeros(batch, 3), every, mask, every, torch.zeros(nodes, nodes))
    return inputs, marks


def test_ppo_learns_the_identity_environment() -> None:
    """The right primary is the node with the first mark, the right backup that with the second."""
    torch.manual_seed(0)
    made = PlacementNetwork(4, 3, 16, 2, 8)
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    config = PpoConfig(epochs=4, minibatch=128)
    first, score = 0.0, 0.0
    for turn in range(40):
        inputs, marks = identity_inputs(256, 6, generator)
        chosen = made.act(inputs, generator)
        answers = torch.stack([chosen.primary, chosen.backup], dim=1)
        reward = (answers == marks).float().sum(-1)
        score = float(reward.mean()) / 2
        first = score if turn == 0 else first
        advantage = reward - chosen.value
        batch = Batch(inputs, chosen.action, chosen.log_probability, advantage, reward)
        figures = update(made, optimiser, batch, config, 0.001, generator)
    assert first < 0.3
    assert score > 0.95
    assert figures["entropy"] < 1.0


def cart_pole_inputs(states: np.ndarray) -> Inputs:
    """Two nodes stand for the two actions; neither a rejection nor a backup can be chosen."""
    batch = len(states)
    every = torch.ones(batch, 2, dtype=torch.bool)
    mask = torch.tensor([True, True, False]).expand(batch, 3)
    node = torch.eye(2).expand(batch, 2, 2)
    request = torch.as_tensor(states, dtype=torch.float32)
    return Inputs(node, request, every, mask, torch.zeros_like(every), torch.zeros(2, 2))


def test_ppo_solves_cart_pole() -> None:
    """The same network, buffer and update as for placement; 475 of 500 steps count as solved."""
    torch.manual_seed(0)
    made = PlacementNetwork(2, 4, 32, 1, 16)
    optimiser = torch.optim.Adam(made.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    config = PpoConfig(epochs=6, minibatch=256)
    mode = gym.vector.AutoresetMode.SAME_STEP
    env = gym.make_vec(
        "CartPole-v1", 16, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
    )
    states, _ = env.reset(seed=0)
    lengths, alive = [0.0], np.zeros(16)
    for _ in range(150):
        buffer = RolloutBuffer(64)
        for _ in range(64):
            inputs = cart_pole_inputs(states)
            chosen = made.act(inputs, generator)
            states, rewards, over, late, info = env.step(chosen.primary.numpy())
            cut = cart_pole_cut(made, late & ~over, info)
            buffer.add(inputs, chosen, rewards, 0.99 * ~over, cut)
            alive += 1
            lengths.extend(alive[over | late])
            alive[over | late] = 0
        if np.mean(lengths[-20:]) >= 475:
            break
        last = made.act(cart_pole_inputs(states), generator).value
        update(made, optimiser, buffer.finish(last, 0.95), config, 0.0, generator)
    assert np.mean(lengths[-20:]) >= 475


def cart_pole_cut(
    made: PlacementNetwork, late: np.ndarray, info: dict[str, Any]
) -> CutValues | None:
    """Episodes that the limit of 500 steps cut off, and what the network holds of where they were.

    The limit is no part of what is seen: nothing but the fall is an end.
    """
    if not late.any():
        return None
    states = np.zeros((len(late), 4), dtype=np.float32)
    states[late] = np.stack(info["final_obs"][late].tolist())
    return CutValues(late, made.act(cart_pole_inputs(states), None).value.numpy())
