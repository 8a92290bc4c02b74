"""A server is overloaded: who could leave it, and when a move is done.

After each slot it is looked which servers are above `move_above` and have been for `move_hold_ns`;
time stops for the busiest of them. A move takes as long as a new backup does, or no time where the
backup is to be primary; what was asked for is not done if a member of it dies or leaves meanwhile.
Until `move_cool_ns` later nothing is counted.
"""

from __future__ import annotations

import math

from testbed.compiled import compiled_view
from testbed.twin.groups import known_dead
from testbed.twin.kernel import NS_PER_S, gone, held
from testbed.twin.pack import NEVER_NS, PlanArrays
from testbed.twin.state import State, World


@compiled_view
def overloaded(world: World, state: State, b: int) -> int:
    """The server that is to be relieved after the slot that was just run; -1 for none."""
    plans, rates = world.plans, world.rates
    if rates.move_above == math.inf:
        return -1
    p, load, slots = state.plan[b], state.load[b, 0], state.high_slots[b]
    slot_ns = rates.slot_s * NS_PER_S
    end_ns = state.slot[b] * slot_ns
    found = -1
    counts = end_ns >= state.quiet_ns[b] and state.moving_ns[b] == NEVER_NS
    for n in range(load.shape[0]):
        high = counts and load[n] > rates.move_above and plans.death_ns[p, n] > end_ns
        slots[n] = slots[n] + 1 if high else 0
        if not high or slots[n] * slot_ns < rates.move_hold_ns:
            continue
        if found < 0 or load[n] > load[found]:
            found = n
    return found if end_ns < plans.duration_ns[p] else -1


@compiled_view
def list_relievable(world: World, state: State, b: int, node: int) -> None:
    """List in `concerned` the groups whose primaries work at a node, those with most work first."""
    plans, p, now_ns = world.plans, state.plan[b], state.now_ns[b]
    listed, count = state.concerned[b], 0
    for i in range(state.active_count[b]):
        r = state.active[b, i]
        if not plans.start_ns[p, r] <= now_ns < plans.end_ns[p, r]:
            continue
        for f in range(state.placed[b, r]):
            if state.primary[b, r, f] != node:
                continue
            work, at = _work(plans, p, r, f), count
            while at > 0 and _work(plans, p, listed[at - 1, 0], listed[at - 1, 1]) < work:
                listed[at, 0], listed[at, 1] = listed[at - 1, 0], listed[at - 1, 1]
                at -= 1
            listed[at, 0], listed[at, 1] = r, f
            count += 1
    state.concerned_count[b] = count
    state.quiet_ns[b] = now_ns + world.rates.move_cool_ns


@compiled_view
def _work(plans: PlanArrays, p: int, r: int, f: int) -> float:
    work: float = plans.rate_pps[p, r] * plans.service_ns[p, r, f]
    return work


@compiled_view
def movable(world: World, state: State, b: int, r: int, f: int, node: int) -> bool:
    """Whether the primary of a group can move to a node.

    Not to none, nor to its own, nor to one known to be dead, unless its backup is there, and not
    while its outputs are held.
    """
    if node < 0 or node == state.primary[b, r, f] or held(state, world.rates, b, r, f):
        return False
    return node == state.backup[b, r, f] or not known_dead(world, state, b, node)


@compiled_view
def move(world: World, state: State, b: int, r: int, f: int, node: int) -> None:
    """Begin to move the primary of a group to a node that is `movable`; at most one at a time."""
    now_ns, done_ns = state.now_ns[b], state.now_ns[b] + world.rates.repair_ns
    if node == state.backup[b, r, f]:
        done_ns = max(now_ns, state.joined_ns[b, r, f])
    moving = state.moving[b]
    moving[0], moving[1], moving[2], moving[3] = r, f, state.primary[b, r, f], node
    state.moving_ns[b] = done_ns


@compiled_view
def finish_move(world: World, state: State, b: int) -> None:
    """The move under way is done, if those whom it is about are still there."""
    plans, p, now_ns, moving = world.plans, state.plan[b], state.now_ns[b], state.moving[b]
    r, f, here, node = moving[0], moving[1], moving[2], moving[3]
    state.moving_ns[b] = NEVER_NS
    dead = plans.death_ns[p, here] <= now_ns or plans.death_ns[p, node] <= now_ns
    if dead or gone(plans, world.rates, p, r, now_ns) or state.primary[b, r, f] != here:
        return
    if state.backup[b, r, f] == node:
        state.joined_ns[b, r, f] = now_ns
    change_roles(state, b, r, f, node)


@compiled_view
def change_roles(state: State, b: int, r: int, f: int, node: int) -> None:
    """`node` is primary; if it was the backup, the old primary is that now."""
    if state.backup[b, r, f] == node:
        state.backup[b, r, f] = state.primary[b, r, f]
    state.primary[b, r, f] = node
