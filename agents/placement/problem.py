"""Placement as the testbed meets it: which servers hold an arriving chain, and its backups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.placement.evaluation import CONTEST, sweep_of
from agents.placement.policies import make_policy
from agents.provisioning.problem import train_dqn
from testbed.decisions.problem import Evaluation, Problem, TrainingJob
from testbed.decisions.tuning_job import TrialNote, TuneReport, TuningJob
from testbed.scenario.modelled import require_modelled, words_left_out


def train_ppo(job: TrainingJob, progress: Callable[[float], None]) -> dict[str, Any]:
    """Train `ppo` on the twin of the job's scenarios; see `testbed.decisions.problem.Train`."""
    from agents.placement.config import read_config
    from agents.placement.plans import training_of
    from agents.placement.train import train

    for scenario in job.scenarios:
        require_modelled(scenario)
    spec = training_of(job.scenarios[0])
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


def tune_ppo(
    job: TuningJob, progress: Callable[[float], None], ended: Callable[[TrialNote], None]
) -> TuneReport:
    """Search hyperparameters of `ppo` on the twin; see `testbed.decisions.tuning_job.Tune`."""
    from agents.placement.tune import tune_ppo as search

    return search(job, progress, ended)


def served(policy: str, model: Path, folder: Path) -> Path:
    """`ppo` decides from ONNX, which is exported into `folder`; others from their model's file."""
    if policy != "ppo" or model.suffix == ".onnx":
        return model
    from agents.placement.export import served_file

    return served_file(model, folder)


PLACEMENT = Problem(
    name="placement",
    trainers={"ppo": train_ppo, "dqn": train_dqn},
    tuners={"ppo": tune_ppo},
    algorithms=("ppo",),
    on_twin=frozenset({"ppo"}),
    calibrated=frozenset({"ppo", "milp", "milp-hindsight"}),
    make_policy=make_policy,
    evaluation=Evaluation(CONTEST, sweep_of),
    served=served,
)
