"""Proximal policy optimisation (Schulman et al., 2017), for any problem.

A network acts and evaluates; a world is seen and acted in (`agents.common.worlds`). While the
weights are updated from one rollout the next one is played, by the weights before: two threads,
each with its own generator and one step apart, so that the same seed gives the same weights. The
clipped ratio allows for decisions of slightly older weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn import functional

from agents.common.allocator import keep_freed_memory
from agents.common.hyperparameters import COUNT, NO_LESS_THAN_0, POSITIVE, SHARE, Bounds
from agents.common.rollout import Batch, CutValues, Decision, RolloutBuffer, minibatches
from agents.common.worlds import World, discounts


@dataclass(frozen=True, slots=True)
class PpoConfig:
    """Hyperparameters of the algorithm; a problem's config adds its own."""

    gamma: float = 0.99
    """Discount of a unit of the world's time: of a decision, if the world says nothing else."""
    lam: float = 0.95
    clip: float = 0.2
    learning_rate: float = 1e-3
    """Of Adam; falls linearly to a twentieth."""
    epochs: int = 4
    minibatch: int = 1024
    steps: int = 16
    """Decisions of each environment between updates."""
    entropy: float = 0.003
    """Weight of the entropy bonus; falls linearly to 0."""
    value: float = 0.5
    """Weight of the value's loss."""
    gradient_norm: float = 0.5
    imitate: float = 0.0
    """Share of the rounds, the first ones, that only imitate the network's advice (`imitation`)."""


BOUNDS: Mapping[str, Bounds] = {
    "gamma": SHARE,
    "lam": SHARE,
    "clip": Bounds(0.0, 1.0, open=True),
    "learning_rate": Bounds(0.0, 1.0, open=True),
    "epochs": COUNT,
    "minibatch": Bounds(2, COUNT.most),  # advantages are divided by their deviation within it
    "steps": COUNT,
    "entropy": NO_LESS_THAN_0,
    "value": NO_LESS_THAN_0,
    "gradient_norm": POSITIVE,
    "imitate": SHARE,
}
"""The values that each number may have."""


