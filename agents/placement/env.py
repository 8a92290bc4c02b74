"""Placement as a Gymnasium environment, on the twin of a scenario."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents.placement.features import (
    LARGEST,
    NODE_FEATURES,
    REQUEST_FEATURES,
    masks,
    node_features,
    request_features,
)
from agents.placement.plans import training_plans
from testbed.scenario.model import Scenario
from testbed.scenario.types import NS_PER_S
from testbed.twin.constants import constants_for
from testbed.twin.decisions import DecisionBatch
from testbed.twin.pack import pack_plans

Observation = dict[str, NDArray[Any]]
_KEYS = ("primary_mask", "backup_mask")


class PlacementEnv(gym.Env[Observation, NDArray[np.int64]]):
    """Places the chains of one plan after another, function by function.

    Observation: a Dict of "node" [N, F] and "request" [G] (features, cut at +-LARGEST),
    "primary_mask" [N + 1] and "backup_mask" [N] (1: may be chosen); the masks are in `info` too.
    Action: MultiDiscrete [N + 1, N]: the primary (N rejects the request) and the backup. An
    action outside the masks, or with both on one node, counts as a rejection.
    Reward: by how much the cost of the plan on the twin falls with the decision (see
    DecisionBatch); a rejection costs as much as losing all packets of the request.
    Termination: after the last request of the plan; never truncated.
    """

    def __init__(self, scenario: Scenario, plans: int = 64, slot_s: float = 0.5) -> None:
        """`plans`: how many training plans episodes are drawn from; `slot_s`: the twin's slot."""
        pool = pack_plans(training_plans(scenario, plans))
        constants = constants_for(scenario, slot_ns=slot_s * NS_PER_S)
        self._plans = plans
        self._batch = DecisionBatch(pool, 1, 0, constants)
        self._nodes = len(pool.capacity_cores)
        self._seen: Observation = {}
        self.action_space = spaces.MultiDiscrete([self._nodes + 1, self._nodes])
        self.observation_space = spaces.Dict(
            {
                "node": spaces.Box(-LARGEST, LARGEST, (self._nodes, NODE_FEATURES), np.float32),
                "request": spaces.Box(-LARGEST, LARGEST, (REQUEST_FEATURES,), np.float32),
                "primary_mask": spaces.MultiBinary(self._nodes + 1),
                "backup_mask": spaces.MultiBinary(self._nodes),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a plan drawn by the environment's own generator."""
        super().reset(seed=seed)
        drawn = self.np_random.integers(self._plans)
        self._batch.reset(np.array([drawn], dtype=np.int64))
        self._look()
        return dict(self._seen), self._info()

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Place the next function, or reject its request. After the end: the last observation."""
        primary, backup = self._checked(int(action[0]), int(action[1]))
        rewards, done = self._batch.step(np.array([primary]), np.array([backup]))
        if done[0]:
            self._seen = {key: value.copy() for key, value in self._seen.items()}
        else:
            self._look()
        return dict(self._seen), float(rewards[0]), bool(done[0]), False, self._info()

    def _checked(self, primary: int, backup: int) -> tuple[int, int]:
        allowed = self._seen["backup_mask"].astype(bool)
        if primary == self._nodes or not self._seen["primary_mask"][primary]:
            return -1, -1
        allowed[primary] = False
        if not allowed.any():
            return primary, -1
        return (primary, backup) if allowed[backup] else (-1, -1)

    def _look(self) -> None:
        seen = self._batch.observe()
        primary, backup = masks(seen)
        self._seen = {
            "node": node_features(seen)[0],
            "request": request_features(seen)[0],
            "primary_mask": primary[0].astype(np.int8),
            "backup_mask": backup[0].astype(np.int8),
        }

    def _info(self) -> dict[str, Any]:
        return {key: self._seen[key].copy() for key in _KEYS}
