"""Placement policies by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agents.placement.baselines import (
    BestFitPolicy,
    DeftPolicy,
    FirstFitPolicy,
    GreedyDelayPolicy,
    PlRankPolicy,
    RandomPolicy,
    RoundRobinPolicy,
)
from testbed.decisions.policy import Policy
from testbed.scenario.errors import InputError
from testbed.scenario.plan import DEFAULT_FUNCTIONS
from testbed.scenario.problems.deciding import POLICIES
from testbed.scenario.types import NS_PER_S, FunctionName, FunctionProfile, RunPlan
from testbed.twin.constants import TwinConstants

LEARNED = ("ppo", "dqn")
"""Policies that are trained into a model."""
BOUNDS = ("milp-hindsight",)
"""What knows the future: a bound for the others, and no competitor."""
HEURISTICS = tuple(name for name in POLICIES if name not in (*LEARNED, *BOUNDS, "deft"))
"""Policies that decide online and learn nothing, but for `deft`."""

_PLAIN: dict[str, Callable[[int], Policy]] = {
    "deft": DeftPolicy,
    "random": RandomPolicy,
    "round-robin": lambda _: RoundRobinPolicy(),
    "first-fit": lambda _: FirstFitPolicy(),
    "best-fit": lambda _: BestFitPolicy(),
    "greedy-delay": lambda _: GreedyDelayPolicy(),
    "pl-rank": lambda _: PlRankPolicy(),
}


def make_policy(
    name: str,
    seed: int,
    model: Path | None,
    plan: RunPlan | None = None,
    constants: TwinConstants | None = None,
) -> Policy:
    """The policy called `name`.

    `seed` is for what a policy draws; `model` is the file that a learned one was trained into, or
    that `ppo` was exported to (.onnx); `plan` is what `milp-hindsight` knows beforehand, and tells
    `milp` what functions cost (else they cost the default). `constants` are those of the twin's
    cost. Raises InputError that names "policy", "model" or "plan".
    """
    if name in _PLAIN:
        return _PLAIN[name](seed)
    if name == "ppo":
        return _ppo(model)
    if name == "dqn":
        return _provisioning(model, name)
    if name in ("milp", "milp-hindsight"):
        return _solver(name, plan, constants or TwinConstants())
    raise InputError("policy", name, f"one of {', '.join(POLICIES)}, and one that can be made")


def make_policy_of_provisioning(
    name: str,
    seed: int,
    model: Path | None,
    plan: RunPlan | None = None,
    constants: TwinConstants | None = None,
) -> Policy:
    """As `make_policy`, where `dqn` and `ppo` have learned provisioning and are asked to place."""
    if name in LEARNED:
        return _provisioning(model, name)
    return make_policy(name, seed, model, plan, constants)


def _ppo(model: Path | None) -> Policy:
    if model is not None and model.suffix == ".onnx":
        from agents.placement.onnx_policy import OnnxPolicy

        return OnnxPolicy(model)
    # The solvers and heuristics need no torch, which takes a second to import.
    import torch

    from agents.placement.model import PpoPolicy, load_model

    torch.set_num_threads(1)  # two threads make small batches slower where a core is busy
    return PpoPolicy(load_model(model))


def _provisioning(model: Path | None, algorithm: str) -> Policy:
    import torch

    from agents.placement.dqn_policy import DqnPolicy
    from agents.provisioning.model import load_model

    torch.set_num_threads(1)
    return DqnPolicy(load_model(model, algorithm))


def _solver(name: str, plan: RunPlan | None, constants: TwinConstants) -> Policy:
    from agents.placement.baselines.chain_cost import StaticCost
    from agents.placement.baselines.hindsight import HindsightPolicy, solve_hindsight
    from agents.placement.baselines.milp import MilpPolicy

    static = StaticCost(constants)
    if name == "milp":
        return MilpPolicy(_default_profiles() if plan is None else plan.profiles, static)
    if plan is None:
        raise InputError("policy", name, "a policy that needs no plan: this one is made for one")
    return HindsightPolicy(solve_hindsight(plan, round(constants.drain_ns), static))


def _default_profiles() -> dict[FunctionName, FunctionProfile]:
    return {
        name: FunctionProfile(
            name,
            round(spec.service_s * NS_PER_S),
            round(spec.backup_service_s * NS_PER_S),
            spec.memory_bytes,
        )
        for name, spec in DEFAULT_FUNCTIONS.items()
    }
