"""What happened in a rollout, kept for the updates that follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from agents.common.gae import advantages
from agents.common.worlds import columns, each


class Decision(Protocol):
    """What a network chose in B states, and how likely that was."""

    @property
    def action(self) -> tuple[torch.Tensor, ...]:
        """The parts of the action, each [B]."""

    @property
    def log_probability(self) -> torch.Tensor:
        """Of the whole action, [B]."""

    @property
    def value(self) -> torch.Tensor:
        """Of the state, [B]."""


class Batch(NamedTuple):
    """M decisions with what is needed to learn from them."""

    inputs: Any  # what was seen, [M, ...]
    action: tuple[torch.Tensor, ...]  # each [M]
    log_probability: torch.Tensor  # [M], when the decision was taken
    advantage: torch.Tensor  # [M]
    value_target: torch.Tensor  # [M]


class CutValues(NamedTuple):
    """Which episodes were cut off at a step, and what the states were worth at which they were."""

    where: NDArray[np.bool_]  # [B]
    values: NDArray[np.floating]  # [B], of the others any number


class RolloutBuffer:
    """T steps of B environments; `add` each step, then `finish`."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._at = 0
        self._inputs: Any = None
        self._columns: tuple[str, ...] = ()
        self._chosen: list[Decision] = []
        self._rewards: list[NDArray[np.float64]] = []
        self._discounts: list[NDArray[np.float64]] = []
        self._cuts: list[CutValues | None] = []

    def add(
        self,
        inputs: Any,
        decision: Decision,
        rewards: NDArray[np.float64],
        discounts: NDArray[np.float64],
        cut: CutValues | None = None,
    ) -> None:
        """Keep one step of all environments; every array is [B, ...].

        `discounts` say what the state that follows counts for (0 after an end), `cut` which
        episodes were cut off.
        """
        if self._inputs is None:
            self._columns = columns(inputs)
            self._inputs = each(
                lambda column: column.new_empty((self._steps, *column.shape)), inputs
            )
        for name in self._columns:
            getattr(self._inputs, name)[self._at] = getattr(inputs, name)
        self._at += 1
        self._chosen.append(decision)
        self._rewards.append(rewards)
        self._discounts.append(discounts)
        self._cuts.append(cut)

    def finish(self, last_values: torch.Tensor, lam: float) -> Batch:
        """All decisions with their advantages, as one batch of T x B.

        `last_values` [B] is what the states are worth that are seen now.
        """
        if self._inputs is None:
            raise ValueError("an empty buffer: expected at least one step")
        device = last_values.device
        values = torch.stack([chosen.value for chosen in self._chosen]).cpu().numpy()
        following = np.concatenate([values[1:], last_values.cpu().numpy()[None]])
        truncated = np.zeros(values.shape, dtype=np.bool_)
        for t, cut in enumerate(self._cuts):
            if cut is not None:
                truncated[t] = cut.where
                following[t, cut.where] = cut.values[cut.where]
        advantage, target = advantages(
            np.stack(self._rewards), values, following, np.stack(self._discounts), truncated, lam
        )
        parts = zip(*(chosen.action for chosen in self._chosen), strict=True)
        return Batch(
            inputs=each(lambda column: column.flatten(0, 1), self._inputs),
            action=tuple(torch.cat(part) for part in parts),
            log_probability=torch.cat([chosen.log_probability for chosen in self._chosen]),
            advantage=torch.from_numpy(advantage.reshape(-1)).to(device),
            value_target=torch.from_numpy(target.reshape(-1)).to(device),
        )


def select(batch: Batch, chosen: torch.Tensor | slice) -> Batch:
    """The decisions with the given numbers [m]; of a slice, as a view."""
    return Batch(
        each(lambda column: column[chosen], batch.inputs),
        tuple(part[chosen] for part in batch.action),
        *(column[chosen] for column in batch[2:]),
    )


def minibatches(batch: Batch, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """The batch in a random order, `size` decisions at a time; a short rest is left out."""
    count = len(batch.advantage)
    size = min(size, count)
    order = torch.randperm(count, generator=generator)[: count // size * size]
    mixed = select(batch, order.to(batch.advantage.device))
    for first in range(0, len(order), size):
        yield select(mixed, slice(first, first + size))
