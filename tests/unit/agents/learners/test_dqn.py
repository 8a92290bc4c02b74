"""The DQN on problems whose answer is known."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from agents.common.replay import NStep, PrioritisedReplay
from agents.common.worlds import Cut, Outcome, Rows
from agents.learners.dqn import (
    DqnConfig,
    Dueling,
    Values,
    collect,
    exploration_of,
    explore,
    imitation_loss,
    learn,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def shows(rows: Any, mask: Any) -> Rows:
    return Rows(torch.from_numpy(rows), torch.from_numpy(mask))


class Identity:
    """Say the number that is shown; one step is an episode. Number 0 may not be said."""

    def __init__(self, count: int, numbers: int) -> None:
        self._rng = np.random.default_rng(0)
        self._count, self._numbers = count, numbers
        self._shown = self._rng.integers(1, numbers, count)

    def observe(self) -> Rows:
        mask = np.ones((self._count, self._numbers), dtype=bool)
        mask[:, 0] = False
        return shows(np.eye(self._numbers, dtype=np.float32)[self._shown], mask)

    def step(self, action: Any) -> Outcome:
        reward = (action[0].numpy() == self._shown).astype(np.float64)
        self._shown = self._rng.integers(1, self._numbers, self._count)
        return Outcome(reward, np.ones(self._count, dtype=bool))


class CartPole:
    """Gymnasium's, without its limit on time, so that an end is always a fall."""

    def __init__(self, count: int) -> None:
        self._environments = [
            gym.make("CartPole-v1", max_episode_steps=10**9) for _ in range(count)
        ]
        self._rows = np.stack([e.reset(seed=i)[0] for i, e in enumerate(self._environments)])

    def observe(self) -> Rows:
        return shows(self._rows.copy(), np.ones((len(self._rows), 2), dtype=bool))

    def step(self, action: Any) -> Outcome:
        actions = action[0].numpy()
        done = np.zeros(len(actions), dtype=bool)
        for i, environment in enumerate(self._environments):
            self._rows[i], _, done[i], _, _ = environment.step(int(actions[i]))
            if done[i]:
                self._rows[i], _ = environment.reset()
        # A tenth a step: values of about 10, as the learner is made for.
        return Outcome(np.full(len(actions), 0.1), done)


class Pays:
    """One state that pays 1 a step for ever, seen as 1; every third step an episode is cut off.

    What a next episode begins with is seen as 2, and ends at once for nothing.
    """

    environments = 2

    def __init__(self) -> None:
        self._age = np.array([0, 1])

    def observe(self) -> Rows:
        shown = np.where(self._age[:, None] == 0, 2.0, 1.0)
        return shows(shown.astype(np.float32), np.ones((2, 1), dtype=bool))

    def step(self, action: Any) -> Outcome:
        at_once, late = self._age == 0, self._age == 3
        self._age = np.where(late, 0, self._age + 1)
        reward = np.where(at_once, 0.0, 1.0)
        there = shows(np.ones((2, 1), dtype=np.float32), np.ones((2, 1), dtype=bool))
        return Outcome(reward, at_once, cut=Cut(late, there))


def test_a_limit_on_time_changes_no_value() -> None:
    config = DqnConfig(
        environments=2, rounds=80, steps=8, updates=8, batch=32, warm_up=64, n_step=3,
        learning_rate=3e-3, target_mix=0.1, phases=((1.0, 0.0),), gamma=0.5,
    )  # fmt: skip
    learner = small_learner(1, 1, config)
    run_rounds(Pays(), learner)
    with torch.no_grad():
        values = learner.network(torch.tensor([[1.0], [2.0]])).squeeze(1)
    # 1 / (1 - 0.5); taken for ends, cuts would leave 1.75 of it, and less in their neighbours.
    torch.testing.assert_close(values, torch.tensor([2.0, 0.0]), atol=0.05, rtol=0.0)


def small_learner(width: int, actions: int, config: DqnConfig) -> Values:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
            Dueling(64, actions, config.dueling),
        )  # fmt: skip

    replay = PrioritisedReplay(config.replay, width, actions, config.alpha)
    return Values(network(), network(), replay, config)


def run_rounds(problem: Any, learner: Values) -> torch.Generator:
    config, generator = learner.config, torch.Generator().manual_seed(0)
    steps = NStep(config.n_step)
    for number in range(config.rounds):
        share = number / config.rounds
        collect(problem, learner, steps, exploration_of(config, share), generator)
        learn(learner, share, generator)
    return generator


