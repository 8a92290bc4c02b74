"""Provisioning as the learner meets it: rows of numbers, episodes that follow one another."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from agents.provisioning.batch import ProvisioningBatch
from agents.provisioning.config import DqnConfig
from agents.provisioning.generator import draw_stream
from agents.provisioning.network import pack
from agents.provisioning.types import (
    ACTIONS_A_STEP,
    BoolArray,
    Float32Array,
    FloatArray,
    IntArray,
)


class Outcome(NamedTuple):
    """What a step gave in each of B environments; a new episode follows where one is done."""

    reward: FloatArray
    elapsed: FloatArray  # time, in the unit of the discount
    done: BoolArray


class Problem(Protocol):
    """B environments that begin anew by themselves."""

    def observe(self) -> tuple[Float32Array, BoolArray]:
        """Rows [B, W] and valid actions [B, A]."""

    def step(self, actions: IntArray) -> Outcome:
        """Act in all of them."""


class ProvisioningProblem:
    """Episodes of streams drawn one after another; environment b's k-th has seed (seed, 0, b, k)."""

    def __init__(self, config: DqnConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._number = np.zeros(config.environments, dtype=np.int64)
        streams = [
            draw_stream(config.streams, (seed, 0, b, 0)) for b in range(config.environments)
        ]
        room = (config.streams.centres[1], config.streams.bundles)
        self._batch = ProvisioningBatch(streams, config.rewards, room)

    def observe(self) -> tuple[Float32Array, BoolArray]:
        """Rows and masks of all episodes."""
        seen = self._batch.observe()
        return pack(seen), seen.mask.copy()

    def step(self, actions: IntArray) -> Outcome:
        """Act in all episodes and begin new ones in place of those that are over."""
        state = self._batch.state
        before = state.step.copy()
        reward = self._batch.step(actions) * self._config.reward_scale
        elapsed = (state.step - before) + 1.0 / ACTIONS_A_STEP
        done = state.done.copy()
        for b in np.flatnonzero(done):
            self._number[b] += 1
            drawn = draw_stream(self._config.streams, (self._seed, 0, int(b), int(self._number[b])))
            self._batch.load(int(b), drawn)
        return Outcome(reward, elapsed, done)

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
