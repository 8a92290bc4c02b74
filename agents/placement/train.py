"""Trains `ppo` from nothing in segments: the best weights are kept, and it can be resumed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents.common.checkpoints import checkpoint_of
from agents.common.trainer import Course, Progress, Trained, carry_through
from agents.learners.ppo import Learner
from agents.placement.baselines import DeftPolicy, GreedyDelayPolicy
from agents.placement.batch import DecisionBatch
from agents.placement.config import PpoConfig
from agents.placement.learning import PlacementWorld, mean_cost
from agents.placement.model import PpoPolicy, make_network, save_model
from agents.placement.outcomes import Evaluation, evaluate
from agents.placement.plans import held_out_plans, training_plans, validation_plans
from testbed.decisions.policy import Policy
from testbed.scenario.model import Scenario
from testbed.scenario.types import NS_PER_S, RunPlan
from testbed.twin.calibration import Calibration
from testbed.twin.constants import TwinConstants, constants_for
from testbed.twin.pack import pack_plans


@dataclass(frozen=True, slots=True)
class TrainReport(Trained):
    """What a training did, and each policy on held-out plans of the first scenario.

    A score is the mean cost of a validation plan with a minus before it.
    """

    seed: int
    decisions_per_s: float
    device: str
    evaluation: dict[str, Evaluation]

    @property
    def best_cost(self) -> float:
        """The least mean cost of a validation plan."""
        return -self.best_score

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "best_cost": self.best_cost}


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

    After each segment the weights are judged on validation plans; see
    `agents.common.trainer.carry_through` for what resumes, and what is raised. `judged` is told,
    after each segment, its number and the mean validation cost, and what it raises ends the
    training. Without `compares` no held-out plan is made, and `evaluation` is empty. The twin has
    the constants of `calibration`, or its defaults.
    """
    config = config or PpoConfig()
    torch.set_num_threads(1)
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rounds = max(1, -(-decisions // (config.steps * environments)))
    constants = [constants_for(scenario, calibration) for scenario in scenarios]
    substrates = [
        _batches(scenario, environments, seed, config, judging)
        for scenario, judging in zip(scenarios, constants, strict=True)
    ]
    worlds = [PlacementWorld(batch, device) for batch, _ in substrates]
    network = make_network(config.size, seed)
    learner = Learner(network, worlds, config, seed, rounds, device)

    def judge(trained: nn.Module) -> dict[str, float]:
        costs = [mean_cost(trained, batch, device) for _, batch in substrates]  # type: ignore[arg-type]
        cost = sum(costs) / len(costs)
        if judged is not None:
            judged(-(-learner.done // config.segment), cost)
        return {"validation_cost": cost, "score": -cost}

    header = _header(scenarios, config, decisions, environments, seed, constants)
    course = Course(out, header, config.segment, config.segment, resume, logs)
    done = carry_through(learner, judge, course, progress)
    save_model(out, network.cpu(), config.size)
    checkpoint_of(out).unlink()
    wall_s = time.monotonic() - began  # the plans and their packing count too
    learned = PpoPolicy(network)
    return TrainReport(
        **{name: getattr(done, name) for name in Trained.__dataclass_fields__} | {"wall_s": wall_s},
        seed=seed,
        decisions_per_s=done.decisions / wall_s,
        device=str(device),
        evaluation=compare(scenarios[0], learned, seed, config, constants[0]) if compares else {},
    )


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
        "format": 3,  # 2: the trainer was of placement alone
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
