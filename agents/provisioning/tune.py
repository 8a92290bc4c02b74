"""What a search for hyperparameters in provisioning is: a training in the paper's world a trial."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agents.common.hyperparameters import Between, OneOf, Space
from agents.common.tuning import Judged, Study, tune
from agents.provisioning.config import (
    BOUNDS,
    PPO_BOUNDS,
    DqnConfig,
    PpoConfig,
    read_config,
    read_ppo_config,
)
from agents.provisioning.train import train
from testbed.decisions.tuning_job import TrialNote, TuneReport, TuningJob

Learned = TypeVar("Learned", DqnConfig, PpoConfig)
_SHARED: Space = {
    "gamma": Between(0.5, 0.99),
    "learning_rate": Between(1e-4, 5e-3, log=True),
    "steps": OneOf((16, 32, 64, 128)),
}
DQN_SPACE: Space = {
    **_SHARED,
    "n_step": OneOf((1, 3, 5, 10)),
    "batch": OneOf((64, 128, 256, 512)),
    "updates": OneOf((8, 16, 32, 64)),
    "target_mix": Between(1e-3, 5e-2, log=True),
    "alpha": Between(0.0, 0.9),
}
PPO_SPACE: Space = {
    **_SHARED,
    "lam": Between(0.8, 0.98),
    "clip": Between(0.1, 0.3),
    "epochs": OneOf((1, 2, 3, 4)),
    "minibatch": OneOf((256, 512, 1024, 2048)),
    "entropy": Between(1e-4, 3e-2, log=True),
}
"""The default of each is in it. Not what an episode pays or is drawn from, by which configs are
compared."""


def tune_dqn(
    job: TuningJob, progress: Callable[[float], None], ended: Callable[[TrialNote], None]
) -> TuneReport:
    """See `testbed.decisions.tuning_job.Tune`; a cost is minus the reward a request."""
    start = DqnConfig() if job.config is None else read_config(job.config)
    study = Study("provisioning-dqn", start, DQN_SPACE, BOUNDS, _even(start), _learn(job), {})
    return tune(study, job, progress, ended)


def tune_ppo(
    job: TuningJob, progress: Callable[[float], None], ended: Callable[[TrialNote], None]
) -> TuneReport:
    """As `tune_dqn`."""
    start = PpoConfig() if job.config is None else read_ppo_config(job.config)
    study = Study("provisioning-ppo", start, PPO_SPACE, PPO_BOUNDS, _even(start), _learn(job), {})
    return tune(study, job, progress, ended)


def _even(base: Learned) -> Callable[[Learned], Learned]:
    """As many decisions in all, and between two judgements, as the base has."""

    def even(config: Learned) -> Learned:
        share = base.decisions_a_round / config.decisions_a_round
        return dataclasses.replace(
            config,
            rounds=max(1, round(base.rounds * share)),
            evaluate_every=max(1, round(base.evaluate_every * share)),
        )

    return even


def _learn(job: TuningJob) -> Callable[[Learned, Judged, Callable[[float], None]], float]:
    seed = job.scenario.problem.training.seed

    def learn(config: Learned, judged: Judged, progress: Callable[[float], None]) -> float:
        judgements = 0

        def tell(share: float, point: dict[str, float]) -> None:
            nonlocal judgements
            progress(share)
            if "score" in point:
                judgements += 1
                judged(judgements, -point["score"])

        with tempfile.TemporaryDirectory() as folder:
            report = train(config, Path(folder) / "trial.pt", seed=seed, progress=tell)
        return -report.best_score

    return learn