@pytest.mark.parametrize("double", [True, False])
def test_it_learns_to_say_what_it_sees(double: bool) -> None:
    config = DqnConfig(
        environments=16, rounds=60, steps=8, updates=8, batch=64, warm_up=256, n_step=1,
        learning_rate=3e-3, double=double, dueling=double,
    )  # fmt: skip
    learner = small_learner(6, 6, config)
    problem = Identity(16, 6)
    run_rounds(problem, learner)
    with torch.no_grad():
        values = learner.network(torch.eye(6)[1:])
    best = values[:, 1:].argmax(1) + 1
    assert best.tolist() == [1, 2, 3, 4, 5]
    right = values[torch.arange(5), torch.arange(1, 6)]
    torch.testing.assert_close(right, torch.ones(5), atol=0.1, rtol=0.0)


CARTPOLE = DqnConfig(
    gamma=0.99,
    n_step=3,
    environments=8,
    rounds=1200,
    steps=16,
    updates=16,
    batch=64,
    learning_rate=5e-4,
    replay=50_000,
    warm_up=1_000,
    target_mix=0.02,
    phases=((0.05, 1.0), (0.15, 0.3), (0.8, 0.1)),
    exploration_spread=1.0,
    evaluate_every=20,
)


def cartpole_length(network: nn.Module, seeds: range) -> float:
    """Mean steps, 500 at most, that the policy without exploration holds the pole."""
    environment, steps = gym.make("CartPole-v1"), 0
    for seed in seeds:
        row, _ = environment.reset(seed=seed)
        over = False
        while not over:
            with torch.no_grad():
                action = int(network(torch.from_numpy(row)[None]).argmax())
            row, _, fell, late, _ = environment.step(action)
            over, steps = fell or late, steps + 1
    return steps / len(seeds)


def solve_cartpole(seed: int) -> tuple[nn.Module, int]:
    """The network that did best on 30 episodes after some rounds, and decisions until then."""
    learner, generator = small_learner(4, 2, CARTPOLE), torch.Generator().manual_seed(seed)
    problem: Any = CartPole(8)
    steps, best = NStep(CARTPOLE.n_step), (-1.0, 0)
    kept = copy.deepcopy(learner.network)
    for number in range(1, CARTPOLE.rounds + 1):
        share = number / CARTPOLE.rounds
        collect(problem, learner, steps, exploration_of(CARTPOLE, share), generator)
        learn(learner, share, generator)
        if number % CARTPOLE.evaluate_every == 0:
            length = cartpole_length(learner.target, range(20_000, 20_030))
            if length > best[0]:
                best, kept = (length, number * 16 * 8), copy.deepcopy(learner.target)
            if length == 500.0:
                break
    return kept, best[1]


@pytest.mark.slow
def test_it_solves_cartpole() -> None:
    network, _ = solve_cartpole(0)
    # Gymnasium's threshold for CartPole-v1, on episodes that chose nothing.
    assert cartpole_length(network, range(10_000, 10_030)) >= 475.0


def test_double_learning_takes_the_targets_value_of_the_networks_choice() -> None:
    config = DqnConfig(double=True)
    learner = small_learner(1, 3, config)

    class Fixed(nn.Module):
        def __init__(self, values: list[float]) -> None:
            super().__init__()
            self.values = torch.tensor(values)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.values.expand(len(rows), -1)

    learner.network, learner.target = Fixed([1.0, 2.0, 9.0]), Fixed([10.0, 20.0, 30.0])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    reward, discount = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.0])
    found = learner._targets(torch.zeros(3, 1), mask, reward, discount)
    assert found.tolist() == [16.0, 11.0, 1.0]  # a shape [3], not [3, 3]


def test_an_update_moves_priorities_and_weighs_by_importance() -> None:
    config = DqnConfig(environments=4, steps=8, batch=8, warm_up=1, n_step=1)
    learner = small_learner(6, 6, config)
    problem: Any = Identity(4, 6)
    generator = torch.Generator().manual_seed(0)
    collect(problem, learner, NStep(1), np.ones(4), generator)
    before = learner.replay.state()["priority"]
    learner.update(np.full(8, 0.5), 1.0)
    after = learner.replay.state()["priority"]
    assert isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)
    assert (before != after).sum() == 8
    drawn = learner.replay.sample(np.linspace(0, 0.99, 8), 1.0)
    assert drawn.weight.min() < drawn.weight.max() == 1.0


