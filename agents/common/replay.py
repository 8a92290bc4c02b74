"""Prioritised experience replay (Schaul et al., ICLR 2016) with n-step returns."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from testbed.compiled import compiled

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Rows = NDArray[np.floating]


class Transition(NamedTuple):
    """M transitions: in state `rows` action `action`, `reward`, then state `next_rows`.

    `discount` is what the value of the next state counts for: 0 where the episode is over.
    """

    rows: Rows  # [M, W]
    action: IntArray  # [M]
    reward: FloatArray  # [M]
    discount: FloatArray  # [M]
    next_rows: Rows  # [M, W]
    next_mask: BoolArray  # [M, A], valid actions of the next state


class Sample(NamedTuple):
    """M transitions drawn, where they lie, and what each weighs in the loss."""

    transition: Transition
    places: IntArray  # [M]
    weight: FloatArray  # [M], largest 1


class SumTree:
    """Numbers >= 0 of which one is drawn with a probability in proportion to it.

    A binary tree in an array, each inner node the sum of its two children, so that setting and
    drawing take O(log capacity).
    """

    def __init__(self, capacity: int) -> None:
        self._leaves = 1 << max(0, capacity - 1).bit_length()
        self._nodes = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        """The sum of all numbers."""
        return float(self._nodes[1])

    def set(self, index: IntArray, value: FloatArray) -> None:
        """Put value[i] at index[i]; of two for the same place the later one stays."""
        _set(self._nodes, index + self._leaves, value)

    def get(self, index: IntArray) -> FloatArray:
        """The numbers at `index` [M]."""
        found: FloatArray = self._nodes[index + self._leaves]
        return found

    def find(self, mass: FloatArray) -> IntArray:
        """For each of mass [M] in [0, total) the first place whose prefix sum is above it."""
        return _find(self._nodes, mass) - self._leaves


@compiled
def _set(nodes: FloatArray, at: IntArray, value: FloatArray) -> None:
    for i in range(len(at)):
        node = at[i]
        nodes[node] = value[i]
        while node > 1:
            node //= 2
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]


@compiled
def _find(nodes: FloatArray, mass: FloatArray) -> IntArray:
    found = np.empty(len(mass), dtype=np.int64)
    for i in range(len(mass)):
        left, node = mass[i], 1
        while 2 * node < len(nodes):
            node *= 2
            # Rounding may leave a rest at the very end: never go where there is nothing.
            if left >= nodes[node] and nodes[node + 1] > 0.0:
                left -= nodes[node]
                node += 1
        found[i] = node
    return found


class PrioritisedReplay:
    """The last `capacity` transitions; p_i = (|error| + floor)^alpha (equation 1 of the paper)."""

    def __init__(
        self,
        capacity: int,
        width: int,
        actions: int,
        alpha: float,
        dtype: DTypeLike = np.float32,
        floor: float = 1e-3,
    ) -> None:
        """`width` of a row, `dtype` in which rows are kept; new transitions have the highest p."""
        self._capacity, self._alpha, self._floor = capacity, alpha, floor
        self._tree = SumTree(capacity)
        self._largest = 1.0
        self._count = self._next = 0
        self._data = Transition(
            np.zeros((capacity, width), dtype=dtype),
            np.zeros(capacity, dtype=np.int64),
            np.zeros(capacity),
            np.zeros(capacity),
            np.zeros((capacity, width), dtype=dtype),
            np.zeros((capacity, actions), dtype=np.bool_),
        )

    def __len__(self) -> int:
        return self._count

    def add(self, transition: Transition) -> None:
        """Keep M transitions, in place of the oldest ones once it is full."""
        index = (self._next + np.arange(len(transition.action))) % self._capacity
        for kept, given in zip(self._data, transition, strict=True):
            kept[index] = given
        self._tree.set(index, np.full(len(index), self._largest))
        self._next = int(index[-1] + 1) % self._capacity
        self._count = min(self._count + len(index), self._capacity)

    def sample(self, uniform: FloatArray, beta: float) -> Sample:
        """One transition from each of M strata of equal mass.

        `uniform` [M] in [0, 1) says where in each; weights are (N P(i))^-beta over the largest.
        """
        strata = np.arange(len(uniform))
        index = self._tree.find((strata + uniform) * (self._tree.total / len(uniform)))
        probability = self._tree.get(index) / self._tree.total
        weight = (self._count * probability) ** -beta
        d = self._data
        drawn = Transition(
            d.rows[index], d.action[index], d.reward[index], d.discount[index],
            d.next_rows[index], d.next_mask[index],
        )  # fmt: skip
        return Sample(drawn, index, weight / weight.max())

    def update(self, index: IntArray, error: FloatArray) -> None:
        """The temporal-difference errors of transitions drawn at `index` [M]."""
        priority = (np.abs(error) + self._floor) ** self._alpha
        self._largest = max(self._largest, float(priority.max()))
        self._tree.set(index, priority)

    def state(self) -> dict[str, torch.Tensor | float | int]:
        """All that is needed to go on, as plain values and tensors."""
        kept = {
            name: torch.from_numpy(array[: self._count].copy())
            for name, array in self._data._asdict().items()
        }
        priority = torch.from_numpy(self._tree.get(np.arange(self._count)))
        return {**kept, "priority": priority, "largest": self._largest, "next": self._next}

    def restore(self, state: dict[str, torch.Tensor | float | int]) -> None:
        """Be as the replay was of which `state` is; it must have had the same sizes."""
        priority = _array(state["priority"])
        self._count = len(priority)
        for name, array in self._data._asdict().items():
            array[: self._count] = _array(state[name])
        self._tree.set(np.arange(self._count), priority.astype(np.float64))
        self._largest, self._next = float(state["largest"]), int(state["next"])


class Cut(NamedTuple):
    """Which of B episodes were cut off at a step, and the states at which they were."""

    where: BoolArray  # [B]
    rows: Rows  # [B, W], of the others any
    mask: BoolArray  # [B, A], likewise


class NStep:
    """Turns single steps of B environments into n-step transitions.

    reward = sum of r_k times the discounts before it; discount = product of all n. An episode that
    ends has discount 0, which cuts off what comes after it. One that is cut off is no end: its last
    steps make shorter transitions, each to the state at which it was cut off.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._kept: deque[_Step] = deque()

    def push(
        self,
        rows: Rows,
        action: IntArray,
        reward: FloatArray,
        discount: FloatArray,
        next_rows: Rows,
        next_mask: BoolArray,
        cut: Cut | None = None,
    ) -> list[Transition]:
        """One step; the transitions that it completes.

        `next_rows` is what is seen after it: where an episode is over, the first of the next.
        """
        self._kept.append(_Step(rows, action, reward, discount, np.ones(len(action), np.bool_)))
        ready: list[Transition] = []
        if cut is not None:
            for first in range(len(self._kept)):
                self._take(ready, first, cut.where, cut.rows, cut.mask)
        if len(self._kept) == self._n:
            self._take(ready, 0, np.ones(len(action), np.bool_), next_rows, next_mask)
            self._kept.popleft()
        return ready

    def _take(
        self, ready: list[Transition], first: int, where: BoolArray, rows: Rows, mask: BoolArray
    ) -> None:
        """Complete those transitions `where` that begin with kept step `first`, once each."""
        chosen = where & self._kept[first].open
        if not chosen.any():
            return
        total, product = np.zeros(len(where)), np.ones(len(where))
        for step in list(self._kept)[first:]:
            total = total + product * step.reward
            product = product * step.discount
        begun = self._kept[first]
        begun.open[chosen] = False
        ready.append(
            Transition(
                begun.rows[chosen],
                begun.action[chosen],
                total[chosen],
                product[chosen],
                rows[chosen],
                mask[chosen],
            )
        )

    def state(self) -> list[list[torch.Tensor]]:
        """The steps that are not part of a transition yet."""
        return [[torch.from_numpy(np.array(part)) for part in step] for step in self._kept]

    def restore(self, state: list[list[torch.Tensor]]) -> None:
        """Be as it was when `state` was taken."""
        self._kept = deque(_Step(*(np.array(part.numpy()) for part in step)) for step in state)


class _Step(NamedTuple):
    """A step of B environments that begins transitions not completed yet."""

    rows: Rows
    action: IntArray
    reward: FloatArray
    discount: FloatArray
    open: BoolArray  # [B], where it has not begun one yet


def _array(value: torch.Tensor | float | int) -> NDArray[np.generic]:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{value!r}: expected a tensor")
    array: NDArray[np.generic] = value.numpy()
    return array
