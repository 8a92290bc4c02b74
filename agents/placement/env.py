"""Placement as Gymnasium environments, on the twin of a scenario: one, or many in step."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from agents.common.vector import Actions, BatchEnv, Observation, SingleEnv, Step
from agents.placement.batch import DecisionBatch
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
from testbed.scenario.types import NS_PER_S, BoolArray
from testbed.twin.constants import CostWeights, constants_for
from testbed.twin.pack import IntArray, pack_plans


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
    """B episodes of a scenario on its twin; see `agents.common.vector.World`."""

    masks: tuple[str, ...] = ("primary_mask", "backup_mask")

    def __init__(
        self,
        scenario: Scenario,
        episodes: int,
        plans: int,
        slot_s: float,
        shaped: bool,
        weights: CostWeights | None,
    ) -> None:
        pool = pack_plans(training_plans(scenario, plans))
        constants = constants_for(scenario, slot_ns=slot_s * NS_PER_S)
        self._batch = DecisionBatch(pool, episodes, 0, constants, weights, shaped=shaped)
        self._plans = plans
        self.episodes = episodes
        nodes = len(pool.capacity_cores)
        self.observation_space = observation_space(nodes)
        self.action_space = spaces.MultiDiscrete([nodes + 1, nodes])

    def begin(self, b: int, generator: np.random.Generator) -> None:
        """Begin a plan of the pool."""
        self._batch.begin(b, int(generator.integers(self._plans)))

    def observe(self) -> Observation:
        """The entries of `observation_space`, [B, ...]."""
        seen = self._batch.observe()
        primary, backup = masks(seen)
        return {
            "node": node_features(seen),
            "request": request_features(seen),
            "primary_mask": primary.astype(np.int8),
            "backup_mask": backup.astype(np.int8),
        }

    def step(self, actions: Actions) -> Step:
        """Carry out actions [B, 2]; one outside the masks rejects. A plan is never cut off."""
        primary, backup = _allowed(*masks(self._batch.observe()), actions)
        rewards, over = self._batch.step(primary, backup, again=False)
        return Step(rewards, over, np.zeros_like(over))


def _allowed(
    primary_mask: BoolArray, backup_mask: BoolArray, actions: Actions
) -> tuple[IntArray, IntArray]:
    """The nodes of actions [B, 2], -1 for what is no choice."""
    rows = np.arange(len(actions))
    primary, backup = actions[:, 0], actions[:, 1]
    good = primary_mask[rows, primary] & (primary < backup_mask.shape[1])
    others = backup_mask.copy()
    others[rows[good], primary[good]] = False
    alone = ~others.any(axis=1)
    good &= alone | others[rows, backup]
    return np.where(good, primary, -1), np.where(good & ~alone, backup, -1)


class PlacementEnv(SingleEnv):
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
    Termination: after the last decision of the plan, whose observation is seen once more; never
    truncated.
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
        super().__init__(_Twin(scenario, 1, plans, slot_s, shaped, weights))


class PlacementVectorEnv(BatchEnv):
    """B placement environments that the twin carries out in step; see PlacementEnv, BatchEnv."""

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
        super().__init__(_Twin(scenario, environments, plans, slot_s, shaped, weights))
