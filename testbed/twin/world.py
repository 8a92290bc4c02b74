"""Makes the world that environments go through, with room for what is kept of it."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from testbed.scenario.types import FloatArray
from testbed.twin.constants import CostWeights, TwinConstants, make_rates
from testbed.twin.kernel import HISTOGRAM_BINS, TOTALS, slot_factors, slots_of
from testbed.twin.pack import PlanArrays
from testbed.twin.state import Record, State, World, make_state

_QUANTILES = 40
"""How many latencies stand for the packets of a request in a slot."""


def make_world(
    pool: PlanArrays,
    environments: int,
    constants: TwinConstants | None = None,
    weights: CostWeights | None = None,
    recording: bool = False,
) -> tuple[World, State]:
    """The world of a pool of plans, and the state of B = `environments` that begin in it.

    With `recording` everything that they go through is kept.
    """
    rates = make_rates(constants or TwinConstants(), weights or CostWeights())
    slots = max(slots_of(pool, p, rates) for p in range(len(pool.requests)))
    state = make_state(pool, environments, slots)
    kept = _room(state) if recording else _no_room()
    return World(pool, slot_factors(pool, rates, slots), rates, kept), state


def forget(record: Record) -> None:
    """Empty the record."""
    for array in record[:-1]:
        array[:] = 0.0


def _room(state: State) -> Record:
    batch, requests = state.placed.shape
    nodes, slots = state.wait_s.shape[1], state.cost.shape[1]
    return _record(batch, requests, slots, nodes, _normal_quantiles())


def _no_room() -> Record:
    return _record(0, 0, 0, 0, np.zeros(0))


def _record(batch: int, requests: int, slots: int, nodes: int, normal: FloatArray) -> Record:
    return Record(
        demand=np.zeros((batch, slots, nodes)),
        wait_s=np.zeros((batch, slots, nodes)),
        totals=np.zeros((batch, requests, TOTALS)),
        histogram=np.zeros((batch, HISTOGRAM_BINS)),
        overload_s=np.zeros(batch),
        cost=np.zeros(batch),
        normal=normal,
    )


def _normal_quantiles() -> FloatArray:
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / _QUANTILES) for i in range(_QUANTILES)])
