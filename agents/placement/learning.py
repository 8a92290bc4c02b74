"""Placement as a learner meets it: the twin's questions as tensors, choices as nodes.

A decision is one function of one request: a primary, then a backup given the primary, or a
rejection; after a fault it is a new backup of a group. Episodes are all that a plan asks for. The
reward of a decision is by how much it changes the expected cost of the rest of the plan
(`agents.placement.reward`); the observation does not tell when load steps and faults come, so what
can be learned is how much head-room is worth its delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.common.worlds import Outcome
from agents.placement.batch import DecisionBatch, ended
from agents.placement.features import make_inputs
from agents.placement.network import Inputs, PlacementNetwork


class PlacementWorld:
    """Episodes of the twin on one substrate, one after another."""

    def __init__(self, batch: DecisionBatch, device: torch.device | None = None) -> None:
        """What is seen is on `device`, the processor if none is named."""
        self._batch, self._device = batch, device
        self.environments = batch.environments

    def observe(self) -> Inputs:
        """What is asked in every episode."""
        return make_inputs(self._batch.observe(), self._device)

    def step(self, action: tuple[Tensor, Tensor]) -> Outcome:
        """Place in every episode: a primary (N: reject), and a backup (-1: none)."""
        nodes = self._batch.nodes
        rewards, done = self._batch.step(*as_nodes(nodes, *action))
        return Outcome(rewards, done)

    def state(self) -> Sequence[Tensor]:
        """All arrays of the twin and of what is asked."""
        return [torch.from_numpy(array.copy()) for array in self._arrays()]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Be as the world was of which `state` is."""
        for mine, kept in zip(self._arrays(), state, strict=True):
            mine[...] = kept.numpy()

    def _arrays(self) -> list[np.ndarray[Any, Any]]:
        return [*self._batch.state, *self._batch.asks]


def as_nodes(
    count: int, primary: Tensor, backup: Tensor
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """A network's choice among `count` nodes as the twin takes it: -1 rejects."""
    chosen = primary.cpu().numpy()
    return np.where(chosen == count, -1, chosen), backup.cpu().numpy()


@torch.no_grad()
def mean_cost(network: PlacementNetwork, batch: DecisionBatch, device: torch.device) -> float:
    """Mean cost of an episode where each environment plays its own plan, by the best choices.

    `batch` pays unshaped rewards; it has as many environments as its pool has plans.
    """
    batch.reset(np.arange(batch.environments))
    total = 0.0
    while not ended(batch).all():
        inputs = make_inputs(batch.observe(), device)
        chosen = network.act(inputs, None)
        nodes = as_nodes(inputs.delay.shape[0], chosen.primary, chosen.backup)
        rewards, _ = batch.step(*nodes, again=False)
        total += float(rewards.sum())
    return -total / batch.environments
