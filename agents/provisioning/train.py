"""Trains what learns provisioning: the same judgement for every algorithm."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from agents.common.checkpoints import checkpoint_of
from agents.common.replay import PrioritisedReplay
from agents.common.trainer import Course, Learner, Progress, Trained, carry_through
from agents.learners import dqn, ppo
from agents.provisioning.config import DqnConfig, PpoConfig
from agents.provisioning.evaluation import score
from agents.provisioning.learning import ProvisioningWorld
from agents.provisioning.model import make_network, save_model, training_header
from agents.provisioning.network import row_width
from agents.provisioning.types import ACTIONS


@dataclass(frozen=True, slots=True)
class TrainReport(Trained):
    """What a training did, and with which seed."""

    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def learner_of(config: DqnConfig | PpoConfig, seed: int) -> Learner:
    """The learner that a config is of, at its beginning."""
    world = ProvisioningWorld(config, config.environments, seed)
    if isinstance(config, PpoConfig):
        network = make_network(config, seed)
        return ppo.Learner(network, [world], config, seed, config.rounds, torch.device("cpu"))
    width = row_width(config.streams.centres[1])
    kept = PrioritisedReplay(config.replay, width, ACTIONS, config.alpha, np.float16)
    values = dqn.Values(make_network(config, seed), make_network(config, seed), kept, config)
    return dqn.Learner(world, values, seed)


def train(
    config: DqnConfig | PpoConfig,
    out: Path,
    seed: int,
    progress: Progress,
    logs: Path | None = None,
    resume: bool = False,
) -> TrainReport:
    """Learn, and write the model that did best on the streams that choose it to `out`.

    See `agents.common.trainer.carry_through` for what resumes, and what is raised.
    """
    torch.set_num_threads(1)
    learner = learner_of(config, seed)

    def judge(network: nn.Module) -> dict[str, float]:
        return score(network, config, seed)  # type: ignore[arg-type]

    header = training_header(config, seed)
    course = Course(out, header, config.evaluate_every, config.checkpoint_every, resume, logs)
    done = carry_through(learner, judge, course, progress)
    save_model(out, learner.judged, config)  # type: ignore[arg-type]
    checkpoint_of(out).unlink()
    facts = {name: getattr(done, name) for name in Trained.__dataclass_fields__}
    return TrainReport(**facts, seed=seed)
