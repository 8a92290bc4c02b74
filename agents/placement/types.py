"""What a batch of placement problems on the twin is asked, and what it shows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from testbed.scenario.types import BoolArray, FloatArray, Task
from testbed.twin.pack import IntArray, PlanArrays

PLACE, BACKUP, MOVE, NOTHING = range(4)
"""What is asked, by its place in TASKS; or no more."""
TASKS: tuple[Task, ...] = ("place", "backup", "move")
LOAD, SQUARE, WEIGHT, COST = range(4)
"""Rows of `ahead`: what a server is asked for in a slot to come, and what it will cost."""
AHEAD = 4


class Questions(NamedTuple):
    """What is asked in B environments of at most R requests on N nodes, over S slots.

    `used`, `memory` and `held` are of the moment of the question.
    """

    episode: IntArray  # [B], how many were begun
    request: IntArray  # [B], the next one that arrives
    task: IntArray  # [B], PLACE, BACKUP, MOVE or NOTHING
    asked: IntArray  # [B, 2], the request and the function that a decision is about
    next_concerned: IntArray  # [B], who of the twin's `concerned` is asked about next
    concerned_task: IntArray  # [B], BACKUP or MOVE
    used: FloatArray  # [B, N], packets/s x ns: demand x 1e9 in reference cores
    memory: FloatArray  # [B, N], bytes in use
    held: FloatArray  # [B, N], members of the request that a decision is about
    ahead: FloatArray  # [B, N, AHEAD, S], see `agents.placement.reward`
    outlook: FloatArray  # [B, S], what the slots to come are expected to cost


def make_questions(pool: PlanArrays, environments: int, slots: int) -> Questions:
    """Room for the questions of `environments` episodes of any plan of the pool."""
    nodes = len(pool.capacity_cores)

    def ints(*shape: int) -> IntArray:
        return np.zeros((environments, *shape), dtype=np.int64)

    def floats(*shape: int) -> FloatArray:
        return np.zeros((environments, *shape))

    return Questions(
        ints(), ints(), ints(), ints(2), ints(), ints(), floats(nodes), floats(nodes),
        floats(nodes), floats(nodes, AHEAD, slots), floats(slots),
    )  # fmt: skip


class Observations(NamedTuple):
    """B observations on N nodes, `delay_ns` shared; fields as in `decisions.placement`.

    `primary` and `backup` are the members that the group has (-1: none), and nodes of further
    backups show no free memory. `previous` is the node from which packets come: the source, or the
    primary of the function before.
    """

    alive: BoolArray  # [B, N]
    capacity_cores: FloatArray  # [B, N]
    used_cores: FloatArray  # [B, N]
    memory_free_bytes: FloatArray  # [B, N]
    held: FloatArray  # [B, N]
    delay_from_previous_ns: FloatArray  # [B, N]
    delay_to_egress_ns: FloatArray  # [B, N]
    delay_ns: FloatArray  # [N, N]
    admission: bool
    task: IntArray  # [B], the place of a Task in TASKS
    primary: IntArray  # [B]
    backup: IntArray  # [B]
    previous: IntArray  # [B]
    destination: IntArray  # [B]
    function_index: IntArray  # [B]
    functions: IntArray  # [B], how many the chain has
    rate_pps: FloatArray  # [B]
    primary_cores: FloatArray  # [B]
    backup_cores: FloatArray  # [B]
    memory_bytes: FloatArray  # [B]
    delay_bound_ns: FloatArray  # [B]
    delay_left_ns: FloatArray  # [B]
    lifetime_s: FloatArray  # [B]


def empty_observations(batch: int, delay_ns: FloatArray, admission: bool) -> Observations:
    """Room for `batch` observations."""
    nodes = len(delay_ns)

    def per_node() -> FloatArray:
        return np.zeros((batch, nodes))

    def ints() -> IntArray:
        return np.zeros(batch, dtype=np.int64)

    def floats() -> FloatArray:
        return np.zeros(batch)

    return Observations(
        np.zeros((batch, nodes), dtype=np.bool_), per_node(), per_node(), per_node(), per_node(),
        per_node(), per_node(), delay_ns, admission, ints(), ints(), ints(), ints(), ints(),
        ints(), ints(), floats(), floats(), floats(), floats(), floats(), floats(), floats(),
    )  # fmt: skip
