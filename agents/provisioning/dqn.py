"""DQN (Mnih et al., 2015) for provisioning: double, dueling, n-step, prioritised.

`Learner` and `explore` know nothing of provisioning; `train` puts them to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.common.checkpoints import checkpoint_of, earlier, write_checkpoint
from agents.common.logs import Log
from agents.common.replay import NStep, PrioritisedReplay
from agents.provisioning.config import DqnConfig
from agents.provisioning.evaluation import score
from agents.provisioning.learning import Problem, ProvisioningProblem
from agents.provisioning.model import make_network, save_model, training_header
from agents.provisioning.network import row_width
from agents.provisioning.types import ACTIONS, BoolArray, Float32Array, FloatArray, IntArray
from testbed.scenario.errors import RunError

Progress = Callable[[float, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training did: a point of the curve for each round, and the best evaluation."""

    seed: int
    rounds: int
    decisions: int
    wall_s: float
    best_round: int
    best_score: float
    curve: tuple[dict[str, float], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Learner:
    """The network, its target, its optimiser and the replay."""

    def __init__(
        self, network: nn.Module, target: nn.Module, replay: PrioritisedReplay, config: DqnConfig
    ) -> None:
        """`target` is a network of the same shape; it becomes a copy of `network`."""
        self.network, self.target, self.replay, self.config = network, target, replay, config
        self.target.load_state_dict(network.state_dict())
        self.optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, eps=1.5e-4)
        self.updates = 0

    def update(self, uniform: FloatArray, beta: float) -> dict[str, float]:
        """One gradient step on len(uniform) transitions; (weighted) Huber loss of their errors."""
        drawn = self.replay.sample(uniform, beta)
        t = drawn.transition
        values = self.network(torch.from_numpy(t.rows.astype(np.float32)))
        value = values.gather(1, torch.from_numpy(t.action)[:, None]).squeeze(1)
        target = self._targets(
            torch.from_numpy(t.next_rows.astype(np.float32)),
            torch.from_numpy(t.next_mask),
            torch.from_numpy(t.reward).float(),
            torch.from_numpy(t.discount).float(),
        )
        loss = functional.smooth_l1_loss(value, target, reduction="none")
        weighted = (torch.from_numpy(drawn.weight).float() * loss).mean()
        self.optimiser.zero_grad()
        weighted.backward()  # type: ignore[no-untyped-call]
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


def explore(
    network: nn.Module,
    rows: Float32Array,
    mask: BoolArray,
    exploration: FloatArray,
    generator: torch.Generator,
) -> IntArray:
    """The best valid action, or with probability exploration[b] one drawn from the valid ones."""
    with torch.no_grad():
        valid = torch.from_numpy(mask)
        best = network(torch.from_numpy(rows)).masked_fill(~valid, -torch.inf).argmax(1)
        drawn = torch.multinomial(valid.float(), 1, generator=generator).squeeze(1)
        uniform = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        chosen = torch.where(uniform < torch.from_numpy(exploration), drawn, best)
    actions: IntArray = chosen.numpy()
    return actions


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
    problem: Problem,
    learner: Learner,
    steps: NStep,
    exploration: FloatArray,
    generator: torch.Generator,
) -> float:
    """Fill the replay with one round of decisions; the mean reward of a decision."""
    config, total = learner.config, 0.0
    rows, mask = problem.observe()
    for _ in range(config.steps):
        actions = explore(learner.network, rows, mask, exploration, generator)
        outcome = problem.step(actions)
        next_rows, next_mask = problem.observe()
        reward, discount, cut = outcome
        for ready in steps.push(rows, actions, reward, discount, next_rows, next_mask, cut):
            learner.replay.add(ready)
        rows, mask = next_rows, next_mask
        total += float(outcome.reward.mean())
    return total / config.steps


def learn(learner: Learner, share: float, generator: torch.Generator) -> dict[str, float]:
    """One round of gradient steps; means of their figures, empty before the warm-up is over."""
    config = learner.config
    if len(learner.replay) < config.warm_up:
        return {}
    for group in learner.optimiser.param_groups:
        group["lr"] = config.learning_rate * (1.0 - 0.9 * share)
    beta = config.beta[0] + (config.beta[1] - config.beta[0]) * share
    found = []
    for _ in range(config.updates):
        uniform = torch.rand(config.batch, generator=generator, dtype=torch.float64).numpy()
        found.append(learner.update(uniform, beta))
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


