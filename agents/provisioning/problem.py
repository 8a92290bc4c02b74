"""Provisioning as the testbed meets it: what a data centre installs, in the world of its paper.

On the emulated network its policy is asked as a placement policy (`agents/placement/dqn_policy`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agents.provisioning.sweep import CONTEST, sweep_of
from testbed.decisions.problem import Evaluation, MakePolicy, Problem, TrainingJob
from testbed.decisions.tuning_job import TrialNote, TuneReport, TuningJob
from testbed.scenario.errors import InputError
from testbed.twin.calibration import DEFAULTS

if TYPE_CHECKING:
    from agents.provisioning.config import DqnConfig, PpoConfig


def train_dqn(job: TrainingJob, progress: Callable[[float], None]) -> dict[str, Any]:
    """Train `dqn`: of the scenario it has the seed; see `testbed.decisions.problem.Train`."""
    from agents.provisioning.config import DqnConfig, read_config

    return _train(
        job, "dqn", DqnConfig() if job.config is None else read_config(job.config), progress
    )


def train_ppo(job: TrainingJob, progress: Callable[[float], None]) -> dict[str, Any]:
    """Train `ppo`, as `train_dqn` does."""
    from agents.provisioning.config import PpoConfig, read_ppo_config

    config = PpoConfig() if job.config is None else read_ppo_config(job.config)
    return _train(job, "ppo", config, progress)


def _train(
    job: TrainingJob,
    algorithm: str,
    config: DqnConfig | PpoConfig,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    from agents.provisioning.train import train

    told = f"none: {algorithm} learns provisioning in its paper's world"
    further = [scenario.name for scenario in job.scenarios[1:]]
    if further:
        raise InputError("--topologies", further, told)
    if job.calibration != DEFAULTS:
        raise InputError("--calibration", "given", told)
    if job.decisions is not None:
        rounds = -(-job.decisions // config.decisions_a_round)
        config = dataclasses.replace(config, rounds=rounds)
    report = train(
        config,
        job.out,
        seed=job.scenarios[0].problem.training.seed,
        progress=lambda done, _: progress(done),
        logs=job.logs,
        resume=job.resume,
    )
    return report.as_dict()


def tune_dqn(
    job: TuningJob, progress: Callable[[float], None], ended: Callable[[TrialNote], None]
) -> TuneReport:
    """Search hyperparameters of `dqn`; see `testbed.decisions.tuning_job.Tune`."""
    from agents.provisioning.tune import tune_dqn as search

    return search(job, progress, ended)


def tune_ppo(
    job: TuningJob, progress: Callable[[float], None], ended: Callable[[TrialNote], None]
) -> TuneReport:
    """Search hyperparameters of `ppo`, as `tune_dqn` does."""
    from agents.provisioning.tune import tune_ppo as search

    return search(job, progress, ended)


def provisioning(make_policy: MakePolicy) -> Problem:
    """The problem; `make_policy` makes what decides on the emulated network."""
    return Problem(
        name="provisioning",
        trainers={"dqn": train_dqn, "ppo": train_ppo},
        tuners={"dqn": tune_dqn, "ppo": tune_ppo},
        algorithms=("dqn", "ppo"),
        on_twin=frozenset(),
        calibrated=frozenset(),
        make_policy=make_policy,
        evaluation=Evaluation(CONTEST, sweep_of),
        served=lambda policy, model, folder: model,
    )
