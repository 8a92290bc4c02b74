"""From decision to decision: a choice is carried out, time passes, what happens is noted."""

from __future__ import annotations

import numpy as np

from testbed.compiled import compiled_view
from testbed.scenario.types import BoolArray, FloatArray
from testbed.twin.admission import admitted, joins
from testbed.twin.constants import Rates
from testbed.twin.kernel import (
    NS_PER_S,
    gone,
    load_factor_at,
    rejection_cost,
    run_slot,
    slots_of,
)
from testbed.twin.moves import ask_moves, finish_move, move, overload
from testbed.twin.outlook import expect, expect_members
from testbed.twin.pack import NEVER_NS, IntArray, PlanArrays
from testbed.twin.state import BACKUP, MOVE, NOTHING, PLACE, Record, State, clear


@compiled_view
def advance(
    plans: PlanArrays,
    factor: FloatArray,
    state: State,
    rates: Rates,
    b: int,
    shaped: bool,
    record: Record,
    recording: bool,
) -> float:
    """Let time pass until something is to be decided, or to the end; returns the reward."""
    p = state.plan[b]
    reward = 0.0
    while not _next_queued(plans, state, rates, b):
        arrival_ns, detected_ns, moved_ns = NEVER_NS, NEVER_NS, state.moving_ns[b]
        if state.request[b] < plans.requests[p]:
            arrival_ns = plans.arrival_ns[p, state.request[b]]
        if state.fault[b] < plans.fault_ns.shape[1]:
            died_ns = plans.fault_ns[p, state.fault[b]]
            if died_ns < plans.duration_ns[p] - rates.detection_ns:
                detected_ns = died_ns + rates.detection_ns
        now_ns = min(arrival_ns, detected_ns, moved_ns)
        last = slots_of(plans, p, rates)
        if now_ns < NEVER_NS:
            last = min(last, int(now_ns / (rates.slot_s * NS_PER_S)))
        earned, overloaded = _run_slots(
            plans, factor, state, rates, b, last, shaped, record, recording
        )
        reward += earned
        if overloaded >= 0:
            state.now_ns[b] = round(state.slot[b] * rates.slot_s * NS_PER_S)
            _leave(plans, state, rates, b)
            ask_moves(plans, state, rates, b, overloaded)
            continue
        if now_ns == NEVER_NS:
            state.task[b] = NOTHING
            return reward
        state.now_ns[b] = now_ns
        _leave(plans, state, rates, b)
        if moved_ns == now_ns:
            finish_move(plans, state, rates, b)
        elif detected_ns <= arrival_ns:
            _detect(plans, state, rates, b)
        else:
            _ask(plans, state, rates, b, PLACE, state.request[b], 0)
            return reward
    return reward


@compiled_view
def _run_slots(
    plans: PlanArrays,
    factor: FloatArray,
    state: State,
    rates: Rates,
    b: int,
    last: int,
    shaped: bool,
    record: Record,
    recording: bool,
) -> tuple[float, int]:
    """Run slots up to number `last`, or to one that ends with a server to relieve.

    (reward, that server); -1 for none.
    """
    reward, overloaded = 0.0, -1
    while state.slot[b] < last and overloaded < 0:
        expected = state.outlook[b, state.slot[b]] if shaped else 0.0
        reward -= run_slot(plans, factor, state, rates, b, record, recording) - expected
        overloaded = overload(plans, state, rates, b)
    return reward, overloaded


@compiled_view
def _ask(plans: PlanArrays, state: State, rates: Rates, b: int, task: int, r: int, f: int) -> None:
    """Note what is to be decided, and what is used at that moment, in the ledger's order."""
    state.task[b] = task
    state.asked[b, 0], state.asked[b, 1] = r, f
    used, memory, held = state.used[b], state.memory[b], state.held[b]
    used[:] = 0.0
    memory[:] = 0.0
    held[:] = 0.0
    factor = load_factor_at(plans, state.plan[b], state.now_ns[b] * 1.0)
    for i in range(state.active_count[b]):
        other = state.active[b, i]
        if gone(plans, rates, state.plan[b], other, state.now_ns[b]):
            continue
        for g in range(state.placed[b, other]):
            note_members(plans, state, b, other, g, factor, other == r)


