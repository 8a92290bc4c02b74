"""Trains a policy with a progress bar."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from testbed.calibration.calibrate import DEFAULTS, Chosen
from testbed.cli.screens.summary import progress_bar
from testbed.scenario.errors import InputError
from testbed.scenario.model import Scenario
from testbed.scenario.modelled import require_modelled, words_left_out

Progress = Callable[[float], None]
ALGORITHMS = {"placement": "ppo", "provisioning": "dqn"}
"""The algorithm that learns each problem."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What is trained: on the twin of `scenarios`, into the file `out`.

    `decisions` are the scenario's, or the config's, where they are None; `logs` is a folder for
    TensorBoard, `config` a file with hyperparameters, `calibration` the host's constants for `ppo`.
    With `resume` a training that was cut off goes on.
    """

    scenarios: tuple[Scenario, ...]
    out: Path
    decisions: int | None = None
    logs: Path | None = None
    resume: bool = False
    config: Path | None = None
    calibration: Chosen = DEFAULTS


def algorithm_for(problem: str | None, algorithm: str | None) -> str:
    """The algorithm that is meant: by its name, by its problem, by both if they fit, or `ppo`.

    Raises InputError for an unknown name, and for an algorithm that learns another problem.
    """
    if problem is not None and problem not in ALGORITHMS:
        raise InputError("--problem", problem, f"one of {', '.join(ALGORITHMS)}")
    if algorithm is not None and algorithm not in ALGORITHMS.values():
        raise InputError("--algorithm", algorithm, f"one of {', '.join(ALGORITHMS.values())}")
    fitting = ALGORITHMS[problem or "placement"]
    if problem is not None and algorithm not in (None, fitting):
        raise InputError("--algorithm", algorithm, f"{fitting}, which learns {problem}")
    return algorithm or fitting


def train_policy(algorithm: str, job: TrainingJob, console: Console) -> dict[str, Any]:
    """Train `algorithm`; facts about the training, as for JSON.

    Raises InputError for a wrong config, or for what plays no part with the algorithm.
    """
    with progress_bar(console) as bar:
        task = bar.add_task(f"training {algorithm}", total=1.0)
        return run_training(algorithm, job, lambda done: bar.update(task, completed=done))


def run_training(algorithm: str, job: TrainingJob, progress: Progress) -> dict[str, Any]:
    """`train_policy` where somebody else shows the progress (a share of 1)."""
    return {"ppo": _train_ppo, "dqn": _train_dqn}[algorithm](job, progress)


def _train_ppo(job: TrainingJob, progress: Progress) -> dict[str, Any]:
    from agents.placement.config import read_config
    from agents.placement.train import train

    for scenario in job.scenarios:
        require_modelled(scenario)
    spec = job.scenarios[0].training
    report = train(
        job.scenarios,
        job.out,
        decisions=job.decisions or spec.decisions,
        environments=spec.environments,
        seed=spec.seed,
        progress=lambda done, _: progress(done),
        config=None if job.config is None else read_config(job.config),
        logs=job.logs,
        resume=job.resume,
        calibration=job.calibration.calibration,
    )
    told = {
        "left_out": words_left_out(job.scenarios),
        "calibration": job.calibration.identity(),
    }
    return {**report.as_dict(), **told}


def _train_dqn(job: TrainingJob, progress: Progress) -> dict[str, Any]:
    from agents.provisioning.config import DqnConfig, read_config
    from agents.provisioning.dqn import train

    # It learns in the world of its paper; of the scenario it has the seed.
    further = [scenario.name for scenario in job.scenarios[1:]]
    if further:
        raise InputError("--topologies", further, "ppo: dqn learns in its paper's world")
    if job.calibration != DEFAULTS:
        raise InputError("--calibration", "given", "ppo: dqn learns in its paper's world")
    config = DqnConfig() if job.config is None else read_config(job.config)
    if job.decisions is not None:
        rounds = -(-job.decisions // config.decisions_a_round)
        config = dataclasses.replace(config, rounds=rounds)
    report = train(
        config,
        job.out,
        seed=job.scenarios[0].training.seed,
        progress=lambda done, _: progress(done),
        logs=job.logs,
        resume=job.resume,
    )
    return report.as_dict()
