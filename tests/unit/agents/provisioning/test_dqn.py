"""The DQN on problems whose answer is known, and on provisioning: learns, repeats, resumes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from agents.common.checkpoints import checkpoint_of
from agents.common.replay import NStep, PrioritisedReplay
from agents.common.worlds import Cut, Outcome, Rows, discounts
from agents.learners.dqn import Dueling, Values, collect, exploration_of, explore, learn
from agents.provisioning.batch import ProvisioningBatch
from agents.provisioning.config import DqnConfig
from agents.provisioning.evaluation import compare, score
from agents.provisioning.generator import GeneratorConfig, draw_stream
from agents.provisioning.learning import ProvisioningWorld
from agents.provisioning.model import load_model, make_network, network_actor, save_model
from agents.provisioning.network import QNetwork, pack
from agents.provisioning.observe import CENTRE
from agents.provisioning.train import train
from agents.provisioning.types import ACTIONS
from testbed.scenario.errors import InputError


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


def test_exploration_goes_through_the_seeds_phases() -> None:
    config = DqnConfig(environments=3)
    first = [
        float(exploration_of(config, number / 350)[0]) for number in (0, 49, 50, 149, 150, 250, 349)
    ]
    assert first == [1.0, 1.0, 0.8, 0.8, 0.5, 0.2, 0.2]
    assert exploration_of(config, 0.2).tolist() == pytest.approx([0.8, 0.8**4.5, 0.8**8])


TINY = DqnConfig(
    environments=3, rounds=8, steps=8, updates=2, batch=16, warm_up=40, replay=500, n_step=3,
    evaluate_every=4, evaluation_streams=2, checkpoint_every=3,
    streams=GeneratorConfig(centres=(2, 3), arrival_steps=4),
)  # fmt: skip


def silent(share: float, point: dict[str, float]) -> None:
    del share, point


def observed(config: GeneratorConfig = TINY.streams, count: int = 4) -> ProvisioningBatch:
    return ProvisioningBatch([draw_stream(config, (9, i)) for i in range(count)])


def any_valid(world: ProvisioningWorld, rng: np.random.Generator) -> tuple[torch.Tensor]:
    """A valid action of the one episode, drawn."""
    mask = world.observe().mask[0].numpy()
    return (torch.tensor([rng.choice(np.flatnonzero(mask))]),)


def test_rewards_paid_early_sum_to_the_same_over_an_episode() -> None:
    sums = []
    for early in (True, False):
        config = dataclasses.replace(TINY, environments=1, early=early, gamma=0.5)
        world, rng, total = ProvisioningWorld(config, 1, 4), np.random.default_rng(0), 0.0
        steps = 0
        while True:
            outcome = world.step(any_valid(world, rng))
            total, steps = total + float(outcome.reward[0]), steps + 1
            if outcome.terminated[0]:
                break
            assert outcome.elapsed is not None and outcome.elapsed[0] in np.arange(200)
        sums.append((total, steps))
    assert sums[0][1] == sums[1][1] > 50
    assert sums[0][0] == pytest.approx(sums[1][0])
    assert sums[0][0] != 0.0


def test_paid_early_with_the_learners_discount_the_discounted_sum_is_the_same() -> None:
    """As for placement: shaping then adds nothing to what is optimised, whatever is decided."""
    sums = []
    for early in (True, False):
        config = dataclasses.replace(
            TINY, environments=1, early=early, gamma=0.9, potential_discount=0.9
        )
        world, rng, total, weight = (
            ProvisioningWorld(config, 1, 4),
            np.random.default_rng(0),
            0.0,
            1.0,
        )
        while weight > 0.0:
            outcome = world.step(any_valid(world, rng))
            total += weight * outcome.reward[0]
            weight *= discounts(outcome, 0.9)[0]
        sums.append(total)
    assert sums[0] == pytest.approx(sums[1])
    assert sums[0] != 0.0


def test_the_order_of_the_data_centres_and_room_for_more_change_no_value() -> None:
    batch = observed(GeneratorConfig(centres=(4, 4)))
    seen = batch.observe()
    network = make_network(TINY, 0)
    order = np.array([2, 0, 3, 1])
    other = seen._replace(centres=seen.centres[:, order], present=seen.present[:, order])
    room = seen._replace(
        centres=np.concatenate([seen.centres, np.ones((4, 3, CENTRE), np.float32)], axis=1),
        present=np.concatenate([seen.present, np.zeros((4, 3), bool)], axis=1),
    )
    with torch.no_grad():
        one, two, three = (network(torch.from_numpy(pack(x))) for x in (seen, other, room))
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one, three)


def test_every_part_and_every_data_centre_is_attended_to() -> None:
    batch = observed()
    rows = torch.from_numpy(pack(batch.observe())).requires_grad_()
    make_network(TINY, 0)(rows)[:, 0].sum().backward()
    gradient = rows.grad
    assert gradient is not None
    seen = batch.observe()
    sizes = [part[0].size for part in (seen.own, seen.underway, seen.pending, seen.centres)]
    for part in torch.split(gradient[:, : sum(sizes)], sizes, dim=1):
        assert (part != 0.0).any(dim=1).all()
    centres = gradient[:, sum(sizes[:3]) : sum(sizes)].reshape(*seen.centres.shape)
    assert torch.equal((centres != 0.0).any(-1), torch.from_numpy(seen.present))


def test_the_same_seed_gives_the_same_model_and_another_one_does_not(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.pt", "b.pt", "c.pt")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        train(TINY, path, seed, silent)
    one, two, three = (load_model(path).state_dict() for path in paths)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], three[name]) for name in one)


def test_a_training_that_was_interrupted_goes_on_to_the_same_run(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    expected = train(TINY, whole, 1, silent)
    assert not checkpoint_of(whole).exists()
    for number in range(TINY.rounds):
        part = tmp_path / f"part-{number}.pt"
        with pytest.raises(Interrupted):
            train(TINY, part, 1, stop_after(number))
        # Rounds 3, 6 and 8 leave a checkpoint; before, there is nothing to go on from.
        assert not part.exists()
        assert checkpoint_of(part).exists() == (number >= 2)
        found = train(TINY, part, 1, silent, resume=True)
        assert found.curve == expected.curve
        assert (found.best_round, found.best_score) == (expected.best_round, expected.best_score)
        assert not checkpoint_of(part).exists()
        one, two = load_model(whole).state_dict(), load_model(part).state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)


class Interrupted(Exception):
    """Stands for what ends a process."""


def stop_after(number: int) -> Callable[[float, dict[str, float]], None]:
    def stop(share: float, point: dict[str, float]) -> None:
        if point["round"] == number:
            raise Interrupted

    return stop


def test_a_resumed_curve_hides_no_point_of_the_earlier_one(tmp_path: Path) -> None:
    out, logs = tmp_path / "a.pt", tmp_path / "logs"
    with pytest.raises(Interrupted):
        train(TINY, out, 1, stop_after(6), logs=logs)  # the checkpoint is of round 5
    report = train(TINY, out, 1, silent, logs=logs, resume=True)
    each = TINY.steps * TINY.environments
    assert steps_shown(logs, "reward") == [each * (n + 1) for n in range(TINY.rounds)]
    assert steps_shown(logs, "score") == [4 * each, 8 * each]
    assert report.curve[3]["score"] == pytest.approx(values_shown(logs, "score")[0])
    train(TINY, tmp_path / "b.pt", 2, silent, logs=logs)
    assert steps_shown(logs, "reward") == [each * (n + 1) for n in range(TINY.rounds)], "one alone"


def shown(folder: Path, name: str) -> list[Any]:
    """The points of a curve as TensorBoard shows them."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return list(accumulator.Scalars(name))


