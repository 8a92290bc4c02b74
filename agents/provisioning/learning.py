"""Provisioning as the learner meets it: rows of numbers, episodes that follow one another."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from agents.common.replay import Cut
from agents.provisioning.batch import ProvisioningBatch
from agents.provisioning.chains import BOUND_TABLE, WORK_DONE, time_left_ms
from agents.provisioning.config import DqnConfig
from agents.provisioning.generator import draw_stream
from agents.provisioning.network import pack
from agents.provisioning.reward import RewardWeights
from agents.provisioning.types import (
    BoolArray,
    Float32Array,
    FloatArray,
    IntArray,
    State,
)
from testbed.compiled import compiled


class Outcome(NamedTuple):
    """What a step gave in each of B environments; a new episode follows where one is over."""

    reward: FloatArray
    discount: FloatArray  # what the value of the state that follows counts for; 0: it was the last
    cut: Cut | None = None  # episodes that were cut off: they would have gone on


class Problem(Protocol):
    """B environments that begin anew by themselves."""

    def observe(self) -> tuple[Float32Array, BoolArray]:
        """Rows [B, W] and valid actions [B, A]."""

    def step(self, actions: IntArray) -> Outcome:
        """Act in all of them."""


class ProvisioningProblem:
    """Episodes one after another; environment b draws its k-th by the seed (seed, 0, b, k)."""

    def __init__(self, config: DqnConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._number = np.zeros(config.environments, dtype=np.int64)
        streams = [draw_stream(config.streams, (seed, 0, b, 0)) for b in range(config.environments)]
        room = (config.streams.centres[1], config.streams.bundles)
        self._batch = ProvisioningBatch(streams, config.rewards, room)

    def observe(self) -> tuple[Float32Array, BoolArray]:
        """Rows and masks of all episodes."""
        seen = self._batch.observe()
        return pack(seen), seen.mask.copy()

    def step(self, actions: IntArray) -> Outcome:
        """Act in all episodes and begin new ones in place of those that are over."""
        state = self._batch.state
        before, potential = state.step.copy(), self._potential()
        reward = self._batch.step(actions)
        passed_ms = (state.step - before).astype(np.float64)
        reward += self._config.potential_discount**passed_ms * self._potential() - potential
        reward *= self._config.reward_scale
        discount = self._config.gamma**passed_ms
        discount[state.done] = 0.0
        for b in np.flatnonzero(state.done):
            self._number[b] += 1
            drawn = draw_stream(self._config.streams, (self._seed, 0, int(b), int(self._number[b])))
            self._batch.load(int(b), drawn)
        return Outcome(reward, discount)

    def _potential(self) -> FloatArray:
        if not self._config.early:
            return np.zeros(self._config.environments)
        return fate(self._batch.state, self._config.rewards)

    def state(self) -> list[Tensor]:
        """All arrays, as tensors."""
        return [torch.from_numpy(array.copy()) for array in self._arrays()]

    def restore(self, state: list[Tensor]) -> None:
        """Be as it was when `state` was taken."""
        for array, kept in zip(self._arrays(), state, strict=True):
            array[...] = kept.numpy()

    def _arrays(self) -> list[np.ndarray[Any, Any]]:
        s = self._batch.state
        return [self._number, *s[:-1], *s.totals]


@compiled
def fate(s: State, w: RewardWeights) -> FloatArray:
    """What the chains alive in each of B episodes look like earning, [B].

    A chain of which a share `done` of the work is behind it, with a share `left` of its time left,
    counts left x done x satisfied + (1 - left) x dropped: nothing when it arrives, a drop's price
    when its time is up. The change of it is added to the reward, so that serving a chain pays at
    once, waiting costs at once, and what is left for the end is the difference.
    """
    found = np.zeros(len(s.step))
    for b in range(len(found)):
        for g in range(s.groups[b]):
            kind = s.kind[b, s.bundle[b, g]]
            left = min(1.0, max(0.0, time_left_ms(s, b, g) / BOUND_TABLE[kind]))
            done = WORK_DONE[kind, s.stage[b, g]]
            found[b] += s.size[b, g] * (left * done * w.satisfied + (1.0 - left) * w.dropped)
    return found
