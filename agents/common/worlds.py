"""What a learner meets: B episodes that go on side by side and begin anew by themselves.

What is seen is a NamedTuple of tensors [B, ...]. Columns that all episodes share are named by its
method `shared`, if it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Seen = TypeVar("Seen")


class Cut(NamedTuple):
    """Which of B episodes were cut off at a step, and what was seen where they were.

    An episode that is cut off would have gone on: its last state keeps its worth.
    """

    where: NDArray[np.bool_]  # [B]
    seen: Any  # of the others any


class Outcome(NamedTuple):
    """What a step gave in each of B episodes; a new episode follows where one is over."""

    reward: NDArray[np.float64]  # [B]
    terminated: NDArray[np.bool_]  # [B], the episode came to its end: nothing follows
    elapsed: NDArray[np.float64] | None = None  # [B], in units of the discount; None: 1 each
    cut: Cut | None = None


class World(Protocol):
    """B episodes of one problem."""

    environments: int
    """B."""

    def observe(self) -> Any:
        """What all episodes show, in tensors that stay as they are."""

    def step(self, action: Any) -> Outcome:
        """Act in all of them: a tensor [B] for each part of an action."""

    def state(self) -> Sequence[Tensor]:
        """All that `restore` needs to go on in the same way."""

    def restore(self, state: Sequence[Tensor]) -> None:
        """Be as the world was of which `state` is."""


class Rows(NamedTuple):
    """B states as rows of numbers, and which actions are valid."""

    rows: Tensor  # [B, W]
    mask: Tensor  # [B, A] bool


def each(change: Callable[[Tensor], Tensor], seen: Seen) -> Seen:
    """What is seen with every column changed; columns that all episodes share stay."""
    names = columns(seen)
    found: Seen = seen._replace(  # type: ignore[attr-defined]
        **{name: change(getattr(seen, name)) for name in names}
    )
    return found


def columns(seen: Any) -> tuple[str, ...]:
    """The names of the columns that belong to an episode each."""
    shared = seen.shared() if hasattr(seen, "shared") else ()
    return tuple(name for name in seen._fields if name not in shared)


def discounts(outcome: Outcome, gamma: float) -> NDArray[np.float64]:
    """What the value of the state that follows counts for, [B]: 0 after an end."""
    elapsed = np.ones(len(outcome.reward)) if outcome.elapsed is None else outcome.elapsed
    found: NDArray[np.float64] = np.where(outcome.terminated, 0.0, gamma**elapsed)
    return found
