"""What the section `problem` has for every problem that is decided on the emulated network."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from testbed.scenario.base import Model, Seed

PolicyName = Literal[
    "deft", "random", "round-robin", "first-fit", "best-fit", "greedy-delay", "pl-rank", "milp",
    "milp-hindsight", "ppo", "dqn",
]  # fmt: skip
POLICIES: tuple[str, ...] = get_args(PolicyName)


class TrainingSpec(Model):
    """How what learns is trained."""

    seed: Seed = 0


class DecidingSpec(Model):
    """Who decides, and with whom the others are compared."""

    policies: list[PolicyName] = Field(min_length=1)
    baseline: PolicyName = "deft"
    training: TrainingSpec = TrainingSpec()

    @model_validator(mode="after")
    def _distinct(self) -> DecidingSpec:
        if len(set(self.policies)) != len(self.policies):
            raise ValueError("policies without repetition")
        if self.baseline not in self.policies:
            raise ValueError("baseline to be one of policies")
        return self
