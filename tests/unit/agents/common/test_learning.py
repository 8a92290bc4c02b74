"""The learning code on problems whose answer is known."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.common.gae import advantages
from agents.common.rollout import Batch, CutValues, RolloutBuffer, minibatches
from agents.common.worlds import each
from agents.learners.ppo import PpoConfig, update
from agents.placement.network import Decision, Inputs, PlacementNetwork


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # as in training: two are far slower where a core is busy


def test_gae_equals_a_computation_by_hand() -> None:
    rewards = np.array([[1.0], [0.0], [2.0]])
    values = np.array([[0.5], [1.0], [-1.0]])
    following = np.array([[1.0], [-1.0], [3.0]])
    ends = np.array([[False], [True], [False]])
    # gamma 0.9, lambda 0.5. Step 2: 2 + 0.9 * 3 - (-1) = 5.7. Step 1 ends: 0 - 1 = -1.
    # Step 0: delta 1 + 0.9 * 1 - 0.5 = 1.4, and 0.45 of the advantage after it: 1.4 - 0.45.
    found, target = advantages(rewards, values, following, 0.9 * ~ends, ends & False, 0.5)
    assert found[:, 0].tolist() == pytest.approx([0.95, -1.0, 5.7])
    assert target[:, 0].tolist() == pytest.approx([1.45, 0.0, 4.7])


def test_gae_goes_on_from_where_an_episode_was_cut_off() -> None:
    rewards = np.array([[1.0], [0.0], [2.0]])
    values = np.array([[0.5], [1.0], [-1.0]])
    following = np.array([[1.0], [4.0], [3.0]])  # cut off at a state worth 4, in the middle
    cut = np.array([[False], [True], [False]])
    # Step 1: 0 + 0.9 * 4 - 1 = 2.6, without step 2. Step 0: 1.4 + 0.45 * 2.6 = 2.57.
    found, target = advantages(rewards, values, following, np.full((3, 1), 0.9), cut, 0.5)
    assert found[:, 0].tolist() == pytest.approx([2.57, 2.6, 5.7])
    assert target[:, 0].tolist() == pytest.approx([3.07, 3.6, 4.7])


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


def test_a_limit_on_time_changes_no_value() -> None:
    """One state that pays 1 a step, for ever: worth 1 / (1 - 0.5), cut off every third step."""
    for lam in (0.0, 0.7, 1.0):
        value = 0.0
        for _ in range(60):
            worth = np.full((6, 1), value)
            cut = (np.arange(6) % 3 == 2)[:, None]
            _, target = advantages(np.ones((6, 1)), worth, worth, np.full((6, 1), 0.5), cut, lam)
            value = float(target.mean())
        assert value == pytest.approx(2.0, rel=1e-5)


def test_gae_with_lambda_one_is_the_discounted_return_less_the_value() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    last, never = rng.normal(size=3), np.zeros((5, 3), dtype=bool)
    following = np.concatenate([values[1:], last[None]])
    found, target = advantages(rewards, values, following, np.full((5, 3), 0.8), never, 1.0)
    returns = sum(0.8**t * rewards[t] for t in range(5)) + 0.8**5 * last
    np.testing.assert_allclose(target[0], returns, rtol=1e-6)
    np.testing.assert_allclose(found[0], returns - values[0], rtol=1e-5)


def random_inputs(batch: int, nodes: int, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    distance = torch.rand(nodes, nodes, generator=generator)
    return Inputs(
        node=torch.randn(batch, nodes, 4, generator=generator),
        request=torch.randn(batch, 3, generator=generator),
        alive=torch.rand(batch, nodes, generator=generator) < 0.9,
        primary_mask=torch.rand(batch, nodes + 1, generator=generator) < 0.8,
        backup_mask=torch.rand(batch, nodes, generator=generator) < 0.8,
        delay=distance + distance.T,
    )


def network(seed: int = 0) -> PlacementNetwork:
    torch.manual_seed(seed)
    made = PlacementNetwork(4, 3, 16, 2, 8)
    for head in (made.primary_score, made.backup_score, made.reject):
        torch.nn.init.normal_(head.weight)  # they start at 0, which would hide what is tested
    return made


def permuted(inputs: Inputs, order: torch.Tensor) -> Inputs:
    reject = inputs.primary_mask[:, -1:]
    return Inputs(
        inputs.node[:, order],
        inputs.request,
        inputs.alive[:, order],
        torch.cat([inputs.primary_mask[:, order], reject], dim=1),
        inputs.backup_mask[:, order],
        inputs.delay[order][:, order],
    )


@pytest.mark.parametrize("nodes", [3, 7, 20])
def test_numbering_the_nodes_differently_numbers_the_answers_differently(nodes: int) -> None:
    made, inputs = network(), random_inputs(9, nodes)
    order = torch.randperm(nodes, generator=torch.Generator().manual_seed(1))
    other = permuted(inputs, order)
    one, two = made.encode(inputs), made.encode(other)
    torch.testing.assert_close(one.context, two.context)
    first, first_p = made.primary_logits(inputs, one), made.primary_logits(other, two)
    torch.testing.assert_close(first[:, :-1][:, order], first_p[:, :-1])
    torch.testing.assert_close(first[:, -1], first_p[:, -1])
    primary_p = torch.arange(9) % nodes
    second, _ = made.backup_logits(inputs, one, order[primary_p])
    second_p, _ = made.backup_logits(other, two, primary_p)
    torch.testing.assert_close(second[:, order], second_p)
    assert first.std() > 0.1


def test_what_is_masked_is_never_chosen_and_the_backup_is_another_node() -> None:
    inputs = random_inputs(4000, 5)
    inputs.primary_mask[:, -1] = True
    chosen = network().act(inputs, torch.Generator().manual_seed(0))
    rows = torch.arange(4000)
    assert inputs.primary_mask[rows, chosen.primary].all()
    with_backup = chosen.backup >= 0
    assert inputs.backup_mask[rows, chosen.backup][with_backup].all()
    assert (chosen.backup != chosen.primary).all()
    assert (chosen.backup[chosen.primary == 5] == -1).all()
    assert with_backup.float().mean() > 0.5


def test_evaluate_gives_the_probability_with_which_act_chose() -> None:
    made, inputs = network(), random_inputs(50, 6)
    inputs.primary_mask[:, -1] = True
    chosen = made.act(inputs, torch.Generator().manual_seed(0))
    log_probability, entropy, value = made.evaluate(inputs, chosen.primary, chosen.backup)
    torch.testing.assert_close(log_probability, chosen.log_probability)
    torch.testing.assert_close(value, chosen.value)
    assert (entropy >= 0).all()


def test_drawing_follows_the_probabilities() -> None:
    made, inputs = network(), random_inputs(1, 4)
    inputs.primary_mask[:] = True
    expected = made.primary_logits(inputs, made.encode(inputs)).softmax(-1)[0]
    many = each(lambda column: column.expand(20_000, *column.shape[1:]), inputs)
    drawn = made.act(many, torch.Generator().manual_seed(0)).primary
    found = torch.bincount(drawn, minlength=5) / 20_000
    torch.testing.assert_close(found, expected.detach(), atol=0.015, rtol=0.0)


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
