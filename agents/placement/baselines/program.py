"""A mixed-integer linear programme, put together block by block and solved by HiGHS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from testbed.scenario.types import FloatArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Solution:
    """What the solver found: `values` of all variables, None if there is no feasible choice.

    `objective` is their cost, `bound` what no choice can be below; they are equal (up to the
    solver's gap) if `optimal`, that is if no time limit cut the search short.
    """

    values: FloatArray | None
    objective: float
    bound: float
    optimal: bool


class Program:
    """Variables with costs and bounds, and rows of constraints; minimised."""

    def __init__(self) -> None:
        self._count = 0
        self._cost: list[FloatArray] = []
        self._upper: list[FloatArray] = []
        self._integer: list[FloatArray] = []
        self._rows = 0
        self._entries: list[tuple[IntArray, IntArray, FloatArray]] = []
        self._low: list[FloatArray] = []
        self._high: list[FloatArray] = []

    def variables(
        self, shape: tuple[int, ...], cost: ArrayLike, upper: ArrayLike, integer: bool = False
    ) -> IntArray:
        """Variables from 0 to `upper` with a cost each (both broadcast to `shape`): their numbers.

        The numbers have `shape` and stand for the variables in rows and in a solution.
        """
        numbers = np.arange(self._count, self._count + int(np.prod(shape))).reshape(shape)
        self._count += numbers.size
        self._cost.append(np.broadcast_to(np.asarray(cost, dtype=np.float64), shape).ravel())
        self._upper.append(np.broadcast_to(np.asarray(upper, dtype=np.float64), shape).ravel())
        self._integer.append(np.full(numbers.size, float(integer)))
        return numbers

    def rows(
        self, variables: IntArray, factors: ArrayLike, low: ArrayLike, high: ArrayLike
    ) -> None:
        """Constraints low <= sum(factors x variables) <= high.

        variables [R, K] (or [K] for one row), factors broadcast to it; low and high to [R].
        """
        table = np.atleast_2d(variables)
        rows, _ = table.shape
        weights = np.broadcast_to(np.asarray(factors, dtype=np.float64), table.shape)
        number = np.repeat(np.arange(self._rows, self._rows + rows), table.shape[1])
        self._entries.append((number, table.ravel(), weights.ravel()))
        self._low.append(np.broadcast_to(np.asarray(low, dtype=np.float64), (rows,)))
        self._high.append(np.broadcast_to(np.asarray(high, dtype=np.float64), (rows,)))
        self._rows += rows

    def solve(
        self,
        limit_s: float | None = None,
        gap: float = 1e-6,
        most_of: IntArray | None = None,
    ) -> Solution:
        """The cheapest choice, within the share `gap` of the optimum; the best after `limit_s`.

        With `most_of` the costs do not count: as many of these variables as can be are 1, and the
        objective is minus their number.
        """
        cost = np.concatenate(self._cost)
        if most_of is not None:
            cost = np.zeros(self._count)
            cost[most_of] = -1.0
        row, column, factor = (np.concatenate(each) for each in zip(*self._entries, strict=True))
        matrix = csr_array((factor, (row, column)), shape=(self._rows, self._count))
        options: dict[str, float] = {"mip_rel_gap": gap}
        if limit_s is not None:
            options["time_limit"] = limit_s
        found = milp(
            cost,
            integrality=np.concatenate(self._integer),
            bounds=Bounds(0.0, np.concatenate(self._upper)),
            constraints=LinearConstraint(
                matrix, np.concatenate(self._low), np.concatenate(self._high)
            ),
            options=options,
        )
        if found.x is None:
            return Solution(None, np.inf, np.inf, found.status != 1)
        bound = found.fun if found.mip_dual_bound is None else float(found.mip_dual_bound)
        return Solution(np.asarray(found.x), float(found.fun), bound, found.status == 0)
