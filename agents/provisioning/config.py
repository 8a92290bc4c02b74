"""Every hyperparameter of the DQN, and the values that each may have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agents.common.config import (
    ANY,
    COUNT,
    NO_LESS_THAN_0,
    POSITIVE,
    SHARE,
    WIDTH,
    Bounds,
    changed,
    read_values,
)
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


@dataclass(frozen=True, slots=True)
class DqnConfig:
    """Of the algorithm; `rounds` of decisions and gradient steps, as the paper's 350 updates."""

    gamma: float = 0.75
    """Discount of a millisecond; decisions within one are not discounted. CPU that is not used in a
    millisecond is lost, so that little of what a decision displaces comes much later."""
    early: bool = True
    """While learning, pay a request's reward as its fate takes shape rather than at the end alone
    (`fate` in problem.py)."""
    potential_discount: float = 1.0
    """What that shape counts for a millisecond later. `gamma` would leave the order of policies as
    it is without `early`; 1 leaves the sum over an episode (docs/provisioning.md compares them)."""
    n_step: int = 3
    learning_rate: float = 5e-4
    """Of Adam; falls linearly to a tenth."""
    batch: int = 256
    gradient_norm: float = 10.0
    target_mix: float = 0.01
    """Share of the network that goes into the target at each gradient step (Lillicrap et al., ICLR
    2016, algorithm 1). The target is an average of the last 1 / mix networks; being steadier than
    the last of them, it is also the model that is evaluated and kept."""
    replay: int = 100_000
    alpha: float = 0.6
    """How much priorities matter; 0 draws uniformly."""
    beta: tuple[float, float] = (0.4, 1.0)
    """Exponent of the importance weights, from the first round to the last."""
    warm_up: int = 4_000
    """Transitions before the first gradient step."""
    double: bool = True
    dueling: bool = True
    environments: int = 32
    rounds: int = 350
    steps: int = 64
    """Decisions of each environment in a round."""
    updates: int = 32
    """Gradient steps in a round."""
    phases: tuple[tuple[float, float], ...] = (
        (1 / 7, 1.0),
        (2 / 7, 0.8),
        (2 / 7, 0.5),
        (2 / 7, 0.2),
    )
    """The seed's phases: (share of the rounds, exploration)."""
    exploration_spread: float = 7.0
    """Environment i of B explores with phase^(1 + spread i / (B - 1)), as Ape-X's actors do
    (Horgan et al., ICLR 2018, section 4.1): some follow the policy while others still explore."""
    reward_scale: float = 0.02
    """Brings values to about 10; scales nothing that is reported."""
    evaluate_every: int = 25
    """Rounds between evaluations on streams of their own, which choose the model that is kept."""
    evaluation_streams: int = 16
    checkpoint_every: int = 50
    """Rounds between checkpoints."""
    size: NetworkSize = field(default_factory=NetworkSize)
    rewards: RewardWeights = field(default_factory=lambda: RewardWeights(storage_gb_ms=-0.005))
    """The paper's, and a small price of storage: some 5 % of what requests earn."""
    streams: GeneratorConfig = field(
        default_factory=lambda: GeneratorConfig(arrival_steps=40, load=(1.0, 8.0))
    )
    """Loads from the paper's tables to where no more than half can be served at all."""

    def __post_init__(self) -> None:
        """InputError for a training that would never learn."""
        if self.warm_up > self.replay:
            raise InputError("warm_up", self.warm_up, f"at most replay, {self.replay}")
        most = self.environments * (self.rounds * self.steps - self.n_step + 1)
        if self.warm_up > most:
            raise InputError(
                "warm_up", self.warm_up, f"at most {most}: so many transitions are made"
            )

    @property
    def decisions_a_round(self) -> int:
        """Of all environments together."""
        return self.steps * self.environments


BOUNDS: dict[str, Bounds] = {
    "gamma": SHARE,
    "potential_discount": SHARE,
    "n_step": COUNT,
    "learning_rate": Bounds(0.0, 1.0, open=True),
    "batch": COUNT,
    "gradient_norm": POSITIVE,
    "target_mix": Bounds(0.0, 1.0, open=True),
    "replay": COUNT,
    "alpha": SHARE,
    "beta": SHARE,
    "warm_up": COUNT,
    "environments": COUNT,
    "rounds": COUNT,
    "steps": COUNT,
    "updates": COUNT,
    "phases": SHARE,
    "exploration_spread": NO_LESS_THAN_0,
    "reward_scale": POSITIVE,
    "evaluate_every": COUNT,
    "evaluation_streams": COUNT,
    "checkpoint_every": COUNT,
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
"""Every number of the config; of lists, each of their numbers."""


def read_config(path: Path) -> DqnConfig:
    """The config in a file. Raises InputError naming the field, or "config" for the file."""
    return changed(DqnConfig(), read_values(path), BOUNDS)
