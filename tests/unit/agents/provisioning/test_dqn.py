"""The DQN on provisioning: what it is paid, what it attends to; it repeats and resumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.common.checkpoints import checkpoint_of
from agents.common.worlds import discounts
from agents.provisioning.batch import ProvisioningBatch
from agents.provisioning.config import DqnConfig
from agents.provisioning.evaluation import score
from agents.provisioning.generator import GeneratorConfig, draw_stream
from agents.provisioning.learning import ProvisioningWorld
from agents.provisioning.model import load_model, make_network, network_actor, save_model
from agents.provisioning.network import QNetwork, pack
from agents.provisioning.observation_columns import CENTRE
from agents.provisioning.train import train
from agents.provisioning.types import ACTIONS
from testbed.scenario.errors import InputError


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


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
        (dataclasses.replace(TINY, gamma=0.5), 1, "config.gamma 0.5, not 0.9"),
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


def test_a_q_network_gives_a_value_for_each_action() -> None:
    network = QNetwork(TINY.size)
    rows = torch.from_numpy(pack(observed().observe()))
    assert network(rows).shape == (4, ACTIONS)