class Best(NamedTuple):
    """The evaluation with the highest score so far, and the weights that had it."""

    round: int = -1
    score: float = -float("inf")
    weights: dict[str, Tensor] | None = None


class Training:
    """A training that can be written down after any round and gone on with from there."""

    def __init__(self, config: DqnConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        width = row_width(config.streams.centres[1])
        network = make_network(config, seed)
        replay = PrioritisedReplay(config.replay, width, ACTIONS, config.alpha, np.float16)
        self.target = make_network(config, seed)
        self.learner = Learner(network, self.target, replay, config)
        self.problem = ProvisioningProblem(config, seed)
        self.steps = NStep(config.n_step)
        self.generator = torch.Generator().manual_seed(seed)
        self.curve: list[dict[str, float]] = []
        self.best = Best()

    def round(self) -> dict[str, float]:
        """One round of decisions and gradient steps; its point of the curve."""
        config, number = self.config, len(self.curve)
        share = number / config.rounds
        exploration = exploration_of(config, share)
        reward = collect(self.problem, self.learner, self.steps, exploration, self.generator)
        figures = learn(self.learner, share, self.generator)
        point = {
            "round": float(number),
            "decisions": float((number + 1) * config.decisions_a_round),
            "reward": reward / config.reward_scale,
            "exploration": float(exploration.mean()),
            **figures,
        }
        if (number + 1) % config.evaluate_every == 0 or number + 1 == config.rounds:
            point.update(self.judge())
        self.curve.append(point)
        return point

    def judge(self) -> dict[str, float]:
        """The target on the streams that choose the model; it is kept if it is the best so far."""
        figures = score(self.target, self.config, self.seed)
        if figures["score"] > self.best.score:
            weights = {k: v.detach().clone() for k, v in self.target.state_dict().items()}
            self.best = Best(len(self.curve), figures["score"], weights)
        return figures

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        learner = self.learner
        return {
            "network": learner.network.state_dict(),
            "target": learner.target.state_dict(),
            "optimiser": learner.optimiser.state_dict(),
            "updates": learner.updates,
            "replay": learner.replay.state(),
            "problem": self.problem.state(),
            "steps": self.steps.state(),
            "generator": self.generator.get_state(),
            "curve": self.curve,
            "best": self.best._asdict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be as the training was of which `state` is."""
        learner = self.learner
        learner.network.load_state_dict(state["network"])
        learner.target.load_state_dict(state["target"])
        learner.optimiser.load_state_dict(state["optimiser"])
        learner.updates = state["updates"]
        learner.replay.restore(state["replay"])
        self.problem.restore(state["problem"])
        self.steps.restore(state["steps"])
        self.generator.set_state(state["generator"])
        self.curve = list(state["curve"])
        self.best = Best(**state["best"])


def train(
    config: DqnConfig,
    out: Path,
    seed: int,
    progress: Progress,
    logs: Path | None = None,
    resume: bool = False,
) -> TrainReport:
    """Learn, and write the model that did best in the evaluations to `out`.

    The same arguments give the same weights. Now and then everything is written to
    `checkpoint_of(out)`; with `resume`, a training that was cut off goes on from there and ends
    with the same weights. `logs` is a folder for TensorBoard. `progress` is told the share done and
    the figures of the last round. Raises InputError if a checkpoint is not of these arguments, or
    is there without `resume`.
    """
    torch.set_num_threads(1)
    began = time.monotonic()
    header = training_header(config, seed)
    training = Training(config, seed)
    kept = earlier(out, resume, header)
    if kept is not None:
        training.restore(kept)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Log(logs, len(training.curve) * config.decisions_a_round) as log:
        while len(training.curve) < config.rounds:
            point = training.round()
            number = len(training.curve)
            log.write(point)
            if number % config.checkpoint_every == 0 or number == config.rounds:
                write_checkpoint(checkpoint_of(out), {**header, **training.state()})
            progress(number / config.rounds, point)
    _save_best(out, training)
    checkpoint_of(out).unlink()
    return TrainReport(
        seed=seed,
        rounds=config.rounds,
        decisions=config.rounds * config.decisions_a_round,
        wall_s=time.monotonic() - began,
        best_round=training.best.round,
        best_score=training.best.score,
        curve=tuple(training.curve),
    )


def _save_best(out: Path, training: Training) -> None:
    if training.best.weights is None:
        raise RunError(f"{out}: no weights had a score that is a number; try a lower learning_rate")
    training.target.load_state_dict(training.best.weights)
    save_model(out, training.target, training.config)
