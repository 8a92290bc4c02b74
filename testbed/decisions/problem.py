"""A decision problem as the testbed sees it: its policies by name, and how they come to be.

The values are made in `agents/problems.py`; whoever composes (the command line, a benchmark, a
test) hands one of them to what runs, compares or calibrates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from testbed.decisions.contest import Contest
from testbed.decisions.evaluation_job import EvaluationJob, Sweep
from testbed.decisions.policy import Policy
from testbed.decisions.tuning_job import Tune
from testbed.scenario.model import Scenario
from testbed.scenario.types import RunPlan
from testbed.twin.calibration import DEFAULTS, Chosen
from testbed.twin.constants import TwinConstants


class MakePolicy(Protocol):
    """Makes the policies of a problem by their names."""

    def __call__(
        self,
        name: str,
        seed: int,
        model: Path | None,
        plan: RunPlan | None = None,
        constants: TwinConstants | None = None,
    ) -> Policy:
        """The policy called `name`.

        `seed` is for what a policy draws, `model` the file that a learned one was trained into or
        exported to, `plan` what a policy may know beforehand, and `constants` are those of the
        twin's cost. Raises InputError that names "policy", "model" or "plan".
        """
        ...


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What is trained: in the worlds of `scenarios`, into the file `out`.

    `decisions` are the scenario's, or the config's, where they are None; `logs` is a folder for
    TensorBoard, `config` a file with hyperparameters, `calibration` the host's constants for a
    twin. With `resume` a training that was cut off goes on.
    """

    scenarios: tuple[Scenario, ...]
    out: Path
    decisions: int | None = None
    logs: Path | None = None
    resume: bool = False
    config: Path | None = None
    calibration: Chosen = DEFAULTS


Train = Callable[[TrainingJob, Callable[[float], None]], dict[str, Any]]
"""Trains; tells the share that is done, gives facts about the training, as for JSON.

Raises InputError for a wrong config, or for what plays no part with the algorithm.
"""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the policies of a problem are compared where many episodes are cheap.

    contest     the figures, and the words of the page
    sweep       makes of a job what is to be measured; raises InputError for what cannot be
    """

    contest: Contest
    sweep: Callable[[EvaluationJob], Sweep]


@dataclass(frozen=True, slots=True)
class Problem:
    """A decision problem.

    trainers    of each learned policy: what trains it
    tuners      of each that has a search for its hyperparameters: the search
    algorithms  the algorithms that learn this problem, the usual one first
    on_twin     learned policies that are trained on the twin of a scenario
    calibrated  policies in which the constants of the host play a part
    make_policy makes any of the policies
    evaluation  how its policies are compared
    served      the file that a trained model decides from in a run: made from the model's file
                in the folder that is given, or the model's file itself
    """

    name: str
    trainers: Mapping[str, Train]
    tuners: Mapping[str, Tune]
    algorithms: tuple[str, ...]
    on_twin: frozenset[str]
    calibrated: frozenset[str]
    make_policy: MakePolicy
    evaluation: Evaluation
    served: Callable[[str, Path, Path], Path]

    @property
    def learned(self) -> tuple[str, ...]:
        """The policies that are trained into a model."""
        return tuple(self.trainers)
