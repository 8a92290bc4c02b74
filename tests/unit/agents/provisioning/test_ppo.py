"""The same PPO as in placement learns provisioning: it repeats, resumes, and says how it goes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.common.checkpoints import checkpoint_of
from agents.common.rollout import Batch
from agents.common.worlds import Rows
from agents.learners.ppo import collect, explained_variance, imitation
from agents.provisioning.batch import ProvisioningBatch
from agents.provisioning.config import PpoConfig
from agents.provisioning.evaluation import score
from agents.provisioning.generator import GeneratorConfig, draw_stream
from agents.provisioning.heuristic import packing_heuristic
from agents.provisioning.learning import ProvisioningWorld
from agents.provisioning.model import load_model, make_network
from agents.provisioning.network import PolicyNetwork, pack
from agents.provisioning.train import train
from agents.provisioning.types import ACTIONS
from testbed.scenario.errors import InputError

TINY = PpoConfig(
    environments=4, rounds=6, steps=16, minibatch=32, epochs=2, evaluate_every=3,
    evaluation_streams=2, checkpoint_every=2, imitate=0.0,
    streams=GeneratorConfig(centres=(2, 3), arrival_steps=4),
)  # fmt: skip
TOLD = {
    "policy_loss", "value_loss", "entropy", "clipped_share", "approximate_kl", "explained_variance",
}  # fmt: skip


def silent(share: float, point: dict[str, float]) -> None:
    del share, point


class Interrupted(Exception):
    """Stands for what ends a process."""


def test_a_training_says_how_it_goes_and_gives_a_model_that_decides(tmp_path: Path) -> None:
    out = tmp_path / "ppo.pt"
    report = train(TINY, out, 1, silent)
    assert (report.rounds, report.decisions, len(report.curve)) == (6, 6 * 16 * 4, 6)
    assert set(report.curve[0]) >= TOLD
    assert [p["round"] for p in report.curve if "score" in p] == [2.0, 5.0]
    assert all(point["approximate_kl"] >= -1e-6 for point in report.curve)
    network = load_model(out, "ppo")
    assert score(network, TINY, 1)["score"] == pytest.approx(report.best_score)
    with pytest.raises(InputError, match="kind provisioning-dqn, not provisioning-ppo"):
        load_model(out)


def test_a_training_that_was_cut_off_goes_on_to_the_same_run(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.pt", tmp_path / "part.pt"
    expected = train(TINY, whole, 1, silent)

    def stop(share: float, point: dict[str, float]) -> None:
        if point["round"] == 4.0:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(TINY, part, 1, stop)
    assert checkpoint_of(part).is_file() and not part.exists()
    found = train(TINY, part, 1, silent, resume=True)
    assert found.curve == expected.curve
    one, two = load_model(whole, "ppo").state_dict(), load_model(part, "ppo").state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_only_valid_actions_are_drawn_and_evaluate_agrees_with_act() -> None:
    network = make_network(TINY, 3)
    assert isinstance(network, PolicyNetwork)
    torch.nn.init.normal_(network.policy.weight)  # it starts at 0, which would hide what is tested
    seen: Rows = ProvisioningWorld(TINY, 4, 1).observe()
    many = Rows(seen.rows.repeat(200, 1), seen.mask.repeat(200, 1))
    chosen = network.act(many, torch.Generator().manual_seed(0))
    assert many.mask[torch.arange(800), chosen.action[0]].all()
    log_probability, entropy, value = network.evaluate(many, *chosen.action)
    torch.testing.assert_close(log_probability, chosen.log_probability)
    torch.testing.assert_close(value, chosen.value)
    assert (entropy > 0).all() and (entropy <= math.log(many.mask.shape[1])).all()


def test_the_first_rounds_imitate_the_advice_and_the_others_do_not(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, imitate=0.5, rounds=4, evaluate_every=4)
    curve = train(config, tmp_path / "half.pt", 1, silent).curve
    assert [point["approximate_kl"] == 0.0 for point in curve] == [True, True, False, False]
    none = train(dataclasses.replace(config, imitate=0.0), tmp_path / "none.pt", 1, silent).curve
    assert all(point["approximate_kl"] != 0.0 for point in none)


def test_imitation_makes_the_advice_likely() -> None:
    network = make_network(TINY, 3)
    assert isinstance(network, PolicyNetwork)
    world, generator = ProvisioningWorld(TINY, 4, 1), torch.Generator().manual_seed(0)
    config = dataclasses.replace(TINY, steps=64, epochs=20)
    batch, _ = collect(network, world, config, generator, follow=True)
    advice = network.advice(batch.inputs.rows)
    first = torch.arange(4).repeat(64) < 2
    assert torch.equal(batch.action[0][first], advice[first])
    assert not torch.equal(batch.action[0][~first], advice[~first])
    before = network.evaluate(batch.inputs, advice)[0].mean()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    imitation(network, optimiser, batch, config, generator)
    assert network.evaluate(batch.inputs, advice)[0].mean() > 0.5 * before


def test_the_advice_is_what_the_packing_heuristic_does() -> None:
    network = make_network(TINY, 3)
    config = GeneratorConfig(centres=(2, 4), arrival_steps=12, load=(1.0, 6.0))
    batch = ProvisioningBatch([draw_stream(config, (5, i)) for i in range(6)])
    taken = set()
    while not batch.done.all():
        actions = packing_heuristic(batch)
        advice = network.advice(torch.from_numpy(pack(batch.observe()))).numpy()
        there = ~batch.done
        np.testing.assert_array_equal(advice[there], actions[there])
        taken |= set(actions[there].tolist())
        batch.step(actions)
    assert taken == set(range(ACTIONS))


def test_explained_variance_is_one_for_values_that_tell_all_and_zero_for_one_value() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0, 6.0])

    def of(values: torch.Tensor) -> float:
        none = torch.zeros(4)
        return explained_variance(Batch(None, (), none, returns - values, returns))

    assert of(returns) == pytest.approx(1.0)
    assert of(torch.full((4,), 3.0)) == pytest.approx(0.0)
    assert of(-returns) < 0.0
    assert np.isnan(explained_variance(Batch(None, (), returns, returns, torch.ones(4))))
