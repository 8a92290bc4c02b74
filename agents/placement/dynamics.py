"""From question to question on the twin: a choice is carried out, time passes, the next is asked.

The physics are `testbed.twin`'s. Here requests arrive and are asked about, function by function;
where time stops because a server was found dead or is overloaded, each group that this concerns is
asked about; admission control refuses what has no room.
"""

from __future__ import annotations

import numpy as np

from agents.placement.reward import expect_backup, expect_members
from agents.placement.types import BACKUP, MOVE, NOTHING, PLACE, Questions
from testbed.compiled import compiled_part, compiled_view
from testbed.scenario.types import BoolArray, FloatArray
from testbed.twin.advance import advance
from testbed.twin.groups import (
    accept,
    accepted_and_there,
    join,
    joinable,
    known_dead,
    place,
    refuse,
)
from testbed.twin.kernel import load_factor_at, rejection_cost
from testbed.twin.moves import change_roles, movable, move
from testbed.twin.pack import NEVER_NS, IntArray
from testbed.twin.state import LOST, OVER, REACHED, State, World, clear


@compiled_view
def step_all(
    world: World,
    state: State,
    asks: Questions,
    primary: IntArray,
    backup: IntArray,
    shaped: bool,
    again: bool,
    seed: int,
    first: int,
    rewards: FloatArray,
    done: BoolArray,
) -> None:
    """Carry out a choice in every environment, up to its next question.

    Where an episode ends, with `again`, the next one is begun.
    """
    for b in range(state.plan.shape[0]):
        rewards[b], done[b] = 0.0, True
        if asks.task[b] != NOTHING:
            rewards[b], passes = _decide(world, state, asks, b, primary[b], backup[b], shaped)
            if passes:
                rewards[b] += _ask_next(world, state, asks, b, shaped)
            done[b] = asks.task[b] == NOTHING
        if done[b] and again:
            plan = drawn(seed, first + b, asks.episode[b], world.plans.requests.shape[0])
            begin(world, state, asks, b, plan, shaped)


@compiled_view
def begin(world: World, state: State, asks: Questions, b: int, plan: int, shaped: bool) -> None:
    """Begin an episode of a plan, up to its first question."""
    clear(state, b, plan)
    asks.episode[b] += 1
    asks.request[b] = asks.next_concerned[b] = 0
    asks.ahead[b, :] = 0.0
    asks.outlook[b, :] = 0.0
    _ask_next(world, state, asks, b, shaped)


@compiled_view
def drawn(seed: int, number: int, episode: int, plans: int) -> int:
    """Which plan an environment is in: SplitMix64 (Steele, Lea and Flood, 2014) of its numbers."""
    z = np.uint64(seed) << np.uint64(40)
    z += (np.uint64(number) << np.uint64(20)) + np.uint64(episode) + np.uint64(1)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int(np.int64((z ^ (z >> np.uint64(31))) % np.uint64(plans)))


@compiled_part
def _ask_next(world: World, state: State, asks: Questions, b: int, shaped: bool) -> float:
    """Let time pass until something is to be decided, or to the end; returns the reward."""
    reward = 0.0
    while asks.next_concerned[b] == state.concerned_count[b]:
        arrives_ns, r = NEVER_NS, asks.request[b]
        if r < world.plans.requests[state.plan[b]]:
            arrives_ns = world.plans.arrival_ns[state.plan[b], r]
        first = state.slot[b]
        reason = advance(world, state, b, arrives_ns)
        for k in range(first, state.slot[b]):
            reward -= state.cost[b, k] - (asks.outlook[b, k] if shaped else 0.0)
        if reason == OVER:
            asks.task[b] = NOTHING
            return reward
        if reason != REACHED:
            asks.concerned_task[b] = BACKUP if reason == LOST else MOVE
            asks.next_concerned[b] = 0
        else:
            _ask(world, state, asks, b, PLACE, r, 0)
            return reward
    at = asks.next_concerned[b]
    asks.next_concerned[b] = at + 1
    concerned = state.concerned[b, at]
    _ask(world, state, asks, b, asks.concerned_task[b], concerned[0], concerned[1])
    return reward


@compiled_part
def _ask(world: World, state: State, asks: Questions, b: int, task: int, r: int, f: int) -> None:
    """Note what is to be decided, and what is used at that moment, in the ledger's order."""
    asks.task[b] = task
    asks.asked[b, 0], asks.asked[b, 1] = r, f
    used, memory, held = asks.used[b], asks.memory[b], asks.held[b]
    used[:] = 0.0
    memory[:] = 0.0
    held[:] = 0.0
    factor = load_factor_at(world.plans, state.plan[b], state.now_ns[b] * 1.0)
    for i in range(state.active_count[b]):
        other = state.active[b, i]
        if accepted_and_there(world, state, b, other):
            for g in range(state.placed[b, other]):
                _note_members(world, state, asks, b, other, g, factor, other == r)