def test_exploration_takes_valid_actions_alone() -> None:
    mask = np.zeros((500, 4), dtype=bool)
    mask[:, [1, 3]] = True
    network = nn.Linear(2, 4)
    generator = torch.Generator().manual_seed(0)
    rows = np.zeros((500, 2), dtype=np.float32)
    drawn = explore(network, shows(rows, mask), np.ones(500), generator)
    assert set(drawn.tolist()) == {1, 3}
    assert len(set(explore(network, shows(rows, mask), np.zeros(500), generator).tolist())) == 1


def test_exploration_goes_through_its_phases() -> None:
    phases = ((1 / 7, 1.0), (2 / 7, 0.8), (2 / 7, 0.5), (2 / 7, 0.2))
    config = DqnConfig(environments=3, phases=phases)
    first = [
        float(exploration_of(config, number / 350)[0]) for number in (0, 49, 50, 149, 150, 250, 349)
    ]
    assert first == [1.0, 1.0, 0.8, 0.8, 0.5, 0.2, 0.2]
    assert exploration_of(config, 0.2).tolist() == pytest.approx([0.8, 0.8**4.5, 0.8**8])


class Advised(nn.Module):
    """Values all actions alike, or as it has learned to, and advises the last one."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.values = nn.Linear(1, actions)
        nn.init.zeros_(self.values.weight)
        nn.init.zeros_(self.values.bias)
        self.actions = actions

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.values(rows)
        return values

    def advice(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.full((len(rows),), self.actions - 1)


def test_the_imitation_loss_is_what_keeps_the_advice_from_a_margin_above_the_rest() -> None:
    values = torch.tensor([[0.0, 0.3, 0.2], [0.0, 0.1, 0.9]])
    advice = torch.tensor([2, 2])
    # 0.3 + 0.5 - 0.2 in the first row; in the second the advice is far above the others.
    assert float(imitation_loss(values, advice, 0.5)) == pytest.approx(0.3)
    assert float(imitation_loss(values, torch.tensor([1, 2]), 0.0)) == 0.0


def test_what_explores_follows_advice_that_is_valid() -> None:
    network, generator = Advised(4), torch.Generator().manual_seed(0)
    mask = np.ones((1000, 4), dtype=bool)
    mask[:500, 3] = False
    seen, always = shows(np.ones((1000, 1), np.float32), mask), np.ones(1000)
    followed = explore(network, seen, always, generator, follow=1.0)
    assert (followed[500:] == 3).all() and (followed[:500] < 3).all()
    half = explore(network, seen, always, generator, follow=0.5)
    assert 0.55 < float((half[500:] == 3).double().mean()) < 0.7  # 1/2 + 1/2 of 1/4
    assert (explore(network, seen, np.zeros(1000), generator, follow=1.0) == 0).all()


def test_a_network_that_knows_nothing_learns_its_advice() -> None:
    config = DqnConfig(
        environments=2, rounds=4, steps=8, updates=30, batch=16, warm_up=4, replay=64,
        imitate=1.0, margin=0.2, learning_rate=1e-2,
    )  # fmt: skip
    replay = PrioritisedReplay(config.replay, 1, 4, config.alpha)
    learner = Values(Advised(4), Advised(4), replay, config)
    problem: Any = Constant()
    collect(problem, learner, NStep(1), np.ones(2), torch.Generator().manual_seed(0))
    learn(learner, 0.0, torch.Generator().manual_seed(0))
    assert int(learner.network(torch.ones(1, 1)).argmax()) == 3
    plain = Values(Advised(4), Advised(4), replay, dataclasses.replace(config, imitate=0.0))
    learn(plain, 0.0, torch.Generator().manual_seed(0))
    spread = plain.network(torch.ones(1, 1)).detach()
    assert float(spread.max() - spread.min()) < 0.1


class Constant:
    """One state; no action pays, and each ends the episode."""

    environments = 2

    def observe(self) -> Rows:
        return shows(np.ones((2, 1), dtype=np.float32), np.ones((2, 4), dtype=bool))

    def step(self, action: Any) -> Outcome:
        return Outcome(np.zeros(2), np.ones(2, dtype=bool))
