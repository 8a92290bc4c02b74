"""Proximal policy optimisation (Schulman et al., 2017) for placement, trained on the twin.

A decision is one function of one request: a primary, then a backup given the primary, or a
rejection. Episodes are all requests of a plan; the reward of a decision is by how much it lowers
(raises) the cost of the plan as the twin runs it, load steps and faults included. The observation
does not tell when those come, so what can be learned is how much head-room is worth its delay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from agents.common.buffers import Batch, RolloutBuffer, minibatches
from agents.common.evaluation import Evaluation, evaluate
from agents.common.networks import PlacementNetwork
from agents.common.policy import Policy
from agents.placement.baselines import DeftPolicy, GreedyDelayPolicy
from agents.placement.features import NODE_FEATURES, REQUEST_FEATURES, make_inputs
from agents.placement.model import NetworkSize, PpoPolicy, save_model
from agents.placement.plans import held_out_plans, training_plans
from testbed.scenario.model import Scenario
from testbed.scenario.types import NS_PER_S
from testbed.twin.constants import CostWeights, constants_for
from testbed.twin.decisions import DecisionBatch
from testbed.twin.pack import pack_plans

Progress = Callable[[float, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class PpoConfig:
    """Every hyperparameter. `gamma` and `lam` discount per decision."""

    gamma: float = 0.6
    """Far below the usual: a reward is already felt over the whole plan, so that the decisions
    after it tell little about it but the next functions of the same chain."""
    lam: float = 0.9
    clip: float = 0.2
    learning_rate: float = 2e-3
    """Falls linearly to a twentieth."""
    epochs: int = 3
    minibatch: int = 256
    steps: int = 16
    """Decisions of each environment between updates."""
    entropy: float = 0.003
    """Weight of the entropy bonus; falls linearly to 0."""
    value: float = 0.5
    gradient_norm: float = 0.5
    size: NetworkSize = field(default_factory=NetworkSize)
    pool: int = 256
    """Plans that the environments draw their episodes from."""
    held_out: int = 32
    slot_s: float = 0.5
    """The twin's time slot while learning; judging uses the default, finer one."""
    weights: CostWeights = field(default_factory=CostWeights)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training did: its curve, and each policy on held-out plans of the scenario."""

    seed: int
    decisions: int
    updates: int
    wall_s: float
    decisions_per_s: float
    curve: tuple[dict[str, float], ...]
    evaluation: dict[str, Evaluation]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def update(
    network: PlacementNetwork,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    config: PpoConfig,
    entropy_weight: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """Some epochs of clipped policy-gradient steps; returns means of what was observed."""
    figures: list[tuple[float, float, float]] = []
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
            figures.append((policy_loss.item(), value_loss.item(), spread.item()))
    means = np.mean(figures, axis=0)
    return dict(zip(("policy_loss", "value_loss", "entropy"), map(float, means), strict=True))


def make_network(size: NetworkSize, seed: int) -> PlacementNetwork:
    """A network with weights drawn from `seed`; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PlacementNetwork(NODE_FEATURES, REQUEST_FEATURES, size.width, size.heads)


def collect(
    network: PlacementNetwork, batch: DecisionBatch, config: PpoConfig, generator: torch.Generator
) -> tuple[Batch, float]:
    """Play `config.steps` decisions in every environment; (decisions, mean reward of each)."""
    buffer = RolloutBuffer()
    total = 0.0
    for _ in range(config.steps):
        inputs = make_inputs(batch.observe())
        chosen = network.act(inputs, generator)
        primary = chosen.primary.numpy()
        rejected = primary == len(inputs.delay)
        rewards, done = batch.step(np.where(rejected, -1, primary), chosen.backup.numpy())
        buffer.add(
            inputs, chosen.primary, chosen.backup, chosen.log_probability, chosen.value,
            rewards, done,
        )  # fmt: skip
        total += float(rewards.mean())
    last = network.act(make_inputs(batch.observe()), generator).value
    return buffer.finish(last, config.gamma, config.lam), total / config.steps


def train(
    scenario: Scenario,
    out: Path,
    decisions: int,
    environments: int,
    seed: int,
    progress: Progress,
    config: PpoConfig | None = None,
) -> TrainReport:
    """Learn on the twin of `scenario` and write the model to `out`.

    The same arguments give the same weights. `progress` is told the share done and the figures
    of the last update.
    """
    config = config or PpoConfig()
    torch.set_num_threads(1)
    began = time.monotonic()
    constants = constants_for(scenario, slot_ns=config.slot_s * NS_PER_S)
    pool = pack_plans(training_plans(scenario, config.pool))
    batch = DecisionBatch(pool, environments, seed, constants, config.weights)
    network = make_network(config.size, seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, eps=1e-5)
    generator = torch.Generator().manual_seed(seed)
    each = config.steps * environments
    updates = max(1, -(-decisions // each))
    curve: list[dict[str, float]] = []
    for number in range(updates):
        left = 1.0 - number / updates
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * max(left, 0.05)
        rollout, reward = collect(network, batch, config, generator)
        figures = update(network, optimiser, rollout, config, config.entropy * left, generator)
        point = {"decisions": float((number + 1) * each), "reward": reward, **figures}
        curve.append(point)
        progress((number + 1) / updates, point)
    save_model(out, network, config.size)
    wall_s = time.monotonic() - began
    return TrainReport(
        seed=seed,
        decisions=updates * each,
        updates=updates,
        wall_s=wall_s,
        decisions_per_s=updates * each / wall_s,
        curve=tuple(curve),
        evaluation=compare(scenario, PpoPolicy(network), seed, config),
    )


def compare(
    scenario: Scenario, learned: Policy, seed: int, config: PpoConfig
) -> dict[str, Evaluation]:
    """The learned policy and the heuristics on the same held-out plans of the scenario."""
    plans = held_out_plans(scenario, config.held_out)
    policies: Sequence[tuple[str, Policy]] = (
        ("deft", DeftPolicy(seed)),
        ("greedy-delay", GreedyDelayPolicy()),
        ("ppo", learned),
    )
    constants = constants_for(scenario)
    return {name: evaluate(p, plans, constants, config.weights) for name, p in policies}