@compiled_part
def _note_members(
    world: World,
    state: State,
    asks: Questions,
    b: int,
    r: int,
    f: int,
    factor: float,
    asked: bool,
) -> None:
    """Add the members of a group to what is used."""
    plans, p = world.plans, state.plan[b]
    rate = plans.rate_pps[p, r] * factor
    node, backup = state.primary[b, r, f], state.backup[b, r, f]
    asks.used[b, node] += rate * plans.service_ns[p, r, f]
    asks.memory[b, node] += plans.function_bytes[p, r, f]
    if backup >= 0:
        asks.used[b, backup] += rate * plans.backup_service_ns[p, r, f]
        asks.memory[b, backup] += plans.function_bytes[p, r, f]
    if asked:
        asks.held[b, node] += 1.0
        if backup >= 0:
            asks.held[b, backup] += 1.0


@compiled_part
def _decide(
    world: World, state: State, asks: Questions, b: int, primary: int, backup: int, shaped: bool
) -> tuple[float, bool]:
    """Carry out a choice; (reward, whether time passes before the next question).

    A primary on a server that is known to be dead, or a member that admission control refuses,
    rejects the request. A backup at the primary's node or on a dead server counts as none, and so
    does any where nothing is replicated; admission control refuses a group that lacks its backup.
    """
    plans, p = world.plans, state.plan[b]
    r, f = asks.asked[b, 0], asks.asked[b, 1]
    if asks.task[b] == MOVE:
        return _move(world, state, asks, b, primary, shaped), True
    if asks.task[b] == BACKUP:
        if not joins(world, state, asks, b, backup):
            return 0.0, True
        join(world, state, b, r, f, backup)
        return -expect_backup(world, state, asks, b) if shaped else 0.0, True
    if backup == primary or not joins(world, state, asks, b, backup):
        backup = -1
    refused = primary < 0 or not _admitted(
        world, state, asks, b, primary, plans.service_ns[p, r, f]
    )
    if refused or (plans.admission and plans.backups > 0 and backup < 0):
        return _reject(world, state, asks, b, shaped), True
    place(state, b, r, f, primary, backup)
    reward = -expect_members(world, state, asks, b, 0, 1.0) if shaped else 0.0
    if f + 1 < plans.functions[p, r]:
        load = load_factor_at(plans, p, state.now_ns[b] * 1.0)
        _note_members(world, state, asks, b, r, f, load, True)
        asks.asked[b, 1] = f + 1
        return reward, False
    accept(state, b, r)
    asks.request[b] += 1
    return reward, True


@compiled_view
def _reject(world: World, state: State, asks: Questions, b: int, shaped: bool) -> float:
    """Refuse the request that is asked about, and take back what was placed of it."""
    r = asks.asked[b, 0]
    reward = -rejection_cost(world, state.plan[b], r)
    for f in range(state.placed[b, r] - 1, -1, -1):
        asks.asked[b, 1] = f
        if shaped:
            reward -= expect_members(world, state, asks, b, 0, -1.0)
    refuse(state, b, r)
    asks.request[b] += 1
    return reward


@compiled_view
def _move(world: World, state: State, asks: Questions, b: int, node: int, shaped: bool) -> float:
    """Begin to move the primary that is asked about to a node, if it can; the reward."""
    if not can_move(world, state, asks, b, node):
        return 0.0
    r, f = asks.asked[b, 0], asks.asked[b, 1]
    here, backup = state.primary[b, r, f], state.backup[b, r, f]
    asks.next_concerned[b] = state.concerned_count[b]
    move(world, state, b, r, f, node)
    if not shaped:
        return 0.0
    done_ns = state.moving_ns[b]
    change = expect_members(world, state, asks, b, done_ns, -1.0)
    change_roles(state, b, r, f, node)
    change += expect_members(world, state, asks, b, done_ns, 1.0)
    state.primary[b, r, f], state.backup[b, r, f] = here, backup
    return -change


@compiled_part
def joins(world: World, state: State, asks: Questions, b: int, node: int) -> bool:
    """Whether a backup of the group that is asked about can be at `node`."""
    r, f = asks.asked[b, 0], asks.asked[b, 1]
    service_ns = world.plans.backup_service_ns[state.plan[b], r, f]
    can = joinable(world, state, b, r, f, node)
    return can and _admitted(world, state, asks, b, node, service_ns)


@compiled_view
def can_move(world: World, state: State, asks: Questions, b: int, node: int) -> bool:
    """Whether the primary that is asked about can move to a node: to its backup's at any load."""
    r, f = asks.asked[b, 0], asks.asked[b, 1]
    if not movable(world, state, b, r, f, node):
        return False
    service_ns = world.plans.service_ns[state.plan[b], r, f]
    return node == state.backup[b, r, f] or _admitted(world, state, asks, b, node, service_ns)


@compiled_part
def _admitted(
    world: World, state: State, asks: Questions, b: int, node: int, service_ns: float
) -> bool:
    """Whether a server that is not known to be dead can take a member of the group asked about."""
    if known_dead(world, state, b, node):
        return False
    if not world.plans.admission:
        return True
    plans, p = world.plans, state.plan[b]
    r, f = asks.asked[b, 0], asks.asked[b, 1]
    demand = plans.rate_pps[p, r] * load_factor_at(plans, p, state.now_ns[b] * 1.0) * service_ns
    fits = plans.memory_bytes[node] - asks.memory[b, node] >= plans.function_bytes[p, r, f]
    used_cores = asks.used[b, node] / 1e9 + demand / 1e9
    return fits and used_cores <= plans.capacity_cores[node]
