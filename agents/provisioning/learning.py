"""Provisioning as a learner meets it: rows of numbers, episodes that follow one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.common.worlds import Outcome, Rows
from agents.provisioning.batch import ProvisioningBatch
from agents.provisioning.chains import BOUND_TABLE, WORK_DONE, time_left_ms
from agents.provisioning.config import LearningConfig
from agents.provisioning.generator import draw_stream
from agents.provisioning.network import pack
from agents.provisioning.reward import RewardWeights
from agents.provisioning.types import FloatArray, State
from testbed.compiled import compiled


class ProvisioningWorld:
    """Episodes one after another; environment b draws its k-th by the seed (seed, 0, b, k)."""

    def __init__(self, config: LearningConfig, environments: int, seed: int) -> None:
        self._config, self._seed, self.environments = config, seed, environments
        self._number = np.zeros(environments, dtype=np.int64)
        streams = [draw_stream(config.streams, (seed, 0, b, 0)) for b in range(environments)]
        room = (config.streams.centres[1], config.streams.bundles)
        self._batch = ProvisioningBatch(streams, config.rewards, room)

    def observe(self) -> Rows:
        """Rows and masks of all episodes."""
        seen = self._batch.observe()
        return Rows(torch.from_numpy(pack(seen)), torch.from_numpy(seen.mask.copy()))

    def step(self, action: tuple[Tensor]) -> Outcome:
        """Act in all episodes and begin new ones in place of those that are over.

        Time is in milliseconds: decisions within one are not discounted.
        """
        state = self._batch.state
        before, potential = state.step.copy(), self._potential()
        reward = self._batch.step(action[0].numpy())
        passed_ms = (state.step - before).astype(np.float64)
        reward += self._config.potential_discount**passed_ms * self._potential() - potential
        reward *= self._config.reward_scale
        over = state.done.copy()
        for b in np.flatnonzero(over):
            self._number[b] += 1
            drawn = draw_stream(self._config.streams, (self._seed, 0, int(b), int(self._number[b])))
            self._batch.load(int(b), drawn)
        return Outcome(reward, over, passed_ms)

    def _potential(self) -> FloatArray:
        if not self._config.early:
            return np.zeros(self.environments)
        return fate(self._batch.state, self._config.rewards)

    def state(self) -> Sequence[Tensor]:
        """All arrays, as tensors."""
        return [torch.from_numpy(array.copy()) for array in self._arrays()]

    def restore(self, state: Sequence[Tensor]) -> None:
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
