"""Placement policies by name."""

from __future__ import annotations

from pathlib import Path

import torch

from agents.common.policy import Policy
from agents.placement.baselines import DeftPolicy, GreedyDelayPolicy
from agents.placement.model import PpoPolicy, load_model
from testbed.scenario.errors import InputError

POLICIES = ("deft", "greedy-delay", "ppo")


def make_policy(name: str, seed: int, model: Path | None) -> Policy:
    """The policy called `name`.

    `seed` is for what a policy draws; `model` is the file that `ppo` was trained into. Raises
    InputError that names "policy" or "model".
    """
    if name == "deft":
        return DeftPolicy(seed)
    if name == "greedy-delay":
        return GreedyDelayPolicy()
    if name == "ppo":
        torch.set_num_threads(1)  # two threads make small batches slower where a core is busy
        return PpoPolicy(load_model(model))
    raise InputError("policy", name, f"one of {', '.join(POLICIES)}")
