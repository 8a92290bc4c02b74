"""Provisioning as Gymnasium environments, one episode or many."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from agents.common.vector import Actions, BatchEnv, Observation, SingleEnv, Step
from agents.provisioning.batch import ProvisioningBatch
from agents.provisioning.generator import GeneratorConfig, draw_stream
from agents.provisioning.observation_columns import CENTRE, CUT, OWN, PENDING, UNDERWAY
from agents.provisioning.reward import RewardWeights
from agents.provisioning.types import ACTIONS, TYPES
from agents.provisioning.types import Observation as Seen


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


def as_dict(seen: Seen) -> Observation:
    """The observations [B] under the names of `observation_space`, copied."""
    return {
        "own": seen.own.copy(),
        "underway": seen.underway.copy(),
        "pending": seen.pending.copy(),
        "centres": seen.centres.copy(),
        "present": seen.present.astype(np.int8),
        "action_mask": seen.mask.astype(np.int8),
    }


class _Streams:
    """B episodes on streams of requests; see `agents.common.vector.World`."""

    masks: tuple[str, ...] = ("action_mask",)

    def __init__(
        self, episodes: int, config: GeneratorConfig | None, rewards: RewardWeights | None
    ) -> None:
        self._config = config or GeneratorConfig()
        room = (self._config.centres[1], self._config.bundles)
        streams = [draw_stream(self._config, (b,)) for b in range(episodes)]
        self._batch = ProvisioningBatch(streams, rewards, room)
        self.episodes = episodes
        self.observation_space = observation_space(self._config.centres[1])
        self.action_space = spaces.Discrete(ACTIONS)

    def begin(self, b: int, generator: np.random.Generator) -> None:
        """Begin a stream."""
        self._batch.load(b, draw_stream(self._config, (int(generator.integers(2**62)),)))

    def observe(self) -> Observation:
        """The entries of `observation_space`, [B, ...]."""
        return as_dict(self._batch.observe())

    def step(self, actions: Actions) -> Step:
        """Act in every episode. A stream is never cut off."""
        rewards, over = self._batch.step(actions), self._batch.done.copy()
        return Step(rewards, over, np.zeros_like(over))


class ProvisioningEnv(SingleEnv):
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
        super().__init__(_Streams(1, streams, rewards))


class ProvisioningVectorEnv(BatchEnv):
    """B episodes in one simulator call; see ProvisioningEnv and BatchEnv."""

    def __init__(
        self,
        num_envs: int,
        streams: GeneratorConfig | None = None,
        rewards: RewardWeights | None = None,
    ) -> None:
        """`num_envs` episodes drawn from `streams`."""
        super().__init__(_Streams(num_envs, streams, rewards))
