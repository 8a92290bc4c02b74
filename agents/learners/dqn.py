"""DQN (Mnih et al., 2015), for any problem: double, dueling, n-step, prioritised.

A network gives a value to each of a fixed number of actions; a world shows rows and which actions
are valid (`agents.common.worlds.Rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from agents.common import replay
from agents.common.hyperparameters import COUNT, NO_LESS_THAN_0, POSITIVE, SHARE, Bounds
from agents.common.replay import NStep, PrioritisedReplay
from agents.common.worlds import Rows, World, discounts
from testbed.scenario.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DqnConfig:
    """Hyperparameters of the algorithm, in `rounds` of decisions and gradient steps.

    A problem's config adds its own.
    """

    gamma: float = 0.99
    """Discount of a unit of the world's time: of a decision, if the world says nothing else."""
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
    phases: tuple[tuple[float, float], ...] = ((0.1, 1.0), (0.4, 0.5), (0.5, 0.1))
    """(share of the rounds, exploration)."""
    exploration_spread: float = 7.0
    """Environment i of B explores with phase^(1 + spread i / (B - 1)), as Ape-X's actors do
    (Horgan et al., ICLR 2018, section 4.1): some follow the policy while others still explore."""
    imitate: float = 0.0
    """Weight of the large-margin loss by which the network's advice is worth more than every other
    action (`imitation_loss`); falls linearly to 0 at the last round. 0: the network needs none."""
    margin: float = 0.05
    """By how much."""
    follow: float = 0.0
    """Share of the actions that are not the best valued which are the network's advice; the others
    are drawn."""
    evaluate_every: int = 25
    """Rounds between evaluations, which choose the model that is kept."""
    checkpoint_every: int = 50
    """Rounds between checkpoints."""

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


BOUNDS: Mapping[str, Bounds] = {
    "gamma": SHARE,
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
    "imitate": NO_LESS_THAN_0,
    "margin": NO_LESS_THAN_0,
    "follow": SHARE,
    "evaluate_every": COUNT,
    "checkpoint_every": COUNT,
}
"""The values that each number may have; of lists, each of their numbers."""


class Dueling(nn.Module):
    """Q = V + A - mean A (Wang et al., ICML 2016, equation 9); without `dueling`, Q itself."""

    def __init__(self, width: int, actions: int, dueling: bool) -> None:
        super().__init__()
        self.advantage = nn.Linear(width, actions)
        self.value = nn.Linear(width, 1) if dueling else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden [B, width] to Q [B, actions]."""
        advantage: Tensor = self.advantage(hidden)
        if self.value is None:
            return advantage
        value: Tensor = self.value(hidden)
        return value + advantage - advantage.mean(dim=-1, keepdim=True)


class Values:
    """The network that values actions, its target, its optimiser and the replay."""

    def __init__(
        self, network: nn.Module, target: nn.Module, replay: PrioritisedReplay, config: DqnConfig
    ) -> None:
        """`target` is a network of the same shape; it becomes a copy of `network`."""
        self.network, self.target, self.replay, self.config = network, target, replay, config
        self.target.load_state_dict(network.state_dict())
        self.optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, eps=1.5e-4)
        self.updates = 0

    def update(self, uniform: FloatArray, beta: float, imitate: float = 0.0) -> dict[str, float]:
        """One gradient step on len(uniform) transitions; (weighted) Huber loss of their errors.

        To it comes `imitate` times the `imitation_loss` of the network's advice.

        `q_spread` is the deviation of a state's values over its actions, in the mean: near 0 the
        network tells no action from another.
        """
        drawn = self.replay.sample(uniform, beta)
        t = drawn.transition
        rows = torch.from_numpy(t.rows.astype(np.float32))
        values = self.network(rows)
        value = values.gather(1, torch.from_numpy(t.action)[:, None]).squeeze(1)
        target = self._targets(
            torch.from_numpy(t.next_rows.astype(np.float32)),
            torch.from_numpy(t.next_mask),
            torch.from_numpy(t.reward).float(),
            torch.from_numpy(t.discount).float(),
        )
        loss = functional.smooth_l1_loss(value, target, reduction="none")
        weighted = (torch.from_numpy(drawn.weight).float() * loss).mean()
        whole = weighted
        if imitate > 0.0:
            advice = advice_of(self.network, rows)
            whole = weighted + imitate * imitation_loss(values, advice, self.config.margin)
        self.optimiser.zero_grad()
        whole.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_norm)
        self.optimiser.step()
        error = (target - value).detach()
        self.replay.update(drawn.places, error.double().numpy())
        self.updates += 1
        self._follow()
        return {
            "loss": float(weighted.detach()),
            "error": float(error.abs().mean()),
            "value": float(value.detach().mean()),
            "q_spread": float(values.detach().std(1, correction=0).mean()),
            "gradient_norm": float(norm),
        }

    @torch.no_grad()
    def _follow(self) -> None:
        pairs = zip(self.target.parameters(), self.network.parameters(), strict=True)
        for kept, moved in pairs:
            kept.lerp_(moved, self.config.target_mix)

    @torch.no_grad()
    def _targets(
        self, next_rows: Tensor, next_mask: Tensor, reward: Tensor, discount: Tensor
    ) -> Tensor:
        """r + discount Q_target(s', argmax Q(s')) (van Hasselt et al., AAAI 2016); all [M]."""
        value = self.target(next_rows)
        chooser = self.network(next_rows) if self.config.double else value
        best = chooser.masked_fill(~next_mask, -torch.inf).argmax(1, keepdim=True)
        return reward + discount * value.gather(1, best).squeeze(1)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "updates": self.updates,
            "replay": self.replay.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.updates = state["updates"]
        self.replay.restore(state["replay"])


def advice_of(network: Any, rows: Tensor) -> Tensor:
    """The actions [M] that the network's `advice` would take; it need not be any good."""
    found: Tensor = network.advice(rows)
    return found


