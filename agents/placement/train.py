"""Trains `ppo` from nothing in segments: the best weights are kept, and it can be resumed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from agents.common.checkpoints import checkpoint_of, earlier, write_checkpoint
from agents.common.evaluation import Evaluation, evaluate
from agents.common.logs import Log
from agents.placement.baselines import DeftPolicy, GreedyDelayPolicy
from agents.placement.model import PpoPolicy, save_model
from agents.placement.plans import held_out_plans, training_plans, validation_plans
from agents.placement.ppo import Learner, PpoConfig, mean_cost
from testbed.decisions.policy import Policy
from testbed.scenario.errors import RunError
from testbed.scenario.model import Scenario
from testbed.scenario.types import NS_PER_S, RunPlan
from testbed.twin.calibration import Calibration
from testbed.twin.constants import TwinConstants, constants_for
from testbed.twin.decisions import DecisionBatch
from testbed.twin.pack import pack_plans

Progress = Callable[[float, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training did: its curve, and each policy on held-out plans of the first scenario."""

    seed: int
    decisions: int
    updates: int
    wall_s: float
    decisions_per_s: float
    device: str
    best_cost: float
    curve: tuple[dict[str, float], ...]
    evaluation: dict[str, Evaluation]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def train(
    scenarios: Sequence[Scenario],
    out: Path,
    decisions: int,
    environments: int,
    seed: int,
    progress: Progress,
    config: PpoConfig | None = None,
    logs: Path | None = None,
    resume: bool = False,
    judged: Callable[[int, float], None] | None = None,
    compares: bool = True,
    calibration: Calibration | None = None,
) -> TrainReport:
    """Learn on the twin of the scenarios, each on its substrate; the best model goes to `out`.

    The same arguments give the same weights. After each segment the weights are judged on
    validation plans and everything is written to `checkpoint_of(out)`; with `resume`, a training
    that was cut off goes on from there and ends with the same weights. `logs`
    is a folder for TensorBoard. `progress` is told the share done and what the last update showed;
    `judged`, after each segment, its number and the mean validation cost, and what it raises ends
    the training. Without `compares` no held-out plan is made, and `evaluation` is empty. The twin
    has the constants of `calibration`, or its defaults.
    Raises InputError if a checkpoint is not of these arguments, or is there without `resume`.
    """
    config = config or PpoConfig()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = time.monotonic()
    each = config.steps * environments
    updates = max(1, -(-decisions // each))
    constants = [constants_for(scenario, calibration) for scenario in scenarios]
    substrates = [
        _batches(scenario, environments, seed, config, judging)
        for scenario, judging in zip(scenarios, constants, strict=True)
    ]
    learner = Learner([b for b, _ in substrates], config, seed, updates, device)
    validation = [b for _, b in substrates]
    header = _header(scenarios, config, decisions, environments, seed, constants)
    best, curve = _Best(), list[dict[str, float]]()
    kept = earlier(out, resume, header)
    if kept is not None:
        _restore(kept, learner, best, curve)
    with Log(logs, learner.done * each) as log:
        while learner.done < updates:
            for figures in learner.run(min(config.segment, updates - learner.done)):
                point = {"decisions": float(learner.done * each), **figures}
                curve.append(point)
                log.write(point)
                progress(learner.done / updates, point)
            cost = sum(mean_cost(learner.network, batch, device) for batch in validation)
            cost /= len(validation)
            best.offer(cost, learner.network)
            curve[-1]["validation_cost"] = cost
            log.write(curve[-1])
            write_checkpoint(
                checkpoint_of(out),
                {**header, "learner": learner.state(), "best": asdict(best), "curve": curve},
            )
            if judged is not None:
                judged(-(-learner.done // config.segment), cost)
    if best.weights is None:
        raise RunError(f"{out}: no weights had a cost that is a number; try a lower learning_rate")
    learner.network.load_state_dict(best.weights)
    save_model(out, learner.network.cpu(), config.size)
    checkpoint_of(out).unlink()
    wall_s = time.monotonic() - began
    learned = PpoPolicy(learner.network)
    return TrainReport(
        seed=seed,
        decisions=updates * each,
        updates=updates,
        wall_s=wall_s,
        decisions_per_s=updates * each / wall_s,
        device=str(device),
        best_cost=best.cost,
        curve=tuple(curve),
        evaluation=compare(scenarios[0], learned, seed, config, constants[0]) if compares else {},
    )


@dataclass(slots=True)
class _Best:
    """The weights with the least cost so far."""

    cost: float = float("inf")
    weights: dict[str, torch.Tensor] | None = None

    def offer(self, cost: float, network: torch.nn.Module) -> None:
        if cost < self.cost:
            self.cost = cost
            self.weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}


def _restore(
    content: dict[str, Any], learner: Learner, best: _Best, curve: list[dict[str, float]]
) -> None:
    learner.restore(content["learner"])
    best.cost, best.weights = content["best"]["cost"], content["best"]["weights"]
    curve.extend(content["curve"])


def _header(
    scenarios: Sequence[Scenario],
    config: PpoConfig,
    decisions: int,
    environments: int,
    seed: int,
    constants: Sequence[TwinConstants],
) -> dict[str, Any]:
    text = "".join(scenario.model_dump_json() for scenario in scenarios)
    return {
        "format": 2,
        "kind": "placement-ppo-checkpoint",
        "scenarios": hashlib.sha256(text.encode()).hexdigest(),
        "config": asdict(config),
        "constants": [asdict(each) for each in constants],
        "decisions": decisions,
        "environments": environments,
        "seed": seed,
    }


def _batches(
    scenario: Scenario, environments: int, seed: int, config: PpoConfig, constants: TwinConstants
) -> tuple[DecisionBatch, DecisionBatch]:
    """The environments to learn in, in coarser slots, and those to judge by."""
    coarse = replace(constants, slot_ns=config.slot_s * NS_PER_S)
    pool = pack_plans(training_plans(scenario, config.pool))
    learning = DecisionBatch(
        pool, environments, seed, coarse, config.weights, shaped=config.shaped,
        potential_discount=config.potential_discount,
    )  # fmt: skip
    return learning, _judges(validation_plans(scenario, config.validation), constants, config)


def _judges(plans: Sequence[RunPlan], constants: TwinConstants, config: PpoConfig) -> DecisionBatch:
    pool = pack_plans(plans)
    return DecisionBatch(pool, len(plans), 0, constants, config.weights, shaped=False)


def compare(
    scenario: Scenario, learned: Policy, seed: int, config: PpoConfig, constants: TwinConstants
) -> dict[str, Evaluation]:
    """The learned policy and the heuristics on the same held-out plans of the scenario."""
    plans = held_out_plans(scenario, config.held_out)
    policies: Sequence[tuple[str, Policy]] = (
        ("deft", DeftPolicy(seed)),
        ("greedy-delay", GreedyDelayPolicy()),
        ("ppo", learned),
    )
    return {name: evaluate(p, plans, constants, config.weights) for name, p in policies}
