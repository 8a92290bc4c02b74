"""Placement: which servers hold an arriving chain, and its backups."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from testbed.scenario.problems.deciding import DecidingSpec, TrainingSpec


class TwinTrainingSpec(TrainingSpec):
    """How `ppo` learns on the twin of this scenario."""

    decisions: int = Field(default=800_000, ge=1, le=10**12)
    environments: int = Field(default=512, ge=1, le=1 << 16)


class PlacementSpec(DecidingSpec):
    """The policies of placement; `ppo` learns on the twin of the scenario."""

    name: Literal["placement"]
    training: TwinTrainingSpec = TwinTrainingSpec()
