"""Every hyperparameter of the DQN."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.provisioning.generator import GeneratorConfig
from agents.provisioning.reward import RewardWeights


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """Widths of the layers, as in the paper, and what it leaves open."""

    own: tuple[int, int] = (128, 64)
    underway: tuple[int, int] = (64, 64)
    pending: tuple[int, int] = (64, 64)
    trunk: tuple[int, int, int] = (256, 128, 64)
    heads: int = 4


@dataclass(frozen=True, slots=True)
class DqnConfig:
    """Of the algorithm; `rounds` of decisions and gradient steps, as the paper's 350 updates."""

    gamma: float = 0.75
    """Discount of a millisecond; decisions within one are not discounted. CPU that is not used in a
    millisecond is lost, so that little of what a decision displaces comes much later."""
    early: bool = True
    """While learning, pay a request's reward as its fate takes shape rather than at the end alone
    (`fate` in problem.py). The sum over an episode stays what it is."""
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
