"""Proximal policy optimisation (Schulman et al., 2017) for placement, on the twin.

A decision is one function of one request: a primary, then a backup given the primary, or a
rejection; after a fault it is a new backup of a group. Episodes are all that a plan asks for. The
reward of a decision is by how much it changes the expected cost of the rest of the plan
(`testbed.twin.outlook`); the observation does not tell when load steps and faults come, so what can
be learned is how much head-room is worth its delay.

While the weights are updated from one rollout the next one is played, by the weights before: two
threads, each with its own generator and one step apart, so that the same seed gives the same
weights. The clipped ratio allows for decisions of slightly older weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from agents.common.buffers import Batch, RolloutBuffer, minibatches
from agents.common.memory import keep_freed_memory
from agents.common.networks import PlacementNetwork
from agents.placement.features import make_inputs
from agents.placement.model import NetworkSize, build
from testbed.twin.constants import CostWeights
from testbed.twin.decisions import DecisionBatch, ended


@dataclass(frozen=True, slots=True)
class PpoConfig:
    """Every hyperparameter. `gamma` and `lam` discount per decision."""

    gamma: float = 0.8
    """Below the usual: a reward is already felt over the rest of the plan, so that the decisions
    after it tell little about it but the next functions of the same chain."""
    lam: float = 0.9
    clip: float = 0.2
    learning_rate: float = 2e-3
    """Falls linearly to a twentieth."""
    epochs: int = 1
    minibatch: int = 1024
    shaped: bool = True
    """Pay a decision at once for what it does to the expected cost of the plan, not as time passes.
    """
    potential_discount: float = 1.0
    """What that expected cost counts for after a decision, against before it. `gamma` would leave
    the order of policies as it is without `shaped`; 1 leaves the sum over a plan (docs/training.md
    compares them)."""
    steps: int = 16
    """Decisions of each environment between updates."""
    entropy: float = 0.003
    """Weight of the entropy bonus; falls linearly to 0."""
    value: float = 0.5
    gradient_norm: float = 0.5
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


def update(
    network: PlacementNetwork,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    config: PpoConfig,
    entropy_weight: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """Some epochs of clipped policy-gradient steps; returns means of what was observed."""
    figures: list[torch.Tensor] = []
    for _ in range(config.epochs):
        for part in minibatches(batch, config.minibatch, generator):
            log_probability, entropy, value = network.evaluate(
                part.inputs, part.primary, part.backup
            )
            advantage = part.advantage
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            ratio = (log_probability - part.log_probability).exp()
            clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
            policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
            value_loss = functional.smooth_l1_loss(value, part.value_target)
            spread = entropy.mean()
            loss = policy_loss + config.value * value_loss - entropy_weight * spread
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm)
            optimiser.step()
            with torch.no_grad():
                far = ((ratio - 1).abs() > config.clip).float().mean()
                figures.append(torch.stack([policy_loss, value_loss, spread, far]))
    means = torch.stack(figures).mean(0).tolist()
    names = ("policy_loss", "value_loss", "entropy", "clipped_share")
    return dict(zip(names, means, strict=True))


def make_network(size: NetworkSize, seed: int) -> PlacementNetwork:
    """A network with weights drawn from `seed`; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(size)


def collect(
    network: PlacementNetwork,
    batch: DecisionBatch,
    config: PpoConfig,
    generator: torch.Generator,
    device: torch.device | None = None,
) -> tuple[Batch, float]:
    """Play `config.steps` decisions in every environment; (decisions, mean reward of each)."""
    buffer = RolloutBuffer(config.steps)
    total = 0.0
    for _ in range(config.steps):
        inputs = make_inputs(batch.observe(), device)
        chosen = network.act(inputs, generator)
        rewards, done = batch.step(*_nodes(inputs.delay.shape[0], chosen.primary, chosen.backup))
        buffer.add(inputs, chosen, rewards, done)
        total += float(rewards.mean())
    last = network.act(make_inputs(batch.observe(), device), generator).value
    return buffer.finish(last, config.gamma, config.lam), total / config.steps


def _nodes(
    count: int, primary: torch.Tensor, backup: torch.Tensor
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """A network's choice as the twin takes it: -1 rejects."""
    chosen = primary.cpu().numpy()
    return np.where(chosen == count, -1, chosen), backup.cpu().numpy()


@torch.no_grad()
def mean_cost(network: PlacementNetwork, batch: DecisionBatch, device: torch.device) -> float:
    """Mean cost of an episode where each environment plays its own plan, by the best choices.

    `batch` pays unshaped rewards; it has as many environments as its pool has plans.
    """
    batch.reset(np.arange(batch.environments))
    total = 0.0
    while not ended(batch).all():
        inputs = make_inputs(batch.observe(), device)
        chosen = network.act(inputs, None)
        nodes = _nodes(inputs.delay.shape[0], chosen.primary, chosen.backup)
        rewards, _ = batch.step(*nodes, again=False)
        total += float(rewards.sum())
    return -total / batch.environments


class Learner:
    """A training under way: weights, environments and generators.

    `batches` are environments on one substrate each; updates take them in turn.
    """

    def __init__(
        self,
        batches: Sequence[DecisionBatch],
        config: PpoConfig,
        seed: int,
        updates: int,
        device: torch.device,
    ) -> None:
        keep_freed_memory()
        self.config, self.device, self.updates = config, device, updates
        self.batches = list(batches)
        self.network = make_network(config.size, seed).to(device)
        self.done = 0
        """Updates so far."""
        self._actor = copy.deepcopy(self.network)
        self._optimiser = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, eps=1e-5, fused=True
        )
        self._act = torch.Generator().manual_seed(2 * seed)
        self._shuffle = torch.Generator().manual_seed(2 * seed + 1)

    def run(self, count: int) -> Iterator[dict[str, float]]:
        """Do `count` updates; yields what was observed in each."""
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
        batch = self.batches[number % len(self.batches)]
        return collect(self._actor, batch, self.config, self._act, self.device)

    def _update(self, rollout: Batch) -> dict[str, float]:
        config, left = self.config, 1.0 - self.done / self.updates
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * max(left, 0.05)
        self.done += 1
        return update(
            self.network, self._optimiser, rollout, config, config.entropy * left, self._shuffle
        )

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on in the same way."""
        return {
            "done": self.done,
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "act": self._act.get_state(),
            "shuffle": self._shuffle.get_state(),
            "environments": [
                [torch.from_numpy(array.copy()) for array in batch.state] for batch in self.batches
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.done = state["done"]
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._act.set_state(state["act"])
        self._shuffle.set_state(state["shuffle"])
        for batch, arrays in zip(self.batches, state["environments"], strict=True):
            for mine, kept in zip(batch.state, arrays, strict=True):
                mine[...] = kept.numpy()
