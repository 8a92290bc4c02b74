"""Where each environment of a batch stands: plain arrays that the compiled kernels change."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from testbed.compiled import compiled_view
from testbed.scenario.types import FloatArray, Task
from testbed.twin.pack import NEVER_NS, IntArray, PlanArrays

PLACE, BACKUP, MOVE, NOTHING = range(4)
"""What is asked, by its place in TASKS; or no more."""
TASKS: tuple[Task, ...] = ("place", "backup", "move")
LOAD, SQUARE, WEIGHT, COST = range(4)
"""Rows of `ahead`: what a server is asked for in a slot to come, and what it will cost."""
AHEAD = 4


class State(NamedTuple):
    """B environments of at most R requests of F functions on N nodes, over S slots.

    A time that has not come is NEVER_NS. `active` lists the requests that were accepted and have
    not left, or have sent in the slot that is under way, in the order of their arrival; `queue`
    lists the (request, function) that are still asked about, for a backup or for a move. `ahead`
    and `outlook` hold what the slots to come are expected to cost (`testbed.twin.outlook`).
    """

    plan: IntArray  # [B]
    episode: IntArray  # [B], how many were begun
    now_ns: IntArray  # [B]
    request: IntArray  # [B], the next one that arrives
    fault: IntArray  # [B], the next one that is detected
    slot: IntArray  # [B], the next one that is run
    task: IntArray  # [B], PLACE, BACKUP, MOVE or NOTHING
    asked: IntArray  # [B, 2], the request and the function that a decision is about
    placed: IntArray  # [B, R], functions placed; 0 for a request that was rejected
    primary: IntArray  # [B, R, F], a node
    backup: IntArray  # [B, R, F], a node or -1
    joined_ns: IntArray  # [B, R, F], from when the backup takes part
    died_ns: IntArray  # [B, R, F], when a member died whose loss makes packets wait
    active: IntArray  # [B, R]
    active_count: IntArray  # [B]
    queue: IntArray  # [B, R x F, 2]
    queue_ends: IntArray  # [B, 2], the next one and the end
    queue_task: IntArray  # [B], BACKUP or MOVE
    high_slots: IntArray  # [B, N], for how many slots each server has been above `move_above`
    quiet_ns: IntArray  # [B], until then nothing is asked about overload
    moving: IntArray  # [B, 4], the move under way: request, function, from which node, to which
    moving_ns: IntArray  # [B], when it is done
    wait_s: FloatArray  # [B, N], mean wait at each server in the last slot
    loss: FloatArray  # [B, N]
    used: FloatArray  # [B, N], packets/s x ns: demand x 1e9 in reference cores
    memory: FloatArray  # [B, N], bytes in use
    held: FloatArray  # [B, N], members of the request that a decision is about
    load: FloatArray  # [B, 4, N], scratch: sums of work in a slot, and the variance of the wait
    ahead: FloatArray  # [B, N, AHEAD, S]
    outlook: FloatArray  # [B, S]


class Record(NamedTuple):
    """What is kept of every slot and request when a run is to be reported."""

    demand: FloatArray  # [B, S, N], used over capacity
    wait_s: FloatArray  # [B, S, N]
    totals: FloatArray  # [B, R, TOTALS]
    histogram: FloatArray  # [B, HISTOGRAM_BINS]
    overload_s: FloatArray  # [B]
    cost: FloatArray  # [B]
    normal: FloatArray  # standard normal quantiles that stand for a slot's packets


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
        plan=ints(*one), episode=ints(*one), now_ns=ints(*one), request=ints(*one),
        fault=ints(*one), slot=ints(*one), task=ints(*one), asked=ints(environments, 2),
        placed=ints(environments, requests), primary=ints(*groups), backup=ints(*groups),
        joined_ns=ints(*groups), died_ns=ints(*groups), active=ints(environments, requests),
        active_count=ints(*one), queue=ints(environments, requests * functions, 2),
        queue_ends=ints(environments, 2), queue_task=ints(*one), high_slots=ints(*per_node),
        quiet_ns=ints(*one), moving=ints(environments, 4), moving_ns=ints(*one),
        wait_s=floats(*per_node),
        loss=floats(*per_node), used=floats(*per_node),
        memory=floats(*per_node), held=floats(*per_node), load=floats(environments, 4, nodes),
        ahead=floats(environments, nodes, AHEAD, slots), outlook=floats(environments, slots),
    )  # fmt: skip


@compiled_view
def clear(state: State, b: int, plan: int) -> None:
    """Begin plan number `plan` in environment `b`."""
    state.plan[b] = plan
    state.episode[b] += 1
    state.now_ns[b] = state.request[b] = state.fault[b] = state.slot[b] = 0
    state.active_count[b] = 0
    state.queue_ends[b, 0] = state.queue_ends[b, 1] = 0
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
    state.ahead[b, :] = 0.0
    state.outlook[b, :] = 0.0
