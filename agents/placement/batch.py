"""A batch of placement problems on the twin, decision by decision."""

from __future__ import annotations

import numpy as np

from agents.placement.dynamics import begin, can_move, drawn, joins, step_all
from agents.placement.observe import observe_all
from agents.placement.types import NOTHING, Observations, empty_observations, make_questions
from testbed.scenario.types import BoolArray, FloatArray
from testbed.twin.constants import CostWeights, TwinConstants
from testbed.twin.pack import IntArray, PlanArrays
from testbed.twin.world import forget, make_world


class DecisionBatch:
    """B environments that draw their episodes from a pool of plans.

    An episode is all that a plan asks for: every function of every arriving request, a new backup
    for every group that a fault took one from, and what moves away from an overloaded server.
    Rewards are minus the cost (`CostWeights`) of the slots that pass. `shaped`, a decision is paid
    at once for what it does to the cost expected of the slots to come: with the potential P, minus
    the outlook's sum, that is `potential_discount` x P(after) - P(before) more (`reward`). Without
    a discount both add up to minus the cost of the episode; with the learner's own, both have the
    same discounted sum. Which plans an environment draws depends on (seed, its number) alone: a
    batch equals as many single runs, bit for bit.
    """

    def __init__(
        self,
        pool: PlanArrays,
        environments: int,
        seed: int,
        constants: TwinConstants | None = None,
        weights: CostWeights | None = None,
        first: int = 0,
        shaped: bool = True,
        potential_discount: float = 1.0,
        recording: bool = False,
    ) -> None:
        """`first` is the number of the first environment, where a batch is split.

        With `recording`, everything that the twin goes through is recorded.
        """
        self.pool = pool
        self._seed, self._first, self._shaped = seed, first, shaped
        self._potential_discount = potential_discount
        self.world, self.state = make_world(pool, environments, constants, weights, recording)
        self.asks = make_questions(pool, environments, self.state.cost.shape[1])
        self.nodes = nodes = len(pool.capacity_cores)
        self._out = empty_observations(environments, pool.delay_ns, pool.admission)
        self._choices = -1, nodes - 1
        self.reset()

    @property
    def environments(self) -> int:
        """How many environments there are."""
        return len(self.state.plan)

    def reset(self, plans: IntArray | None = None) -> None:
        """Begin an episode in every environment: of the given plans [B], or of drawn ones."""
        for b in range(self.environments):
            self.begin(b, None if plans is None else int(plans[b]))

    def observe(self) -> Observations:
        """What is seen now; the arrays are the batch's own and change with the next call."""
        observe_all(self.world, self.state, self.asks, self._out)
        return self._out

    def step(
        self, primary: IntArray, backup: IntArray, again: bool = True
    ) -> tuple[FloatArray, BoolArray]:
        """Decide in every environment; returns rewards [B] and ends of episodes [B].

        primary, backup [B] are nodes; primary -1 rejects the request, backup -1 leaves the
        function without one. Where a backup is asked for, `primary` plays no part; where a move is,
        `backup` plays none, and primary -1 leaves it where it is. With `again`, an environment
        whose episode ended has begun the next; without, it stays where it is. Raises ValueError for
        a node that does not exist.
        """
        for name, chosen in (("primary", primary), ("backup", backup)):
            least, most = self._choices
            if chosen.shape != (self.environments,) or chosen.min() < least or chosen.max() > most:
                expected = f"{self.environments} nodes from {least} to {most}"
                raise ValueError(f"{name} = {chosen}: expected {expected}")
        rewards = np.zeros(self.environments)
        done = np.zeros(self.environments, dtype=np.bool_)
        step_all(
            self.world, self.state, self.asks,
            np.asarray(primary, dtype=np.int64), np.asarray(backup, dtype=np.int64),
            self._shaped, again, self._seed, self._first, rewards, done,
        )  # fmt: skip
        if self._shaped and self._potential_discount != 1.0:
            rewards += (1.0 - self._potential_discount) * self._outlook()
        return rewards, done

    def _outlook(self) -> FloatArray:
        """What the slots to come are expected to cost, [B]; 0 where an episode has just begun."""
        outlook, slot = self.asks.outlook, self.state.slot
        ahead = np.arange(outlook.shape[1]) >= slot[:, None]
        total: FloatArray = np.where(ahead, outlook, 0.0).sum(axis=1)
        return total

    def play(self) -> None:
        """Begin the plans of the pool in their order, with an empty record."""
        forget(self.world.record)
        self.reset(np.arange(self.environments))

    def would_join(self, b: int, node: int) -> bool:
        """Whether the group that needs a backup in environment `b` would get it at `node`."""
        return joins(self.world, self.state, self.asks, b, node)

    def would_move(self, b: int, node: int) -> bool:
        """Whether the primary that may move in environment `b` would go to `node`."""
        return can_move(self.world, self.state, self.asks, b, node)

    def begin(self, b: int, plan: int | None = None) -> None:
        """Begin an episode in environment `b`: of the given plan, or of a drawn one."""
        if plan is None:
            number, episode = self._first + b, self.asks.episode[b]
            plan = drawn(self._seed, number, episode, len(self.pool.requests))
        begin(self.world, self.state, self.asks, b, plan, self._shaped)


def ended(batch: DecisionBatch) -> BoolArray:
    """Which environments have nothing more to decide, [B]."""
    over: BoolArray = batch.asks.task == NOTHING
    return over
