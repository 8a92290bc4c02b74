"""What was decided beforehand is carried out: placements, new backups and moves, compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from testbed.compiled import compiled_view
from testbed.scenario.types import BoolArray, Placement
from testbed.twin.advance import advance
from testbed.twin.groups import accept, join, joinable, known_dead, place, refuse
from testbed.twin.moves import movable, move
from testbed.twin.pack import NEVER_NS, IntArray, PlanArrays
from testbed.twin.state import LOST, OVER, OVERLOADED, State, World, clear

Placements = Mapping[int, Sequence[Placement] | None]
"""By request id: a placement for each function, or None (or no entry) for a rejected request."""


@dataclass(frozen=True, slots=True)
class NewBackup:
    """A backup that a group got after it had lost a member."""

    request: int
    function: int
    node: int


class Decided(NamedTuple):
    """Of B plans of at most R requests of F functions; a node is -1 where there is none."""

    accepted: BoolArray  # [B, R]
    primary: IntArray  # [B, R, F]
    backup: IntArray  # [B, R, F]
    later: IntArray  # [B, L, 3], new backups in their order: request, function (-1: used up), node
    moves: IntArray  # [B, M], for each group that could move: to which node


def pack_decided(
    pool: PlanArrays,
    placements: Sequence[Placements],
    backups: Sequence[Sequence[NewBackup]],
    moves: Sequence[Sequence[int | None]],
) -> Decided:
    """What was decided for each plan of the pool, as arrays.

    Raises ValueError for a request that is placed in part or on a node that does not exist.
    """
    (batch, requests, functions), nodes = pool.service_ns.shape, len(pool.capacity_cores)
    most_later = max((len(of_plan) for of_plan in backups), default=0)
    most_moves = max((len(of_plan) for of_plan in moves), default=0)
    decided = Decided(
        np.zeros((batch, requests), dtype=np.bool_),
        np.full((batch, requests, functions), -1),
        np.full((batch, requests, functions), -1),
        np.full((batch, most_later, 3), -1),
        np.full((batch, most_moves), -1),
    )
    for b in range(batch):
        number = {int(pool.request_id[b, r]): r for r in range(pool.requests[b])}
        for request, r in number.items():
            chosen = placements[b].get(request)
            if chosen is not None:
                if len(chosen) != pool.functions[b, r]:
                    expected = f"expected {pool.functions[b, r]}"
                    raise ValueError(f"request {request}: {len(chosen)} placements, {expected}")
                decided.accepted[b, r] = True
                for f, placement in enumerate(chosen):
                    decided.primary[b, r, f] = _node(placement.primary, nodes, 0, request)
                    decided.backup[b, r, f] = _node(placement.backup, nodes, -1, request)
        for place_, one in enumerate(backups[b]):
            node = _node(one.node, nodes, -1, one.request)
            decided.later[b, place_] = number[one.request], one.function, node
        for place_, to in enumerate(moves[b]):
            decided.moves[b, place_] = _node(to, nodes, -1, None)
    return decided


def _node(node: int | None, nodes: int, least: int, request: int | None) -> int:
    chosen = -1 if node is None else node
    if not least <= chosen < nodes:
        who = "a move" if request is None else f"request {request}"
        raise ValueError(f"{who}: node {chosen}: expected nodes below {nodes}")
    return chosen


@compiled_view
def carry_out(world: World, state: State, decided: Decided) -> None:
    """Run plan b in environment b to its end, for each b; `decided.later` is used up."""
    for b in range(state.plan.shape[0]):
        clear(state, b, b)
        r, answered, reason = 0, 0, LOST
        while reason != OVER:
            arrives = r < world.plans.requests[b]
            reason = advance(world, state, b, world.plans.arrival_ns[b, r] if arrives else NEVER_NS)
            if reason == LOST:
                _join_those_who_lack(world, state, decided, b)
            elif reason == OVERLOADED:
                answered = _move_one(world, state, decided, b, answered)
            elif reason != OVER:
                _place_all(world, state, decided, b, r)
                r += 1


@compiled_view
def _place_all(world: World, state: State, decided: Decided, b: int, r: int) -> None:
    """Place a request as decided; it is rejected where a primary's server is known to be dead."""
    if not decided.accepted[b, r]:
        return
    for f in range(world.plans.functions[b, r]):
        primary, backup = decided.primary[b, r, f], decided.backup[b, r, f]
        if known_dead(world, state, b, primary):
            refuse(state, b, r)
            return
        if backup == primary or not joinable(world, state, b, r, f, backup):
            backup = -1
        place(state, b, r, f, primary, backup)
    accept(state, b, r)


@compiled_view
def _join_those_who_lack(world: World, state: State, decided: Decided, b: int) -> None:
    """Give each group that lacks a backup the next one that was decided for it."""
    later = decided.later[b]
    for i in range(state.concerned_count[b]):
        r, f = state.concerned[b, i, 0], state.concerned[b, i, 1]
        for j in range(later.shape[0]):
            if later[j, 0] == r and later[j, 1] == f:
                later[j, 1] = -1
                if joinable(world, state, b, r, f, later[j, 2]):
                    join(world, state, b, r, f, later[j, 2])
                break


@compiled_view
def _move_one(world: World, state: State, decided: Decided, b: int, answered: int) -> int:
    """Move the first of those who could that was decided to; how many answers are used up."""
    for i in range(state.concerned_count[b]):
        r, f = state.concerned[b, i, 0], state.concerned[b, i, 1]
        node = decided.moves[b, answered] if answered < decided.moves.shape[1] else -1
        answered += 1
        if movable(world, state, b, r, f, node):
            move(world, state, b, r, f, node)
            break
    return answered
