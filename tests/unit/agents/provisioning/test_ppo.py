"""The same PPO as in placement learns provisioning: it repeats, resumes, and says how it goes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.common.checkpoints import checkpoint_of
from agents.common.rollout import Batch
from agents.common.worlds import Rows
from agents.learners.ppo import explained_variance
from agents.provisioning.config import PpoConfig
from agents.provisioning.evaluation import score
from agents.provisioning.generator import GeneratorConfig
from agents.provisioning.learning import ProvisioningWorld
from agents.provisioning.model import load_model, make_network
from agents.provisioning.network import PolicyNetwork
from agents.provisioning.train import train
from testbed.scenario.errors import InputError

TINY = PpoConfig(
    environments=4, rounds=6, steps=16, minibatch=32, epochs=2, evaluate_every=3,
    evaluation_streams=2, checkpoint_every=2,
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


def test_explained_variance_is_one_for_values_that_tell_all_and_zero_for_one_value() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0, 6.0])

    def of(values: torch.Tensor) -> float:
        none = torch.zeros(4)
        return explained_variance(Batch(None, (), none, returns - values, returns))

    assert of(returns) == pytest.approx(1.0)
    assert of(torch.full((4,), 3.0)) == pytest.approx(0.0)
    assert of(-returns) < 0.0
    assert np.isnan(explained_variance(Batch(None, (), returns, returns, torch.ones(4))))