def steps_shown(folder: Path, name: str) -> list[int]:
    return [point.step for point in shown(folder, name)]


def values_shown(folder: Path, name: str) -> list[float]:
    return [float(point.value) for point in shown(folder, name)]


def test_a_checkpoint_is_neither_mixed_with_another_nor_written_over(tmp_path: Path) -> None:
    out = tmp_path / "a.pt"
    with pytest.raises(Interrupted):
        train(TINY, out, 1, stop_after(6))
    for other, seed, told in (
        (dataclasses.replace(TINY, gamma=0.5), 1, "config.gamma 0.5, not 0.75"),
        (TINY, 2, "seed 2, not 1"),
    ):
        with pytest.raises(InputError) as caught:
            train(other, out, seed, silent, resume=True)
        assert (caught.value.field, caught.value.value) == ("resume", str(checkpoint_of(out)))
        assert told in caught.value.expected
    with pytest.raises(InputError, match="--resume, or another --out"):
        train(TINY, out, 1, silent)


def test_a_training_that_never_learns_is_refused() -> None:
    with pytest.raises(InputError, match="so many transitions") as caught:
        dataclasses.replace(TINY, rounds=2, warm_up=43)
    assert caught.value.field == "warm_up"
    dataclasses.replace(TINY, rounds=2, warm_up=42)  # 3 environments, 16 steps, the last 2 open


def test_a_model_comes_back_from_its_file_and_nothing_else_does(tmp_path: Path) -> None:
    network = make_network(TINY, 3)
    save_model(tmp_path / "m.pt", network, TINY)
    batch = observed()
    assert (
        network_actor(network)(batch).tolist()
        == network_actor(load_model(tmp_path / "m.pt"))(batch).tolist()
    )
    (tmp_path / "other.pt").write_bytes(b"no model")
    for path in (None, tmp_path / "none.pt", tmp_path / "other.pt"):
        with pytest.raises(InputError, match="model"):
            load_model(path)


def test_the_evaluation_of_a_training_can_be_repeated() -> None:
    network = make_network(TINY, 0)
    first = score(network, TINY, 1)
    assert first == score(network, TINY, 1)
    assert 0.0 <= first["acceptance"] <= 1.0


def test_a_comparison_gives_both_policies_their_change_and_the_bound() -> None:
    network = make_network(TINY, 0)
    found = compare(network, (1,), 6, (2, 9), arrival_steps=4)
    assert found == compare(network, (1,), 6, (2, 9), arrival_steps=4)
    for one in found:
        assert one.streams == 6
        ours, theirs = (one.dqn["acceptance"].value, one.heuristic["acceptance"].value)
        assert one.bound is not None and ours is not None and theirs is not None
        assert theirs <= one.bound
        change = one.change["acceptance"]
        assert change.value is not None and change.low is not None and change.high is not None
        assert change.value == pytest.approx(ours / theirs - 1.0)
        assert change.low <= change.value <= change.high
        assert set(one.change) == set(one.dqn)


def test_a_q_network_gives_a_value_for_each_action() -> None:
    network = QNetwork(TINY.size)
    rows = torch.from_numpy(pack(observed().observe()))
    assert network(rows).shape == (4, ACTIONS)
