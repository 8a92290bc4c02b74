"""Where each environment of a batch stands: plain arrays that the compiled kernels change."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from testbed.compiled import compiled_view
from testbed.scenario.types import FloatArray
from testbed.twin.constants import Rates
from testbed.twin.pack import NEVER_NS, IntArray, PlanArrays

REACHED, OVER, LOST, OVERLOADED = range(4)
"""Why time stopped (`testbed.twin.advance`): it was let pass until then; the plan is over; a server
was found dead; a server has been overloaded for long enough."""


class Record(NamedTuple):
    """What is kept of every slot and request when a run is to be reported.

    Without room for it (`normal` is empty) nothing is kept.
    """

    demand: FloatArray  # [B, S, N], used over capacity
    wait_s: FloatArray  # [B, S, N]
    totals: FloatArray  # [B, R, TOTALS]
    histogram: FloatArray  # [B, HISTOGRAM_BINS]
    overload_s: FloatArray  # [B]
    cost: FloatArray  # [B]
    normal: FloatArray  # standard normal quantiles that stand for a slot's packets


class World(NamedTuple):
    """What B environments go through: P plans on one substrate, by which constants.

    Nothing of it changes while time passes, but for the record.
    """

    plans: PlanArrays
    factor: FloatArray  # [P, S], the load factor of each slot of each plan
    rates: Rates
    record: Record


class State(NamedTuple):
    """B environments of at most R requests of F functions on N nodes, over S slots.

    A time that has not come is NEVER_NS. `active` lists the requests that were accepted and have
    not left, or have sent in the slot that is under way, in the order in which they were accepted.
    `concerned` lists the (request, function) whom that concerns for which time stopped: the groups
    that lack a member, or those that could leave an overloaded server.
    """

    plan: IntArray  # [B]
    now_ns: IntArray  # [B]
    fault: IntArray  # [B], the next one that is detected
    slot: IntArray  # [B], the next one that is run
    placed: IntArray  # [B, R], functions placed; 0 for a request that was rejected
    primary: IntArray  # [B, R, F], a node
    backup: IntArray  # [B, R, F], a node or -1
    joined_ns: IntArray  # [B, R, F], from when the backup takes part
    died_ns: IntArray  # [B, R, F], when a member died whose loss makes packets wait
    active: IntArray  # [B, R]
    active_count: IntArray  # [B]
    concerned: IntArray  # [B, R x F, 2]
    concerned_count: IntArray  # [B]
    high_slots: IntArray  # [B, N], for how many slots each server has been above `move_above`
    quiet_ns: IntArray  # [B], until then time does not stop for overload
    moving: IntArray  # [B, 4], the move under way: request, function, from which node, to which
    moving_ns: IntArray  # [B], when it is done
    wait_s: FloatArray  # [B, N], mean wait at each server in the last slot
    loss: FloatArray  # [B, N]
    load: FloatArray  # [B, 4, N], scratch: sums of work in a slot, and the variance of the wait
    cost: FloatArray  # [B, S], of the slots that were run


def make_state(pool: PlanArrays, environments: int, slots: int) -> State:
    """Room for `environments` episodes of any plan of the pool."""
    _, requests, functions = pool.service_ns.shape
    nodes = len(pool.capacity_cores)
    groups = (environments, requests, functions)

    def ints(*shape: int) -> IntArray:
        return np.zeros(shape, dtype=np.int64)

    def floats(*shape: int) -> FloatArray:
        return np.zeros(shape)

    one, per_node = (environments,), (environments, nodes)
    return State(
        plan=ints(*one), now_ns=ints(*one), fault=ints(*one), slot=ints(*one),
        placed=ints(environments, requests), primary=ints(*groups), backup=ints(*groups),
        joined_ns=ints(*groups), died_ns=ints(*groups), active=ints(environments, requests),
        active_count=ints(*one), concerned=ints(environments, requests * functions, 2),
        concerned_count=ints(*one), high_slots=ints(*per_node), quiet_ns=ints(*one),
        moving=ints(environments, 4), moving_ns=ints(*one), wait_s=floats(*per_node),
        loss=floats(*per_node), load=floats(environments, 4, nodes),
        cost=floats(environments, slots),
    )  # fmt: skip


@compiled_view
def clear(state: State, b: int, plan: int) -> None:
    """Begin plan number `plan` in environment `b`."""
    state.plan[b] = plan
    state.now_ns[b] = state.fault[b] = state.slot[b] = 0
    state.active_count[b] = state.concerned_count[b] = 0
    state.quiet_ns[b], state.moving_ns[b] = 0, NEVER_NS
    state.high_slots[b, :] = 0
    for r in range(state.placed.shape[1]):
        state.placed[b, r] = 0
        for f in range(state.primary.shape[2]):
            state.primary[b, r, f] = state.backup[b, r, f] = -1
            state.joined_ns[b, r, f] = 0
            state.died_ns[b, r, f] = NEVER_NS
    for n in range(state.wait_s.shape[1]):
        state.wait_s[b, n] = state.loss[b, n] = 0.0
