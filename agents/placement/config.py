"""Hyperparameters of `ppo` from a file, the values that each may have, and which are searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.common.hyperparameters import (
    COUNT,
    NO_LESS_THAN_0,
    POSITIVE,
    SHARE,
    WIDTH,
    Between,
    Bounds,
    OneOf,
    changed,
    read_values,
)
from agents.learners import ppo
from agents.placement.model import NetworkSize
from testbed.twin.constants import CostWeights


@dataclass(frozen=True, slots=True)
class PpoConfig(ppo.PpoConfig):
    """Every hyperparameter of `ppo` in placement. `gamma` and `lam` discount per decision."""

    gamma: float = 0.8
    """Below the usual: a reward is already felt over the rest of the plan, so that the decisions
    after it tell little about it but the next functions of the same chain."""
    lam: float = 0.9
    learning_rate: float = 2e-3
    epochs: int = 1
    shaped: bool = True
    """Pay a decision at once for what it does to the expected cost of the plan, not as time passes.
    """
    potential_discount: float = 1.0
    """What that expected cost counts for after a decision, against before it. `gamma` would leave
    the order of policies as it is without `shaped`; 1 leaves the sum over a plan (docs/training.md
    compares them)."""
    size: NetworkSize = field(default_factory=NetworkSize)
    pool: int = 512
    """Plans that the environments draw their episodes from, for each substrate."""
    validation: int = 64
    """Plans by which the best weights are chosen, for each substrate."""
    held_out: int = 32
    """Plans on which the trained policy is compared with the heuristics."""
    segment: int = 16
    """Updates between two looks at the validation plans, each with a checkpoint."""
    slot_s: float = 0.5
    """The twin's time slot while learning; judging uses the default, finer one."""
    weights: CostWeights = field(default_factory=CostWeights)


BOUNDS: dict[str, Bounds] = {
    **ppo.BOUNDS,
    "potential_discount": SHARE,
    "size.width": WIDTH,
    "size.heads": WIDTH,
    "size.score_width": WIDTH,
    "pool": COUNT,
    "validation": COUNT,
    "held_out": COUNT,
    "segment": COUNT,
    "slot_s": POSITIVE,
    "weights.reference_s": POSITIVE,
    "weights.deviation": NO_LESS_THAN_0,
    "weights.loss": NO_LESS_THAN_0,
    "weights.headroom": NO_LESS_THAN_0,
    "weights.headroom_from": NO_LESS_THAN_0,
    "weights.overload": NO_LESS_THAN_0,
    "weights.packets": POSITIVE,
}
"""Every number of the config."""

SPACE: dict[str, Between | OneOf] = {
    "gamma": Between(0.5, 0.99),
    "lam": Between(0.8, 0.98),
    "clip": Between(0.1, 0.3),
    "learning_rate": Between(5e-4, 5e-3, log=True),
    "epochs": OneOf((1, 2, 3, 4)),
    "minibatch": OneOf((256, 512, 1024, 2048)),
    "steps": OneOf((8, 16, 32, 64)),
    "entropy": Between(1e-4, 3e-2, log=True),
    "value": Between(0.25, 1.0),
    "gradient_norm": Between(0.25, 2.0, log=True),
    "size.width": OneOf((16, 32, 64)),
    "size.heads": OneOf((1, 2, 4)),
    "size.score_width": OneOf((8, 16, 32)),
}
"""What `deftbed tune` searches; the default of each is in it. Not the cost (`weights`), by which
configs are compared, nor the plans and time slots, which say how much is known of each."""


def read_config(path: Path) -> PpoConfig:
    """The config in a file. Raises InputError naming the field, or "config" for the file."""
    return config_from(read_values(path))


def config_from(values: Mapping[Any, Any], base: PpoConfig | None = None) -> PpoConfig:
    """`base`, or the defaults, with these values. Raises InputError naming the field."""
    return changed(base or PpoConfig(), values, BOUNDS)
