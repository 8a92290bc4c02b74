"""Provisioning as Gymnasium environments, one episode or many."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from agents.provisioning.batch import ProvisioningBatch
from agents.provisioning.generator import GeneratorConfig, draw_stream
from agents.provisioning.observe import CENTRE, CUT, OWN, PENDING, UNDERWAY
from agents.provisioning.reward import RewardWeights
from agents.provisioning.types import ACTIONS, TYPES, WAIT, Observation

Dict = dict[str, NDArray[Any]]


def observation_space(centres: int) -> spaces.Dict:
    """Of one episode with at most `centres` data centres; columns as in observe.py."""
    return spaces.Dict(
        {
            "own": spaces.Box(0.0, CUT, (OWN,), np.float32),
            "underway": spaces.Box(0.0, CUT, (TYPES, UNDERWAY), np.float32),
            "pending": spaces.Box(0.0, CUT, (TYPES, PENDING), np.float32),
            "centres": spaces.Box(0.0, CUT, (centres, CENTRE), np.float32),
            "present": spaces.MultiBinary(centres),
            "action_mask": spaces.MultiBinary(ACTIONS),
        }
    )


def as_dict(seen: Observation) -> Dict:
    """The observations [B] under the names of `observation_space`, copied."""
    return {
        "own": seen.own.copy(),
        "underway": seen.underway.copy(),
        "pending": seen.pending.copy(),
        "centres": seen.centres.copy(),
        "present": seen.present.astype(np.int8),
        "action_mask": seen.mask.astype(np.int8),
    }


class ProvisioningEnv(gym.Env[Dict, np.int64]):  # type: ignore[misc]
    """One data centre after another decides what it runs.

    Observation: a Dict of "own" [OWN], "underway" [6, UNDERWAY], "pending" [6, PENDING], "centres"
    [D, CENTRE] (rows of zeros beyond those that are there), "present" [D] and "action_mask" [13]
    (1: valid), the mask in `info` too. Values lie within 0 and CUT.
    Action: Discrete(13): allocate one of 6 VNFs, uninstall one of 6, wait.
    Reward: RewardWeights; an invalid action changes nothing but the count of decisions.
    Termination: when no more requests will come and the fate of each is known; never truncated.
    """

    def __init__(
        self, streams: GeneratorConfig | None = None, rewards: RewardWeights | None = None
    ) -> None:
        """`streams`: what episodes are drawn from."""
        self._config = streams or GeneratorConfig()
        self._rewards = rewards or RewardWeights()
        self._batch: ProvisioningBatch | None = None
        self.action_space = spaces.Discrete(ACTIONS)
        self.observation_space = observation_space(self._config.centres[1])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Dict, dict[str, Any]]:
        """Begin a stream drawn by the environment's own generator."""
        super().reset(seed=seed)
        drawn = draw_stream(self._config, (int(self.np_random.integers(2**62)),))
        room = (self._config.centres[1], self._config.bundles)
        self._batch = ProvisioningBatch([drawn], self._rewards, room)
        return self._look(self._batch)

    def step(self, action: np.int64) -> tuple[Dict, float, bool, bool, dict[str, Any]]:
        """Act at the data centre whose turn it is; after the end nothing happens any more."""
        if self._batch is None:
            raise gym.error.ResetNeeded("call reset before step")
        reward = self._batch.step(np.array([action], dtype=np.int64))
        seen, info = self._look(self._batch)
        return seen, float(reward[0]), bool(self._batch.done[0]), False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Valid actions [13], as sb3-contrib's MaskablePPO asks for them."""
        if self._batch is None:
            raise gym.error.ResetNeeded("call reset before action_masks")
        return self._batch.observe().mask[0].copy()

    def _look(self, batch: ProvisioningBatch) -> tuple[Dict, dict[str, Any]]:
        seen = {name: value[0] for name, value in as_dict(batch.observe()).items()}
        return seen, {"action_mask": seen["action_mask"].copy()}


class ProvisioningVectorEnv(VectorEnv):  # type: ignore[misc]
    """B episodes in one simulator call; each like a ProvisioningEnv of its own.

    An episode that is over begins anew with the step after (AutoresetMode.NEXT_STEP): that step's
    action is ignored and its reward 0.
    """

    def __init__(
        self,
        num_envs: int,
        streams: GeneratorConfig | None = None,
        rewards: RewardWeights | None = None,
    ) -> None:
        """`num_envs` episodes drawn from `streams`."""
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = num_envs
        self._config = streams or GeneratorConfig()
        self._rewards = rewards or RewardWeights()
        self.single_action_space = spaces.Discrete(ACTIONS)
        self.single_observation_space = observation_space(self._config.centres[1])
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._generators: list[np.random.Generator] = []
        self._batch: ProvisioningBatch | None = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Dict, dict[str, Any]]:
        """Begin all episodes; `seed` s gives episode b the seed s + b, as Gymnasium has it."""
        if seed is not None or not self._generators:
            seeds = (
                [None if seed is None else seed + b for b in range(self.num_envs)]
                if not (isinstance(seed, list))
                else seed
            )
            self._generators = [gym.utils.seeding.np_random(one)[0] for one in seeds]
        room = (self._config.centres[1], self._config.bundles)
        streams = [self._draw(b) for b in range(self.num_envs)]
        self._batch = ProvisioningBatch(streams, self._rewards, room)
        return self._look(self._batch)

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Dict, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Act in every episode."""
        if self._batch is None:
            raise gym.error.ResetNeeded("call reset before step")
        over = self._batch.done.copy()
        rewards = self._batch.step(np.where(over, WAIT, actions))
        for b in np.flatnonzero(over):
            self._batch.load(int(b), self._draw(int(b)))
        seen, info = self._look(self._batch)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        return seen, rewards, self._batch.done.copy(), truncated, info

    def _draw(self, b: int) -> Any:
        return draw_stream(self._config, (int(self._generators[b].integers(2**62)),))

    def _look(self, batch: ProvisioningBatch) -> tuple[Dict, dict[str, Any]]:
        seen = as_dict(batch.observe())
        return seen, {"action_mask": seen["action_mask"].copy()}