class ActorCritic(Protocol):
    """A network that chooses, and says what a state is worth; a `torch.nn.Module`."""

    def act(self, inputs: Any, generator: torch.Generator | None) -> Decision:
        """Draw decisions in B states; without a generator, take the most likely ones."""

    def evaluate(
        self, inputs: Any, *action: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(log probability, entropy, value), each [M], of decisions that were taken."""


class Followed(NamedTuple):
    """A decision of which some actions were replaced by advice."""

    action: tuple[torch.Tensor, ...]
    log_probability: torch.Tensor
    value: torch.Tensor


def imitation(
    network: Any,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    config: PpoConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """Some epochs towards the network's advice; returns means of what was observed.

    The loss is the cross-entropy of the advised actions, as in behaviour cloning, and the value's.
    The batch has states that the advice leads to and states that the network leads to, which it
    would otherwise never learn to answer (Ross, Gordon and Bagnell, AISTATS 2011).
    """
    figures: list[torch.Tensor] = []
    for _ in range(config.epochs):
        for part in minibatches(batch, config.minibatch, generator):
            advice = network.advice(part.inputs.rows)
            log_probability, entropy, value = network.evaluate(part.inputs, advice)
            policy_loss = -log_probability.mean()
            value_loss = functional.smooth_l1_loss(value, part.value_target)
            optimiser.zero_grad(set_to_none=True)
            (policy_loss + config.value * value_loss).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm)
            optimiser.step()
            with torch.no_grad():
                figures.append(torch.stack([policy_loss, value_loss, entropy.mean()]))
    means = torch.stack(figures).mean(0).tolist()
    return {**dict(zip(("policy_loss", "value_loss", "entropy"), means, strict=True)), **_NO_STEP}


_NO_STEP = {"clipped_share": 0.0, "approximate_kl": 0.0}


def update(
    network: Any,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    config: PpoConfig,
    entropy_weight: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """Some epochs of clipped policy-gradient steps; returns means of what was observed.

    `approximate_kl` is the mean of (ratio - 1) - log ratio, which estimates the divergence of the
    policy from the one that acted with little variance (Schulman, 2020).
    """
    figures: list[torch.Tensor] = []
    for _ in range(config.epochs):
        for part in minibatches(batch, config.minibatch, generator):
            log_probability, entropy, value = network.evaluate(part.inputs, *part.action)
            advantage = part.advantage
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            log_ratio = log_probability - part.log_probability
            ratio = log_ratio.exp()
            clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
            policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
            value_loss = functional.smooth_l1_loss(value, part.value_target)
            spread = entropy.mean()
            loss = policy_loss + config.value * value_loss - entropy_weight * spread
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm)
            optimiser.step()
            with torch.no_grad():
                far = ((ratio - 1).abs() > config.clip).float().mean()
                kl = ((ratio - 1) - log_ratio).mean()
                figures.append(torch.stack([policy_loss, value_loss, spread, far, kl]))
    means = torch.stack(figures).mean(0).tolist()
    names = ("policy_loss", "value_loss", "entropy", "clipped_share", "approximate_kl")
    return dict(zip(names, means, strict=True))


def explained_variance(batch: Batch) -> float:
    """1 - Var(return - value) / Var(return): 1 if values tell the returns, 0 if they tell nothing.

    Not a number where all returns are the same.
    """
    spread = batch.value_target.var()
    return float(1.0 - batch.advantage.var() / spread) if spread > 0 else float("nan")


def collect(
    network: Any,
    world: World,
    config: PpoConfig,
    generator: torch.Generator,
    follow: bool = False,
) -> tuple[Batch, float]:
    """Play `config.steps` decisions in every environment; (decisions, mean reward of each).

    With `follow` the first half of the environments takes the network's advice.
    """
    buffer = RolloutBuffer(config.steps)
    total = 0.0
    for _ in range(config.steps):
        inputs = world.observe()
        chosen = network.act(inputs, generator)
        if follow:
            own = torch.arange(world.environments) >= world.environments // 2
            action = torch.where(own, chosen.action[0], network.advice(inputs.rows))
            chosen = Followed((action,), chosen.log_probability, chosen.value)
        outcome = world.step(chosen.action)
        cut = None
        if outcome.cut is not None:
            worth = network.act(outcome.cut.seen, generator).value.cpu().numpy()
            cut = CutValues(outcome.cut.where, worth)
        buffer.add(inputs, chosen, outcome.reward, discounts(outcome, config.gamma), cut)
        total += float(outcome.reward.mean())
    last = network.act(world.observe(), generator).value
    return buffer.finish(last, config.lam), total / config.steps


class Learner:
    """A training under way: weights, worlds and generators.

    `worlds` differ in what they show, not in its kind; updates take them in turn, one a round.
    """

    def __init__(
        self,
        network: nn.Module,
        worlds: Sequence[World],
        config: PpoConfig,
        seed: int,
        rounds: int,
        device: torch.device,
    ) -> None:
        """`network` is an `ActorCritic`."""
        keep_freed_memory()
        self.config, self.rounds = config, rounds
        self.worlds = list(worlds)
        self.network = network.to(device)
        self.done = 0
        """Rounds so far."""
        self.decisions_a_round = config.steps * self.worlds[0].environments
        self._actor = copy.deepcopy(self.network)
        self._optimiser = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, eps=1e-5, fused=True
        )
        self._act = torch.Generator().manual_seed(2 * seed)
        self._shuffle = torch.Generator().manual_seed(2 * seed + 1)

    @property
    def judged(self) -> nn.Module:
        """The network that is judged and kept."""
        return self.network

    def run(self, count: int) -> Iterator[dict[str, float]]:
        """Do `count` rounds; yields what was observed in each."""
        with ThreadPoolExecutor(1) as pool:
            self._actor.load_state_dict(self.network.state_dict())
            ahead = pool.submit(self._collect, self.done)
            for left in range(count - 1, -1, -1):
                rollout, reward = ahead.result()
                if left:
                    self._actor.load_state_dict(self.network.state_dict())
                    ahead = pool.submit(self._collect, self.done + 1)
                yield {"reward": reward, **self._update(rollout)}

    def _collect(self, number: int) -> tuple[Batch, float]:
        world = self.worlds[number % len(self.worlds)]
        return collect(self._actor, world, self.config, self._act, self._imitates(number))

    def _imitates(self, number: int) -> bool:
        return number < self.config.imitate * self.rounds

    def _update(self, rollout: Batch) -> dict[str, float]:
        config, left = self.config, 1.0 - self.done / self.rounds
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * max(left, 0.05)
        imitates = self._imitates(self.done)
        self.done += 1
        parts = (self.network, self._optimiser, rollout, config)
        if imitates:
            figures = imitation(*parts, self._shuffle)
        else:
            figures = update(*parts, config.entropy * left, self._shuffle)
        return {**figures, "explained_variance": explained_variance(rollout)}

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on in the same way."""
        return {
            "done": self.done,
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "act": self._act.get_state(),
            "shuffle": self._shuffle.get_state(),
            "worlds": [list(world.state()) for world in self.worlds],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.done = state["done"]
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._act.set_state(state["act"])
        self._shuffle.set_state(state["shuffle"])
        for world, kept in zip(self.worlds, state["worlds"], strict=True):
            world.restore(kept)
