"""What happened in a rollout, kept for the updates that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agents.common.gae import advantages
from agents.common.networks import Decision, Inputs


class Batch(NamedTuple):
    """M decisions with what is needed to learn from them."""

    inputs: Inputs
    primary: torch.Tensor  # [M], N means reject
    backup: torch.Tensor  # [M], ignored where there is no choice of a backup
    log_probability: torch.Tensor  # [M], when the decision was taken
    advantage: torch.Tensor  # [M]
    value_target: torch.Tensor  # [M]


class Cut(NamedTuple):
    """Which episodes were cut off at a step, and what the states were worth at which they were."""

    where: NDArray[np.bool_]  # [B]
    values: NDArray[np.floating]  # [B], of the others any number


class RolloutBuffer:
    """T steps of B environments with the same substrate; `add` each step, then `finish`."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._at = 0
        self._inputs: Inputs | None = None
        self._chosen: list[Decision] = []
        self._rewards: list[NDArray[np.float64]] = []
        self._terminated: list[NDArray[np.bool_]] = []
        self._cuts: list[Cut | None] = []

    def add(
        self,
        inputs: Inputs,
        decision: Decision,
        rewards: NDArray[np.float64],
        terminated: NDArray[np.bool_],
        cut: Cut | None = None,
    ) -> None:
        """Keep one step of all environments; every array is [B, ...].

        `terminated` says which episodes came to their end, `cut` which were cut off.
        """
        if self._inputs is None:
            self._inputs = each(
                lambda column: column.new_empty((self._steps, *column.shape)), inputs
            )
        for kept, column in zip(self._inputs[:-1], inputs[:-1], strict=True):
            kept[self._at] = column
        self._at += 1
        self._chosen.append(decision)
        self._rewards.append(rewards)
        self._terminated.append(terminated)
        self._cuts.append(cut)

    def finish(self, last_values: torch.Tensor, gamma: float, lam: float) -> Batch:
        """All decisions with their advantages, as one batch of T x B.

        `last_values` [B] is what the states are worth that are seen now.
        """
        if self._inputs is None:
            raise ValueError("an empty buffer: expected at least one step")
        values = torch.stack([chosen.value for chosen in self._chosen]).cpu().numpy()
        following = np.concatenate([values[1:], last_values.cpu().numpy()[None]])
        truncated = np.zeros(values.shape, dtype=np.bool_)
        for t, cut in enumerate(self._cuts):
            if cut is not None:
                truncated[t] = cut.where
                following[t, cut.where] = cut.values[cut.where]
        advantage, target = advantages(
            np.stack(self._rewards), values, following, np.stack(self._terminated), truncated,
            gamma, lam,
        )  # fmt: skip
        device = self._inputs.node.device
        return Batch(
            inputs=each(lambda column: column.flatten(0, 1), self._inputs),
            primary=torch.cat([chosen.primary for chosen in self._chosen]),
            backup=torch.cat([chosen.backup for chosen in self._chosen]),
            log_probability=torch.cat([chosen.log_probability for chosen in self._chosen]),
            advantage=torch.from_numpy(advantage.reshape(-1)).to(device),
            value_target=torch.from_numpy(target.reshape(-1)).to(device),
        )


def each(change: Callable[[torch.Tensor], torch.Tensor], inputs: Inputs) -> Inputs:
    """The inputs with every column changed; delays belong to the substrate and stay."""
    columns = [change(column) for column in inputs[:-1]]
    return Inputs(*columns, inputs.delay)  # type: ignore[call-arg]


def select(batch: Batch, chosen: torch.Tensor | slice) -> Batch:
    """The decisions with the given numbers [m]; of a slice, as a view."""
    return Batch(
        each(lambda column: column[chosen], batch.inputs), *(column[chosen] for column in batch[1:])
    )


def minibatches(batch: Batch, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """The batch in a random order, `size` decisions at a time; a short rest is left out."""
    count = len(batch.primary)
    size = min(size, count)
    order = torch.randperm(count, generator=generator)[: count // size * size]
    mixed = select(batch, order.to(batch.primary.device))
    for first in range(0, len(order), size):
        yield select(mixed, slice(first, first + size))
