"""Trains a policy with a progress bar."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from testbed.scenario.errors import InputError
from testbed.scenario.model import Scenario
from testbed.screen import progress_bar
from testbed.twin.calibration import Calibration


def train_policy(
    algorithm: str,
    scenarios: Sequence[Scenario],
    out: Path,
    console: Console,
    logs: Path | None = None,
    resume: bool = False,
    config: Path | None = None,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Train `algorithm` on the twin of the scenarios; facts about the training, as for JSON.

    `config` is a file with hyperparameters, `calibration` the host's constants. Raises InputError
    for a wrong config, or for a calibration where none plays a part.
    """
    with progress_bar(console) as bar:
        task = bar.add_task(f"training {algorithm} on the twin", total=1.0)
        return run_training(
            algorithm,
            scenarios,
            out,
            lambda done: bar.update(task, completed=done),
            logs,
            resume,
            config,
            calibration,
        )


def run_training(
    algorithm: str,
    scenarios: Sequence[Scenario],
    out: Path,
    progress: Callable[[float], None],
    logs: Path | None = None,
    resume: bool = False,
    config: Path | None = None,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """`train_policy` where somebody else shows the progress (a share of 1)."""
    if algorithm == "ppo":
        from agents.placement.config import read_config
        from agents.placement.train import train

        spec = scenarios[0].training
        report = train(
            scenarios,
            out,
            decisions=spec.decisions,
            environments=spec.environments,
            seed=spec.seed,
            progress=lambda done, _: progress(done),
            config=None if config is None else read_config(config),
            logs=logs,
            resume=resume,
            calibration=calibration,
        )
        return report.as_dict()
    if algorithm != "dqn":
        raise InputError("algorithm", algorithm, "one of ppo, dqn")
    from agents.provisioning.config import DqnConfig
    from agents.provisioning.config import read_config as read_dqn_config
    from agents.provisioning.dqn import train as train_dqn

    # It learns in the setting of its paper, whatever the scenario.
    if calibration is not None:
        raise InputError("--calibration", "given", "ppo: dqn learns in its paper's world")
    checkpoint = out.with_name(f"{out.stem}.checkpoint")
    kept = checkpoint if resume and checkpoint.exists() else None
    seed = scenarios[0].training.seed
    chosen = DqnConfig() if config is None else read_dqn_config(config)
    learned = train_dqn(chosen, out, seed, lambda done, _: progress(done), kept)
    return dataclasses.asdict(learned)
