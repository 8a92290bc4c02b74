"""Every hyperparameter of what learns provisioning, and the values that each may have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agents.common.hyperparameters import (
    ANY,
    COUNT,
    POSITIVE,
    SHARE,
    WIDTH,
    Bounds,
    changed,
    read_values,
)
from agents.learners import dqn, ppo
from agents.provisioning.generator import GeneratorConfig
from agents.provisioning.reward import RewardWeights
from testbed.scenario.errors import InputError


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """Widths of the layers, as in the paper, and what it leaves open."""

    own: tuple[int, int] = (128, 64)
    underway: tuple[int, int] = (64, 64)
    pending: tuple[int, int] = (64, 64)
    trunk: tuple[int, int, int] = (256, 128, 64)
    heads: int = 4

    def __post_init__(self) -> None:
        """InputError for widths that do not fit together."""
        width = self.own[-1]
        for field_, layers in (("size.underway", self.underway), ("size.pending", self.pending)):
            if layers[-1] != width:
                raise InputError(field_, list(layers), f"{width} at its end, as size.own has")
        if width % self.heads:
            raise InputError("size.heads", self.heads, f"a divisor of size.own's end, {width}")


class LearningConfig(Protocol):
    """What an episode pays and what it is drawn from, whichever algorithm learns."""

    @property
    def early(self) -> bool:
        """Pay a request's reward as its fate takes shape rather than at the end alone."""

    @property
    def potential_discount(self) -> float:
        """What that shape counts for a millisecond later."""

    @property
    def reward_scale(self) -> float:
        """Scales nothing that is reported."""

    @property
    def evaluation_streams(self) -> int:
        """Streams by which the model is chosen."""

    @property
    def rewards(self) -> RewardWeights:
        """What the agent is paid for."""

    @property
    def streams(self) -> GeneratorConfig:
        """What episodes are drawn from."""


def _paid() -> RewardWeights:
    """The paper's, and a small price of storage: some 5 % of what requests earn."""
    return RewardWeights(storage_gb_ms=-0.005)


def _drawn() -> GeneratorConfig:
    """Loads from the paper's tables to where much cannot be served, of few data centres above all:
    with many of them every rule serves all."""
    return GeneratorConfig(centres=(2, 6), arrival_steps=40, load=(1.0, 6.0))


@dataclass(frozen=True, slots=True)
class DqnConfig(dqn.DqnConfig):
    """Every hyperparameter of `dqn` in provisioning. It begins from the packing heuristic."""

    gamma: float = 0.9
    """Discount of a millisecond; decisions within one are not discounted. CPU that is not used in a
    millisecond is lost, so that little of what a decision displaces comes much later."""
    rounds: int = 16
    phases: tuple[tuple[float, float], ...] = ((0.25, 1.0), (0.75, 0.2))
    """Not the seed's: its four of 1.0 to 0.2 are for a network that has no advice."""
    imitate: float = 1.0
    follow: float = 0.8
    evaluate_every: int = 4
    checkpoint_every: int = 8
    early: bool = True
    """While learning, pay a request's reward as its fate takes shape rather than at the end alone
    (`fate` in learning.py)."""
    potential_discount: float = 1.0
    """What that shape counts for a millisecond later. `gamma` would leave the order of policies as
    it is without `early`; 1 leaves the sum over an episode (docs/provisioning.md compares them)."""
    reward_scale: float = 0.02
    """Brings values to about 10; scales nothing that is reported."""
    evaluation_streams: int = 8
    """Streams by which the model that is kept is chosen."""
    size: NetworkSize = field(default_factory=NetworkSize)
    rewards: RewardWeights = field(default_factory=_paid)
    streams: GeneratorConfig = field(default_factory=_drawn)


@dataclass(frozen=True, slots=True)
class PpoConfig(ppo.PpoConfig):
    """Every hyperparameter of `ppo` in provisioning. It begins from the packing heuristic."""

    gamma: float = 0.9
    """Discount of a millisecond, as for `dqn`."""
    lam: float = 0.95
    learning_rate: float = 1e-3
    epochs: int = 4
    minibatch: int = 256
    entropy: float = 0.001
    steps: int = 64
    imitate: float = 0.5
    environments: int = 32
    rounds: int = 16
    """Rollouts, each with its update."""
    evaluate_every: int = 4
    checkpoint_every: int = 8
    early: bool = True
    potential_discount: float = 1.0
    reward_scale: float = 0.02
    evaluation_streams: int = 8
    size: NetworkSize = field(default_factory=NetworkSize)
    rewards: RewardWeights = field(default_factory=_paid)
    streams: GeneratorConfig = field(default_factory=_drawn)

    @property
    def decisions_a_round(self) -> int:
        """Of all environments together."""
        return self.steps * self.environments


_SHARED: dict[str, Bounds] = {
    "potential_discount": SHARE,
    "reward_scale": POSITIVE,
    "evaluation_streams": COUNT,
    "size.own": WIDTH,
    "size.underway": WIDTH,
    "size.pending": WIDTH,
    "size.trunk": WIDTH,
    "size.heads": WIDTH,
    "rewards.satisfied": ANY,
    "rewards.dropped": ANY,
    "rewards.invalid": ANY,
    "rewards.uninstalled_needed": ANY,
    "rewards.storage_gb_ms": ANY,
    "streams.centres": Bounds(1, 100),
    "streams.cpu": COUNT,
    "streams.side_km": POSITIVE,
    "streams.arrival_steps": Bounds(1, 10_000),
    "streams.load": Bounds(0.0, 1000.0, open=True),
}
BOUNDS: dict[str, Bounds] = {**dqn.BOUNDS, **_SHARED}
"""Every number of `dqn`'s config; of lists, each of their numbers."""
PPO_BOUNDS: dict[str, Bounds] = {
    **ppo.BOUNDS,
    **_SHARED,
    "environments": COUNT,
    "rounds": COUNT,
    "evaluate_every": COUNT,
    "checkpoint_every": COUNT,
}
"""Every number of `ppo`'s."""


def read_ppo_config(path: Path) -> PpoConfig:
    """The config of `ppo` in a file. Raises InputError naming the field, or "config"."""
    return changed(PpoConfig(), read_values(path), PPO_BOUNDS)


def read_config(path: Path) -> DqnConfig:
    """The config in a file. Raises InputError naming the field, or "config" for the file."""
    return changed(DqnConfig(), read_values(path), BOUNDS)