@compiled_view
def note_members(
    plans: PlanArrays, state: State, b: int, r: int, f: int, factor: float, asked: bool
) -> None:
    """Add the members of a group to what is used."""
    p = state.plan[b]
    rate = plans.rate_pps[p, r] * factor
    node, backup = state.primary[b, r, f], state.backup[b, r, f]
    state.used[b, node] += rate * plans.service_ns[p, r, f]
    state.memory[b, node] += plans.function_bytes[p, r, f]
    if backup >= 0:
        state.used[b, backup] += rate * plans.backup_service_ns[p, r, f]
        state.memory[b, backup] += plans.function_bytes[p, r, f]
    if asked:
        state.held[b, node] += 1.0
        if backup >= 0:
            state.held[b, backup] += 1.0


@compiled_view
def _next_queued(plans: PlanArrays, state: State, rates: Rates, b: int) -> bool:
    """Ask about the next group that is on the queue; False if there is none."""
    at = state.queue_ends[b, 0]
    if at == state.queue_ends[b, 1]:
        return False
    state.queue_ends[b, 0] = at + 1
    _ask(plans, state, rates, b, state.queue_task[b], state.queue[b, at, 0], state.queue[b, at, 1])
    return True


@compiled_view
def _leave(plans: PlanArrays, state: State, rates: Rates, b: int) -> None:
    """Take the requests that are over off the list of the active ones.

    One that sent in the slot that is under way stays until that was run: its packets count.
    """
    p, kept = state.plan[b], 0
    begun_ns = state.slot[b] * rates.slot_s * NS_PER_S
    for i in range(state.active_count[b]):
        r = state.active[b, i]
        over = gone(plans, rates, p, r, state.now_ns[b])
        if not over or plans.end_ns[p, r] > begun_ns:
            state.active[b, kept] = r
            kept += 1
    state.active_count[b] = kept


@compiled_view
def _detect(plans: PlanArrays, state: State, rates: Rates, b: int) -> None:
    """A dead server is found: its backups take over, and new backups are wanted."""
    p, now_ns = state.plan[b], state.now_ns[b]
    node = plans.fault_node[p, state.fault[b]]
    died_ns = plans.fault_ns[p, state.fault[b]]
    state.fault[b] += 1
    state.queue_ends[b, :] = 0
    state.queue_task[b] = BACKUP
    for i in range(state.active_count[b]):
        r = state.active[b, i]
        if gone(plans, rates, p, r, now_ns):
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
                end = state.queue_ends[b, 1]
                state.queue[b, end, 0], state.queue[b, end, 1] = r, f
                state.queue_ends[b, 1] = end + 1


@compiled_view
def decide(
    plans: PlanArrays,
    factor: FloatArray,
    state: State,
    rates: Rates,
    b: int,
    primary: int,
    backup: int,
    shaped: bool,
) -> tuple[float, bool]:
    """Carry out a choice; (reward, whether time passes before the next decision).

    A primary on a server that is known to be dead, or a member that admission control refuses,
    rejects the request. A backup at the primary's node or on a dead server counts as none, and so
    does any where nothing is replicated; admission control refuses a group that lacks its backup.
    """
    p = state.plan[b]
    r, f = state.asked[b, 0], state.asked[b, 1]
    if state.task[b] == MOVE:
        return move(plans, factor, state, rates, b, primary, shaped), True
    if state.task[b] == BACKUP:
        if not joins(plans, state, rates, b, backup):
            return 0.0, True
        return _join(plans, factor, state, rates, b, backup, shaped), True
    load = load_factor_at(plans, p, state.now_ns[b] * 1.0)
    demand = plans.rate_pps[p, r] * load * plans.service_ns[p, r, f]
    if backup == primary or plans.backups == 0:
        backup = -1
    refused = primary < 0 or not admitted(plans, state, rates, b, primary, demand)
    if backup >= 0 and not joins(plans, state, rates, b, backup):
        backup = -1
    if refused or (plans.admission and plans.backups > 0 and backup < 0):
        return _reject(plans, factor, state, rates, b, shaped), True
    state.primary[b, r, f], state.backup[b, r, f] = primary, backup
    state.placed[b, r] = f + 1
    reward = -expect_members(plans, factor, state, rates, b, 0, 1.0) if shaped else 0.0
    if f + 1 < plans.functions[p, r]:
        note_members(plans, state, b, r, f, load, True)
        state.asked[b, 1] = f + 1
        return reward, False
    state.active[b, state.active_count[b]] = r
    state.active_count[b] += 1
    state.request[b] += 1
    return reward, True


