"""A batch of placement problems on the twin, decision by decision."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from testbed.scenario.placement import BoolArray, FloatArray
from testbed.twin.constants import CostWeights, Rates, TwinConstants, make_rates
from testbed.twin.kernel import rejection_cost, run_slots, slots_of, unused
from testbed.twin.observe import Observations, empty_observations, observe_one
from testbed.twin.pack import IntArray, PlanArrays

NS_PER_S = 1e9


class _State(NamedTuple):
    """Where each of B environments stands in its plan."""

    plan: IntArray  # [B]
    request: IntArray  # [B]
    placed: IntArray  # [B, R], functions placed so far
    primary: IntArray  # [B, R, F]
    backup: IntArray  # [B, R, F]
    wait_s: FloatArray  # [B, S, N]
    loss: FloatArray  # [B, S, N]
    slot_cost: FloatArray  # [B, S]


class DecisionBatch:
    """B environments that draw their episodes from a pool of plans.

    An episode is all requests of a plan, function by function. The reward of a decision is how
    much the cost of the whole plan (`CostWeights`), with everything placed so far and nothing
    else, falls by it: the load steps and faults to come are felt at once, and the rewards of an
    episode add up to minus the cost of its outcome. Each environment draws from a generator of
    its own, seeded by (seed, its number): a batch equals as many single runs.
    """

    def __init__(
        self,
        pool: PlanArrays,
        environments: int,
        seed: int,
        constants: TwinConstants | None = None,
        weights: CostWeights | None = None,
        first: int = 0,
    ) -> None:
        """`first` is the number of the first environment, where a batch is split."""
        self._pool = pool
        self._rates = make_rates(constants or TwinConstants(), weights or CostWeights())
        plans, requests, functions = pool.service_ns.shape
        nodes = len(pool.capacity_cores)
        slots = max(slots_of(pool, p, self._rates) for p in range(plans))
        self._generators = [
            np.random.default_rng([seed, first + number]) for number in range(environments)
        ]
        self._state = _State(
            plan=np.zeros(environments, dtype=np.int64),
            request=np.zeros(environments, dtype=np.int64),
            placed=np.zeros((environments, requests), dtype=np.int64),
            primary=np.full((environments, requests, functions), -1, dtype=np.int64),
            backup=np.full((environments, requests, functions), -1, dtype=np.int64),
            wait_s=np.zeros((environments, slots, nodes)),
            loss=np.zeros((environments, slots, nodes)),
            slot_cost=np.zeros((environments, slots)),
        )
        self._out = empty_observations(environments, pool.delay_ns)
        self._nothing = unused()
        self.reset()

    @property
    def environments(self) -> int:
        """How many environments there are."""
        return len(self._generators)

    def reset(self, plans: IntArray | None = None) -> None:
        """Begin an episode in every environment: of the given plans [B], or of drawn ones."""
        for number in range(self.environments):
            self._begin(number, None if plans is None else int(plans[number]))

    def observe(self) -> Observations:
        """What is seen now; the arrays are the batch's own and change with the next call."""
        _observe_all(self._pool, self._state, self._rates, self._out)
        return self._out

    def step(self, primary: IntArray, backup: IntArray) -> tuple[FloatArray, BoolArray]:
        """Decide in every environment; returns rewards [B] and ends of episodes [B].

        primary, backup [B] are nodes; primary -1 rejects the request, backup -1 leaves the
        function without one. An environment whose episode ended has begun the next.
        Raises ValueError for a node that does not exist.
        """
        nodes = len(self._pool.capacity_cores)
        for name, chosen in (("primary", primary), ("backup", backup)):
            if chosen.shape != (self.environments,) or chosen.min() < -1 or chosen.max() >= nodes:
                expected = f"{self.environments} nodes from -1 to {nodes - 1}"
                raise ValueError(f"{name} = {chosen}: expected {expected}")
        rewards = np.zeros(self.environments)
        done = np.zeros(self.environments, dtype=np.bool_)
        _step_all(
            self._pool, self._state, self._rates,
            primary.astype(np.int64), backup.astype(np.int64), rewards, done, *self._nothing,
        )  # fmt: skip
        for number in np.flatnonzero(done):
            self._begin(int(number), None)
        return rewards, done

    def plan_number(self) -> IntArray:
        """Which plan of the pool each environment is in, shape [B]."""
        return self._state.plan.copy()

    def _begin(self, number: int, plan: int | None) -> None:
        drawn = int(self._generators[number].integers(len(self._pool.requests)))
        state = self._state
        state.plan[number] = drawn if plan is None else plan
        state.request[number] = 0
        for array, value in (
            (state.placed, 0), (state.primary, -1), (state.backup, -1),
            (state.wait_s, 0.0), (state.loss, 0.0), (state.slot_cost, 0.0),
        ):  # fmt: skip
            array[number] = value


@numba.njit(cache=True)
def _observe_all(plans: PlanArrays, state: _State, rates: Rates, out: Observations) -> None:
    for b in range(state.plan.shape[0]):
        observe_one(
            plans, state.plan[b], state.request[b], state.placed[b], state.primary[b],
            state.backup[b], rates, out, b,
        )  # fmt: skip


@numba.njit(cache=True)
def _step_all(
    plans: PlanArrays,
    state: _State,
    rates: Rates,
    primary: IntArray,
    backup: IntArray,
    rewards: FloatArray,
    done: BoolArray,
    demand: FloatArray,
    totals: FloatArray,
    normal: FloatArray,
    histogram: FloatArray,
) -> None:
    for b in range(state.plan.shape[0]):
        p, r = state.plan[b], state.request[b]
        placed = state.placed[b]
        changed, over = True, False
        if primary[b] < 0:
            changed, over = placed[r] > 0, True
            placed[r] = 0
            rewards[b] = -rejection_cost(plans, p, r, rates)
        else:
            state.primary[b, r, placed[r]] = primary[b]
            state.backup[b, r, placed[r]] = backup[b]
            placed[r] += 1
            over = placed[r] == plans.functions[p, r]
        if changed:
            first = int(plans.start_ns[p, r] * 1e-9 / rates.slot_s)
            before = state.slot_cost[b, first:].sum()
            run_slots(
                plans, p, first, placed, state.primary[b], state.backup[b], rates,
                state.wait_s[b], state.loss[b], state.slot_cost[b], False,
                demand, totals, normal, histogram,
            )  # fmt: skip
            rewards[b] += before - state.slot_cost[b, first:].sum()
        if over:
            state.request[b] += 1
            done[b] = state.request[b] == plans.requests[p]
