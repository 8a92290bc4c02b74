"""Placement as Gymnasium environments, on the twin of a scenario: one, or many in step."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
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
from testbed.scenario.placement import BoolArray
from testbed.scenario.types import NS_PER_S
from testbed.twin.constants import CostWeights, constants_for
from testbed.twin.decisions import DecisionBatch, ended
from testbed.twin.pack import IntArray, pack_plans

Observation = dict[str, NDArray[Any]]
_KEYS = ("primary_mask", "backup_mask")


def observation_space(nodes: int) -> spaces.Dict:
    """What an environment on `nodes` nodes shows."""
    return spaces.Dict(
        {
            "node": spaces.Box(-LARGEST, LARGEST, (nodes, NODE_FEATURES), np.float32),
            "request": spaces.Box(-LARGEST, LARGEST, (REQUEST_FEATURES,), np.float32),
            "primary_mask": spaces.MultiBinary(nodes + 1),
            "backup_mask": spaces.MultiBinary(nodes),
        }
    )


class _Twin:
    """B environments: actions in, observations out."""

    def __init__(
        self,
        scenario: Scenario,
        environments: int,
        plans: int,
        slot_s: float,
        shaped: bool,
        weights: CostWeights | None,
    ) -> None:
        pool = pack_plans(training_plans(scenario, plans))
        constants = constants_for(scenario, slot_ns=slot_s * NS_PER_S)
        self.batch = DecisionBatch(pool, environments, 0, constants, weights, shaped=shaped)
        self.nodes = len(pool.capacity_cores)
        self.plans = plans

    def look(self) -> Observation:
        """What every environment shows, [B, ...]."""
        seen = self.batch.observe()
        primary, backup = masks(seen)
        return {
            "node": node_features(seen),
            "request": request_features(seen),
            "primary_mask": primary.astype(np.int8),
            "backup_mask": backup.astype(np.int8),
        }

    def act(self, seen: Observation, actions: NDArray[np.int64]) -> tuple[NDArray[Any], BoolArray]:
        """Carry out actions [B, 2]; (rewards, ends). One outside the masks rejects."""
        primary, backup = _allowed(seen, actions)
        return self.batch.step(primary, backup, again=False)


def _allowed(seen: Observation, actions: NDArray[np.int64]) -> tuple[IntArray, IntArray]:
    """The nodes of actions [B, 2], -1 for what is no choice."""
    rows = np.arange(len(actions))
    primary, backup = actions[:, 0].astype(np.int64), actions[:, 1].astype(np.int64)
    nodes = seen["backup_mask"].shape[1]
    good = seen["primary_mask"][rows, primary].astype(bool) & (primary < nodes)
    others = seen["backup_mask"].astype(bool)
    others[rows[good], primary[good]] = False
    alone = ~others.any(axis=1)
    good &= alone | others[rows, backup]
    return np.where(good, primary, -1), np.where(good & ~alone, backup, -1)


class PlacementEnv(gym.Env[Observation, NDArray[np.int64]]):
    """Places the chains of one plan after another, function by function.

    Observation: a Dict of "node" [N, F] and "request" [G] (features, cut at +-LARGEST),
    "primary_mask" [N + 1] and "backup_mask" [N] (1: may be chosen); the masks are in `info` too.
    Action: MultiDiscrete [N + 1, N]: the primary (N rejects the request) and the backup. An
    action outside the masks, or with both on one node, counts as a rejection. After a fault, a
    new backup is asked for: the mask then leaves the primary as it is. Where a server is overloaded
    (section `overload`) it is asked where a primary goes: the mask leaves the backup as it is.
    Reward: minus the cost of the twin's slots that pass until the next decision (CostWeights), or,
    `shaped`, by how much the decision lowers the expected cost (see DecisionBatch); a rejection
    costs as much as losing all packets of the request. Both add up to the same.
    Termination: after the last decision of the plan; never truncated.
    """

    def __init__(
        self,
        scenario: Scenario,
        plans: int = 64,
        slot_s: float = 0.5,
        shaped: bool = True,
        weights: CostWeights | None = None,
    ) -> None:
        """`plans`: how many training plans episodes are drawn from; `slot_s`: the twin's slot."""
        self._twin = _Twin(scenario, 1, plans, slot_s, shaped, weights)
        self._seen: Observation = {}
        nodes = self._twin.nodes
        self.action_space = spaces.MultiDiscrete([nodes + 1, nodes])
        self.observation_space = observation_space(nodes)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a plan drawn by the environment's own generator."""
        super().reset(seed=seed)
        drawn = self.np_random.integers(self._twin.plans)
        self._twin.batch.reset(np.array([drawn], dtype=np.int64))
        self._seen = self._twin.look()
        return self._first(), self._info()

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide what is asked. After the end: the last observation."""
        rewards, done = self._twin.act(self._seen, np.asarray(action)[None])
        if not done[0]:
            self._seen = self._twin.look()
        return self._first(), float(rewards[0]), bool(done[0]), False, self._info()

    def action_masks(self) -> BoolArray:
        """Both masks one after the other, [2 N + 1], as sb3-contrib's MaskablePPO asks for them."""
        flat: BoolArray = np.concatenate([self._seen[key][0] for key in _KEYS]).astype(bool)
        return flat

    def _first(self) -> Observation:
        return {key: value[0].copy() for key, value in self._seen.items()}

    def _info(self) -> dict[str, Any]:
        return {key: self._seen[key][0].copy() for key in _KEYS}


class PlacementVectorEnv(gym.vector.VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """B placement environments that the twin carries out together; see PlacementEnv.

    An environment that has ended begins its next plan at the step after (Gymnasium's NEXT_STEP):
    that step's action plays no part there, and its reward is 0.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        scenario: Scenario,
        environments: int,
        plans: int = 64,
        slot_s: float = 0.5,
        shaped: bool = True,
        weights: CostWeights | None = None,
    ) -> None:
        """`environments` is B; the rest as for PlacementEnv."""
        self._twin = _Twin(scenario, environments, plans, slot_s, shaped, weights)
        self._seen: Observation = {}
        nodes = self._twin.nodes
        self.num_envs = environments
        self.single_action_space = spaces.MultiDiscrete([nodes + 1, nodes])
        self.single_observation_space = observation_space(nodes)
        self.action_space = batch_space(self.single_action_space, environments)
        self.observation_space = batch_space(self.single_observation_space, environments)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a plan in every environment, drawn by one generator (`seed`: an int or none)."""
        super().reset(seed=seed[0] if isinstance(seed, list) else seed)
        drawn = self.np_random.integers(self._twin.plans, size=self.num_envs)
        self._twin.batch.reset(drawn.astype(np.int64))
        return self._look()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[Any], BoolArray, BoolArray, dict[str, Any]]:
        """Decide in every environment."""
        over = ended(self._twin.batch)
        rewards, done = self._twin.act(self._seen, np.asarray(actions))
        for b in np.flatnonzero(over):
            self._twin.batch.begin(int(b), int(self.np_random.integers(self._twin.plans)))
        seen, info = self._look()
        return seen, rewards, done & ~over, np.zeros(self.num_envs, dtype=np.bool_), info

    def _look(self) -> tuple[Observation, dict[str, Any]]:
        self._seen = self._twin.look()
        return dict(self._seen), {key: self._seen[key].copy() for key in _KEYS}