@compiled_view
def _join(
    plans: PlanArrays,
    factor: FloatArray,
    state: State,
    rates: Rates,
    b: int,
    backup: int,
    shaped: bool,
) -> float:
    """Give the group that is asked about a backup, which has to start and to catch up."""
    p = state.plan[b]
    r, f = state.asked[b, 0], state.asked[b, 1]
    state.backup[b, r, f] = backup
    state.joined_ns[b, r, f] = state.now_ns[b] + rates.repair_ns
    if not shaped:
        return 0.0
    together_ns = min(plans.death_ns[p, state.primary[b, r, f]], plans.death_ns[p, backup])
    return -expect(
        plans, factor, state, rates, b, backup, r, plans.backup_service_ns[p, r, f], 0.0, 0.0,
        state.joined_ns[b, r, f], together_ns, 1.0,
    )  # fmt: skip


@compiled_view
def _reject(
    plans: PlanArrays, factor: FloatArray, state: State, rates: Rates, b: int, shaped: bool
) -> float:
    """Refuse the request that is asked about, and take back what was placed of it."""
    p, r = state.plan[b], state.asked[b, 0]
    reward = -rejection_cost(plans, factor, p, r, rates)
    for f in range(state.placed[b, r] - 1, -1, -1):
        state.asked[b, 1] = f
        if shaped:
            reward -= expect_members(plans, factor, state, rates, b, 0, -1.0)
    state.placed[b, r] = 0
    state.request[b] += 1
    return reward


@compiled_view
def begin(
    plans: PlanArrays,
    factor: FloatArray,
    state: State,
    rates: Rates,
    b: int,
    plan: int,
    shaped: bool,
    record: Record,
    recording: bool,
) -> None:
    """Begin an episode of a plan, up to its first decision."""
    clear(state, b, plan)
    advance(plans, factor, state, rates, b, shaped, record, recording)


@compiled_view
def drawn(seed: int, number: int, episode: int, plans: int) -> int:
    """Which plan an environment is in: SplitMix64 (Steele, Lea and Flood, 2014) of its numbers."""
    z = np.uint64(seed) << np.uint64(40)
    z += (np.uint64(number) << np.uint64(20)) + np.uint64(episode) + np.uint64(1)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int(np.int64((z ^ (z >> np.uint64(31))) % np.uint64(plans)))


@compiled_view
def step_all(
    plans: PlanArrays,
    factor: FloatArray,
    state: State,
    rates: Rates,
    primary: IntArray,
    backup: IntArray,
    shaped: bool,
    again: bool,
    seed: int,
    first: int,
    record: Record,
    recording: bool,
    rewards: FloatArray,
    done: BoolArray,
) -> None:
    """Carry out a choice in every environment, up to its next decision.

    Where an episode ends, with `again`, the next one is begun.
    """
    for b in range(state.plan.shape[0]):
        rewards[b], done[b] = 0.0, True
        if state.task[b] != NOTHING:
            rewards[b], passes = decide(
                plans, factor, state, rates, b, primary[b], backup[b], shaped
            )
            if passes:
                rewards[b] += advance(plans, factor, state, rates, b, shaped, record, recording)
            done[b] = state.task[b] == NOTHING
        if done[b] and again:
            plan = drawn(seed, first + b, state.episode[b], plans.requests.shape[0])
            begin(plans, factor, state, rates, b, plan, shaped, record, recording)