def imitation_loss(values: Tensor, advice: Tensor, margin: float) -> Tensor:
    """Mean of max (Q(s, a) + margin (a != advice)) - Q(s, advice) (Hester et al., AAAI 2018,
    section 5); values [M, A], advice [M].
    """
    other = torch.full_like(values, margin).scatter(1, advice[:, None], 0.0)
    return ((values + other).amax(1) - values.gather(1, advice[:, None]).squeeze(1)).mean()


@torch.no_grad()
def explore(
    network: nn.Module,
    seen: Rows,
    exploration: FloatArray,
    generator: torch.Generator,
    follow: float = 0.0,
) -> Tensor:
    """The best valid action [B], or with probability exploration[b] one drawn from the valid.

    A share `follow` of those is the network's advice instead, if that is valid.
    """
    best = network(seen.rows).masked_fill(~seen.mask, -torch.inf).argmax(1)
    drawn = torch.multinomial(seen.mask.float(), 1, generator=generator).squeeze(1)
    uniform = torch.rand(len(best), generator=generator, dtype=torch.float64)
    if follow > 0.0:
        advice = advice_of(network, seen.rows)
        taken = torch.rand(len(best), generator=generator) < follow
        taken &= seen.mask.gather(1, advice[:, None]).squeeze(1)
        drawn = torch.where(taken, advice, drawn)
    return torch.where(uniform < torch.from_numpy(exploration), drawn, best)


def exploration_of(config: DqnConfig, share: float) -> FloatArray:
    """Each environment's probability of a random action when `share` of the rounds is done."""
    level, reached = config.phases[-1][1], 0.0
    for length, epsilon in config.phases:
        reached += length
        if share < reached - 1e-9:
            level = epsilon
            break
    spread = np.arange(config.environments) / max(1, config.environments - 1)
    # A level of 1 would give 1 to all, which is what the first phase is for.
    found: FloatArray = level ** (1.0 + config.exploration_spread * spread)
    return found


def collect(
    world: World,
    values: Values,
    steps: NStep,
    exploration: FloatArray,
    generator: torch.Generator,
) -> float:
    """Fill the replay with one round of decisions; the mean reward of a decision."""
    config, total = values.config, 0.0
    seen: Rows = world.observe()
    for _ in range(config.steps):
        action = explore(values.network, seen, exploration, generator, config.follow)
        outcome = world.step((action,))
        after: Rows = world.observe()
        cut = None
        if outcome.cut is not None:
            where, there = outcome.cut
            cut = replay.Cut(where, there.rows.numpy(), there.mask.numpy())
        for ready in steps.push(
            seen.rows.numpy(),
            action.numpy(),
            outcome.reward,
            discounts(outcome, config.gamma),
            after.rows.numpy(),
            after.mask.numpy(),
            cut,
        ):
            values.replay.add(ready)
        seen = after
        total += float(outcome.reward.mean())
    return total / config.steps


def learn(values: Values, share: float, generator: torch.Generator) -> dict[str, float]:
    """One round of gradient steps; means of their figures, empty before the warm-up is over."""
    config = values.config
    if len(values.replay) < config.warm_up:
        return {}
    for group in values.optimiser.param_groups:
        group["lr"] = config.learning_rate * (1.0 - 0.9 * share)
    beta = config.beta[0] + (config.beta[1] - config.beta[0]) * share
    found = []
    for _ in range(config.updates):
        uniform = torch.rand(config.batch, generator=generator, dtype=torch.float64).numpy()
        found.append(values.update(uniform, beta, config.imitate * (1.0 - share)))
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


class Learner:
    """A training under way: a world, what its actions are worth, and one generator for both."""

    def __init__(self, world: World, values: Values, seed: int) -> None:
        self.config = values.config
        self.rounds, self.decisions_a_round = self.config.rounds, self.config.decisions_a_round
        self.done = 0
        """Rounds so far."""
        self._world, self._values = world, values
        self._steps = NStep(self.config.n_step)
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def judged(self) -> nn.Module:
        """The target: an average of networks, steadier than the last of them."""
        return self._values.target

    def run(self, count: int) -> Iterator[dict[str, float]]:
        """Do `count` rounds of decisions and gradient steps; yields what was observed in each."""
        for _ in range(count):
            share = self.done / self.rounds
            exploration = exploration_of(self.config, share)
            reward = collect(self._world, self._values, self._steps, exploration, self._generator)
            figures = learn(self._values, share, self._generator)
            self.done += 1
            yield {"reward": reward, "exploration": float(exploration.mean()), **figures}

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on in the same way."""
        return {
            "done": self.done,
            "values": self._values.state(),
            "world": list(self._world.state()),
            "steps": self._steps.state(),
            "generator": self._generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.done = state["done"]
        self._values.restore(state["values"])
        self._world.restore(state["world"])
        self._steps.restore(state["steps"])
        self._generator.set_state(state["generator"])
