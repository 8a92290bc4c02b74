"""Time passes until something happens: slots are run, the dead are found, moves are done."""

from __future__ import annotations

from testbed.compiled import compiled_view
from testbed.twin.groups import accepted_and_there
from testbed.twin.kernel import NS_PER_S, gone, run_slot, slots_of
from testbed.twin.moves import finish_move, list_relievable, overloaded
from testbed.twin.pack import NEVER_NS
from testbed.twin.state import LOST, OVER, OVERLOADED, REACHED, State, World


@compiled_view
def advance(world: World, state: State, b: int, until_ns: int) -> int:
    """Let time pass in environment `b` until `until_ns` (NEVER_NS: to the end); why it stopped.

    REACHED       it is `until_ns`
    OVER          the plan's last slot was run
    LOST          a server was found dead; `concerned` are the groups that want a new backup
    OVERLOADED    a server is to be relieved; `concerned` are those who could leave it, those with
                  most work first

    At one time a move is done first, then a dead server is found, then `until_ns` is reached. What
    the slots cost is in `state.cost`. Slots begin at whole numbers; what is decided within one
    counts from its beginning on.
    """
    plans, rates = world.plans, world.rates
    p = state.plan[b]
    while True:
        detected_ns, moved_ns = NEVER_NS, state.moving_ns[b]
        if state.fault[b] < plans.fault_ns.shape[1]:
            died_ns = plans.fault_ns[p, state.fault[b]]
            if died_ns < plans.duration_ns[p] - rates.detection_ns:
                detected_ns = died_ns + rates.detection_ns
        now_ns = min(until_ns, detected_ns, moved_ns)
        last = slots_of(plans, p, rates)
        if now_ns < NEVER_NS:
            last = min(last, int(now_ns / (rates.slot_s * NS_PER_S)))
        node = _run_slots(world, state, b, last)
        if node >= 0:
            _let_pass(world, state, b, round(state.slot[b] * rates.slot_s * NS_PER_S))
            list_relievable(world, state, b, node)
            return OVERLOADED
        if now_ns == NEVER_NS:
            return OVER
        _let_pass(world, state, b, now_ns)
        if moved_ns == now_ns:
            finish_move(world, state, b)
        elif detected_ns == now_ns:
            _find_dead(world, state, b)
            return LOST
        else:
            return REACHED


@compiled_view
def _run_slots(world: World, state: State, b: int, last: int) -> int:
    """Run slots up to number `last`, or to one that ends with a server to relieve.

    That server; -1 for none.
    """
    node = -1
    while state.slot[b] < last and node < 0:
        run_slot(world, state, b)
        node = overloaded(world, state, b)
    return node


@compiled_view
def _let_pass(world: World, state: State, b: int, now_ns: int) -> None:
    """It is `now_ns`: take the requests that are over off the list of the active ones.

    One that sent in the slot that is under way stays until that was run: its packets count.
    """
    state.now_ns[b] = now_ns
    p, kept = state.plan[b], 0
    begun_ns = state.slot[b] * world.rates.slot_s * NS_PER_S
    for i in range(state.active_count[b]):
        r = state.active[b, i]
        over = gone(world.plans, world.rates, p, r, now_ns)
        if not over or world.plans.end_ns[p, r] > begun_ns:
            state.active[b, kept] = r
            kept += 1
    state.active_count[b] = kept


@compiled_view
def _find_dead(world: World, state: State, b: int) -> None:
    """The server of the next fault is found dead: its backups take over.

    `concerned` are the groups that lost a member there and want a new backup.
    """
    plans, rates = world.plans, world.rates
    p, now_ns, count = state.plan[b], state.now_ns[b], 0
    node = plans.fault_node[p, state.fault[b]]
    died_ns = plans.fault_ns[p, state.fault[b]]
    state.fault[b] += 1
    for i in range(state.active_count[b]):
        r = state.active[b, i]
        if not accepted_and_there(world, state, b, r):
            continue
        for f in range(state.placed[b, r]):
            primary, backup = state.primary[b, r, f], state.backup[b, r, f]
            if primary == node:
                joined = backup >= 0 and state.joined_ns[b, r, f] <= died_ns
                if joined and plans.death_ns[p, backup] > now_ns:
                    state.primary[b, r, f], state.backup[b, r, f] = backup, -1
                    state.died_ns[b, r, f] = died_ns
                else:
                    state.backup[b, r, f] = -1
                    continue
            elif backup == node:
                state.backup[b, r, f] = -1
                if rates.holds or rates.commit_round_trips > 0.0:
                    state.died_ns[b, r, f] = died_ns
            if state.backup[b, r, f] >= 0 or plans.end_ns[p, r] <= now_ns or not rates.replaces:
                continue
            if primary == node or backup == node:
                state.concerned[b, count, 0], state.concerned[b, count, 1] = r, f
                count += 1
    state.concerned_count[b] = count
