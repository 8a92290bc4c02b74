"""A search for hyperparameters: what is asked for, and what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testbed.scenario.model import Scenario
from testbed.twin.calibration import DEFAULTS, Chosen


@dataclass(frozen=True, slots=True)
class TuningJob:
    """Search until `trials` ended in all, or `seconds` passed; the best config goes to `out`.

    `seed` says which configs are tried, `config` is a file with what the search starts from. With
    `resume` a study that was cut off goes on.
    """

    scenario: Scenario
    out: Path
    trials: int
    seconds: float | None = None
    seed: int = 0
    config: Path | None = None
    resume: bool = False
    host: Chosen = DEFAULTS


@dataclass(frozen=True, slots=True)
class TrialNote:
    """A trial that ended, or was `pruned`; `cost` is the least that it was judged with."""

    number: int
    cost: float
    pruned: bool
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class TuneReport:
    """The trials of a study, those of earlier calls too, and the best config of a whole one."""

    trials: tuple[TrialNote, ...]
    config: Mapping[str, Any]
    config_text: str
    """As a file that `deftbed train --config` reads."""
    cost: float
    first_cost: float
    """Of the first trial, which has the config that the search starts from."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "trials": [asdict(trial) for trial in self.trials],
            "cost": self.cost,
            "first_cost": self.first_cost,
            "config": dict(self.config),
        }


Tune = Callable[[TuningJob, Callable[[float], None], Callable[[TrialNote], None]], TuneReport]
"""Searches; tells the share of the trials that is done, and each trial that ended.

Raises InputError for a wrong config, or if a study to resume is not of these arguments, RunError if
no trial could be ended in time.
"""
