"""What happened in a rollout, kept for the updates that follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agents.common.gae import advantages
from agents.common.networks import Inputs


class Batch(NamedTuple):
    """M decisions with what is needed to learn from them."""

    inputs: Inputs
    primary: torch.Tensor  # [M], N means reject
    backup: torch.Tensor  # [M], ignored where there is no choice of a backup
    log_probability: torch.Tensor  # [M], when the decision was taken
    advantage: torch.Tensor  # [M]
    value_target: torch.Tensor  # [M]


class RolloutBuffer:
    """T steps of B environments; `add` each step, then `batches`."""

    def __init__(self) -> None:
        self._inputs: list[Inputs] = []
        self._chosen: list[tuple[torch.Tensor, ...]] = []
        self._rewards: list[NDArray[np.float64]] = []
        self._done: list[NDArray[np.bool_]] = []

    def add(
        self,
        inputs: Inputs,
        primary: torch.Tensor,
        backup: torch.Tensor,
        log_probability: torch.Tensor,
        value: torch.Tensor,
        rewards: NDArray[np.float64],
        done: NDArray[np.bool_],
    ) -> None:
        """Keep one step of all environments; every array is [B, ...]."""
        self._inputs.append(inputs)
        self._chosen.append((primary, backup, log_probability, value))
        self._rewards.append(rewards)
        self._done.append(done)

    def finish(self, last_values: torch.Tensor, gamma: float, lam: float) -> Batch:
        """All decisions with their advantages, as one batch of T x B."""
        values = torch.stack([chosen[3] for chosen in self._chosen]).numpy()
        advantage, target = advantages(
            np.stack(self._rewards), values, np.stack(self._done), last_values.numpy(), gamma, lam
        )
        stacked = [torch.cat(column) for column in zip(*self._chosen, strict=True)]
        return Batch(
            inputs=concatenate(self._inputs),
            primary=stacked[0],
            backup=stacked[1],
            log_probability=stacked[2],
            advantage=torch.from_numpy(advantage.reshape(-1)),
            value_target=torch.from_numpy(target.reshape(-1)),
        )


def concatenate(many: list[Inputs]) -> Inputs:
    """The inputs one after another along the batch; the delays are those of the first."""
    return Inputs(
        node=torch.cat([one.node for one in many]),
        request=torch.cat([one.request for one in many]),
        alive=torch.cat([one.alive for one in many]),
        primary_mask=torch.cat([one.primary_mask for one in many]),
        backup_mask=torch.cat([one.backup_mask for one in many]),
        delay=many[0].delay,
    )


def select(batch: Batch, rows: torch.Tensor) -> Batch:
    """The decisions with the given numbers [m]."""
    inputs = batch.inputs
    return Batch(
        Inputs(
            inputs.node[rows], inputs.request[rows], inputs.alive[rows],
            inputs.primary_mask[rows], inputs.backup_mask[rows], inputs.delay,
        ),
        *(column[rows] for column in batch[1:]),
    )  # fmt: skip


def minibatches(batch: Batch, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """The batch in a random order, `size` decisions at a time; a short rest is left out."""
    count = len(batch.primary)
    order = torch.randperm(count, generator=generator)
    size = min(size, count)
    for first in range(0, count - size + 1, size):
        yield select(batch, order[first : first + size])
