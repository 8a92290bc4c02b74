"""A server is overloaded: about whom the policy is asked, and when a move is done.

After each slot it is looked which servers are above `move_above` and have been for `move_hold_ns`.
The policy is asked about the groups whose primaries are at the busiest of them, those with most
work first, until it moves one. A move takes as long as a new backup does, or no time where the
backup is to be primary; what was asked for is not done if a member of it dies or leaves meanwhile.
Until `move_cool_ns` later nothing is counted.
"""

from __future__ import annotations

import math

from testbed.compiled import compiled_view
from testbed.scenario.types import FloatArray
from testbed.twin.admission import admitted
from testbed.twin.constants import Rates
from testbed.twin.kernel import NS_PER_S, gone, held, load_factor_at
from testbed.twin.outlook import expect_members
from testbed.twin.pack import NEVER_NS, PlanArrays
from testbed.twin.state import MOVE, State


@compiled_view
def overload(plans: PlanArrays, state: State, rates: Rates, b: int) -> int:
    """The server that is to be relieved after the slot that was just run; -1 for none."""
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
def ask_moves(plans: PlanArrays, state: State, rates: Rates, b: int, node: int) -> None:
    """Put the groups on the queue whose primaries work at a node, those with most work first."""
    p, now_ns, queue, count = state.plan[b], state.now_ns[b], state.queue[b], 0
    for i in range(state.active_count[b]):
        r = state.active[b, i]
        if not plans.start_ns[p, r] <= now_ns < plans.end_ns[p, r]:
            continue
        for f in range(state.placed[b, r]):
            if state.primary[b, r, f] != node:
                continue
            work, at = _work(plans, p, r, f), count
            while at > 0 and _work(plans, p, queue[at - 1, 0], queue[at - 1, 1]) < work:
                queue[at, 0], queue[at, 1] = queue[at - 1, 0], queue[at - 1, 1]
                at -= 1
            queue[at, 0], queue[at, 1] = r, f
            count += 1
    state.queue_task[b] = MOVE
    state.queue_ends[b, 0], state.queue_ends[b, 1] = 0, count
    state.quiet_ns[b] = now_ns + rates.move_cool_ns


@compiled_view
def _work(plans: PlanArrays, p: int, r: int, f: int) -> float:
    work: float = plans.rate_pps[p, r] * plans.service_ns[p, r, f]
    return work


@compiled_view
def can_move(plans: PlanArrays, state: State, rates: Rates, b: int, node: int) -> bool:
    """Whether the primary that is asked about can move to a node.

    Not to none, to its own, to one known to be dead or where admission control refuses it, and not
    while its outputs are held.
    """
    p, r, f = state.plan[b], state.asked[b, 0], state.asked[b, 1]
    if node < 0 or node == state.primary[b, r, f] or held(state, rates, b, r, f):
        return False
    if node == state.backup[b, r, f]:
        return True
    rate = plans.rate_pps[p, r] * load_factor_at(plans, p, state.now_ns[b] * 1.0)
    return admitted(plans, state, rates, b, node, rate * plans.service_ns[p, r, f])


@compiled_view
def move(
    plans: PlanArrays,
    factor: FloatArray,
    state: State,
    rates: Rates,
    b: int,
    node: int,
    shaped: bool,
) -> float:
    """Begin to move the primary that is asked about to a node, if it can; the reward."""
    if not can_move(plans, state, rates, b, node):
        return 0.0
    r, f, now_ns = state.asked[b, 0], state.asked[b, 1], state.now_ns[b]
    here, backup = state.primary[b, r, f], state.backup[b, r, f]
    done_ns = now_ns + rates.repair_ns
    if node == backup:
        done_ns = max(now_ns, state.joined_ns[b, r, f])
    state.queue_ends[b, 0] = state.queue_ends[b, 1]
    moving = state.moving[b]
    moving[0], moving[1], moving[2], moving[3] = r, f, here, node
    state.moving_ns[b] = done_ns
    if not shaped:
        return 0.0
    change = expect_members(plans, factor, state, rates, b, done_ns, -1.0)
    _change_roles(state, b, r, f, node)
    change += expect_members(plans, factor, state, rates, b, done_ns, 1.0)
    state.primary[b, r, f], state.backup[b, r, f] = here, backup
    return -change


@compiled_view
def finish_move(plans: PlanArrays, state: State, rates: Rates, b: int) -> None:
    """The move under way is done, if those whom it is about are still there."""
    p, now_ns, moving = state.plan[b], state.now_ns[b], state.moving[b]
    r, f, here, node = moving[0], moving[1], moving[2], moving[3]
    state.moving_ns[b] = NEVER_NS
    dead = plans.death_ns[p, here] <= now_ns or plans.death_ns[p, node] <= now_ns
    if dead or gone(plans, rates, p, r, now_ns) or state.primary[b, r, f] != here:
        return
    if state.backup[b, r, f] == node:
        state.joined_ns[b, r, f] = now_ns
    _change_roles(state, b, r, f, node)


@compiled_view
def _change_roles(state: State, b: int, r: int, f: int, node: int) -> None:
    """`node` is primary; if it was the backup, the old primary is that now."""
    if state.backup[b, r, f] == node:
        state.backup[b, r, f] = state.primary[b, r, f]
    state.primary[b, r, f] = node
