"""A rollout's buffer: cuts and ends, and minibatches that hold all of it."""

from __future__ import annotations

import numpy as np
import torch

from agents.common.rollout import Batch, CutValues, RolloutBuffer, minibatches
from agents.placement.network import Decision
from tests.support.placement_inputs import random_inputs


def kept(
    values: list[list[float]], cuts: dict[int, CutValues], ends: dict[int, list[bool]]
) -> Batch:
    """Two environments, reward 1 a step; a buffer with what its states were worth."""
    buffer = RolloutBuffer(len(values))
    for step, worth in enumerate(values):
        none = torch.zeros(2, dtype=torch.int64)
        decision = Decision(none, none, torch.zeros(2), torch.tensor(worth))
        over = np.array(ends.get(step, [False, False]))
        buffer.add(random_inputs(2, 3, step), decision, np.ones(2), 0.5 * ~over, cuts.get(step))
    return buffer.finish(torch.tensor([10.0, 20.0]), 0.5)


def test_a_rollout_keeps_cuts_apart_from_ends_in_its_middle_and_at_its_end() -> None:
    middle = CutValues(np.array([True, False]), np.array([8.0, np.nan]))
    end = CutValues(np.array([True, False]), np.array([6.0, np.nan]))
    values = [[2.0, 2.0], [4.0, 4.0], [6.0, 6.0]]
    batch = kept(values, {1: middle, 2: end}, {1: [False, True]})
    # Environment 0: step 2 is cut at a state worth 6; 10 is where the next episode begins:
    # 1 + 3 - 6 = -2. Step 1 is cut at 8: 1 + 4 - 4 = 1. Step 0: 1 + 2 - 2 + 0.25 * 1 = 1.25.
    # Environment 1: 1 + 10 - 6 = 5; step 1 ends: 1 - 4 = -3; step 0: 1 + 2 - 2 - 0.75 = 0.25.
    found = batch.advantage.view(3, 2)
    assert found.tolist() == [[1.25, 0.25], [1.0, -3.0], [-2.0, 5.0]]
    assert batch.value_target.view(3, 2).tolist() == [[3.25, 2.25], [5.0, 1.0], [4.0, 11.0]]


def test_minibatches_hold_every_decision_once() -> None:
    buffer = RolloutBuffer(4)
    for step in range(4):
        inputs = random_inputs(3, 5, step)
        numbers = torch.arange(3) + 3 * step
        zeros = torch.zeros(3)
        decision = Decision(numbers, numbers, zeros, zeros)
        buffer.add(inputs, decision, numbers.double().numpy(), np.zeros(3))
    batch = buffer.finish(torch.zeros(3), 0.9)
    assert batch.action[0].tolist() == list(range(12))
    assert batch.advantage.tolist() == list(range(12))  # each step ends an episode of value 0
    parts = list(minibatches(batch, 4, torch.Generator().manual_seed(0)))
    found = torch.cat([part.action[0] for part in parts])
    assert sorted(found.tolist()) == list(range(12))
    assert found.tolist() != list(range(12))
    for part in parts:
        torch.testing.assert_close(part.advantage, part.action[0].float())
