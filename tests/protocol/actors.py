"""What a member of the simulated group does with its messages and outputs, as its I/O layer would.

Before and between any two actions it may stop for ever, or for a while.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.replication import membership
from testbed.vnf.replication.handling import active, release_bound
from testbed.vnf.replication.log import OUTPUT_BIT, entry_at
from testbed.vnf.replication.member import (
    CLOSED,
    CONFIG_EPOCH,
    DRAINING,
    GAP_FIRST,
    GROUP_EPOCH,
    INPUTS,
    NEEDS_SNAPSHOT,
    NEVER,
    NEXT,
    NOTES,
    P_LEASE_NS,
    P_STATE,
    PRIMARY,
    PROMISE_NS,
    READY_FIRST,
    RELEASED,
    REQUIRED,
    ROLE,
    S_BATCH_NS,
    S_MESSAGE_WORDS,
    S_PROTECTED,
    WAIT_NS,
    Member,
    peer_at,
)
from testbed.vnf.replication.messages import SNAPSHOT, take_message
from testbed.vnf.replication.protocol import next_time_ns, on_released
from testbed.vnf.state.arrays import Words
from tests.protocol import names, plan
from tests.protocol.controls import before_release, bound_of
from tests.protocol.fdu import role_of
from tests.protocol.lineage import check_entry, node_of, note_snapshot
from tests.protocol.network import send
from tests.protocol.plan import planned
from tests.protocol.world import (
    ALIVE,
    AWAKE_NS,
    BEGUN_NS,
    BOUND_DECIDED,
    CALM,
    CRASHES,
    EMITTED,
    FAULT_KIND,
    FAULT_NS,
    FAULT_STEP,
    FIRED,
    IDLE_DUE,
    JOINED,
    KNOWN,
    LATE,
    LIFE,
    M_ACTIVE,
    M_BUSY,
    M_CONFIG,
    M_EPOCH,
    M_NEXT,
    M_PROMISE_NS,
    M_ROLE,
    M_WAIT_NS,
    MARKS_AT,
    MAX_SINKS,
    MESSAGE_WORDS,
    MS,
    N_EMITTED,
    N_FLOW,
    N_OUT,
    N_WHERE,
    NEWER,
    NOW,
    OFFSET_NS,
    OLDER,
    OVERTAKEN,
    PRIMARY_STEPS,
    RATE_PPM,
    RELEASERS_AT,
    SCRATCH_AT,
    SHORTENED_NS,
    SINK_WORDS,
    SINKS,
    SINKS_AT,
    SLOTS,
    STEPS,
    TIMER_NS,
    TIP,
    chance,
    count,
    draw,
    fail,
    local_ns,
    push,
    slot_at,
    trace,
    world_ns,
)

GROUP = 0x51A7E5
"""The group that messages name."""


@compiled
def runs(w: Words, number: int) -> bool:
    """Whether the member is alive and awake."""
    slot = slot_at(number)
    return w[slot + ALIVE] == 1 and w[slot + AWAKE_NS] <= w[NOW]


@compiled
def step(w: Words, m: Words, number: int) -> bool:
    """The member is about to do something; False: it crashed or fell asleep before."""
    if w[CALM]:
        return True
    slot = slot_at(number)
    w[slot + STEPS] += 1
    leads = m[ROLE] == PRIMARY
    w[PRIMARY_STEPS] += leads
    if w[slot + FAULT_STEP] == w[slot + STEPS]:
        _happen(w, number, w[slot + FAULT_KIND], w[slot + FAULT_NS])
        w[slot + FAULT_STEP] = -1
    for fault in range(plan.MAX_FAULTS):
        at = plan.FAULTS + fault * plan.FAULT_WORDS
        kind = planned(w, at + plan.FAULT_KIND)
        if (kind != plan.CRASH and kind != plan.PAUSE) or (w[FIRED] >> fault) & 1:
            continue
        whom = planned(w, at + plan.FAULT_WHOM)
        steps = w[slot + STEPS] if whom == number else w[PRIMARY_STEPS]
        if whom != number and not (whom == SLOTS and leads):
            continue
        if steps == planned(w, at + plan.FAULT_STEP) + 1:
            w[FIRED] |= 1 << fault
            _happen(w, number, kind, planned(w, at + plan.FAULT_LASTS_NS))
    return runs(w, number)


@compiled
def _happen(w: Words, number: int, kind: int, lasts_ns: int) -> None:
    """The member crashes or falls asleep now, unless that would end the whole group for certain."""
    slot = slot_at(number)
    if not runs(w, number):
        return
    detected_ns = w[NOW] + planned(w, plan.DETECTION_NS)
    role = role_of(w, number)
    if kind == plan.PAUSE:
        w[slot + AWAKE_NS] = w[NOW] + MS // 4 + lasts_ns
        w[slot + LATE] = 1
        count(w, names.PAUSES)
        trace(w, names.PAUSED, number, w[slot + AWAKE_NS], 0, 0, 0)
        push(w, w[slot + AWAKE_NS], names.WAKE, number, w[slot + LIFE], 0, 0, 0, 0)
        if planned(w, plan.MODE) != plan.NONE:
            push(w, detected_ns, names.SUSPICION, number, w[slot + LIFE], 0, 0, 0, 0)
        return
    left = 0
    for other in range(SLOTS):
        part = role_of(w, other)
        if other != number and w[slot_at(other) + ALIVE]:
            left += part == membership.PRIMARY or part == membership.BACKUP
    member = role == membership.PRIMARY or role == membership.BACKUP
    if planned(w, plan.MODE) == plan.NONE and role == membership.PRIMARY:
        return
    if member and left == 0 and not chance(w, 10):
        return
    w[slot + ALIVE] = 0
    w[CRASHES] += 1
    count(w, names.CRASHES_OF_PRIMARIES if role == membership.PRIMARY else names.CRASHES_OF_OTHERS)
    trace(w, names.CRASHED, number, w[slot + STEPS], 0, 0, 0)
    confirmed = 1 if chance(w, planned(w, plan.CONFIRMS)) else 0
    push(w, detected_ns, names.SUSPICION, number, w[slot + LIFE], confirmed, 0, 0, 0)
    push(w, w[NOW] + planned(w, plan.RESTART_NS), names.RESTART, number, 0, 0, 0, 0, 0)


@compiled
def act(w: Words, member: Member, number: int) -> None:
    """Send and emit what is due, and set the timer."""
    m = member.words
    if planned(w, plan.OUTPUTS_FIRST):
        if not _emit_all(w, m, number) or not _send_all(w, member, number):
            return
    elif not _send_all(w, member, number) or not _emit_all(w, m, number):
        return
    # What was released may let a batch be closed, or an answer be due.
    slot = slot_at(number)
    opened = m[ROLE] == PRIMARY and m[NEXT] > m[CLOSED] and w[slot + IDLE_DUE] == 0
    if opened and (m[S_BATCH_NS] == 0 or m[DRAINING]):
        w[slot + IDLE_DUE] = 1
        push(w, w[NOW] + 300_000, names.IDLE, number, w[slot + LIFE], 0, 0, 0, 0)
    set_timer(w, m, number)


@compiled
def set_timer(w: Words, m: Words, number: int) -> None:
    """The member wants to be woken up when its next time is due."""
    due = next_time_ns(m, local_ns(w, number))
    if due >= NEVER:
        return
    slot = slot_at(number)
    time_ns = world_ns(w, number, due)
    if w[slot + TIMER_NS] < 0 or time_ns < w[slot + TIMER_NS]:
        w[slot + TIMER_NS] = time_ns
        push(w, time_ns, names.TIMER, number, w[slot + LIFE], 0, 0, 0, 0)


@compiled
def _send_all(w: Words, member: Member, number: int) -> bool:
    m = member.words
    out = w[SCRATCH_AT : SCRATCH_AT + MESSAGE_WORDS]
    for to in range(SLOTS):
        for _ in range(64):
            size = take_message(member, local_ns(w, number), to, GROUP, out)
            if size == 0:
                break
            count(w, names.MESSAGES)
            kind = out[0] & 0xFF
            if kind == SNAPSHOT:
                note_snapshot(w, m, number)
            elif size > m[S_MESSAGE_WORDS] and out[4] > 1:
                fail(w, names.G8, number, names.MESSAGE_TOO_LARGE)
            goes_on = step(w, m, number)
            if w[slot_at(number) + ALIVE] == 0:
                return False
            trace(w, names.SEND, number, to, out[0] & 0xFF, out[2], out[3])
            send(w, number, to, size)
            if not goes_on:
                return False
    return True


@compiled
def _emit_all(w: Words, m: Words, number: int) -> bool:
    """Emit what may go out now."""
    slot = slot_at(number)
    before_release(w, m)
    bound = bound_of(w, m, release_bound(m, local_ns(w, number)))
    if bound <= m[RELEASED]:
        return True
    w[slot + BOUND_DECIDED] = bound
    w[slot + LATE] = 0
    if m[S_PROTECTED]:
        _check_owner(w, m, number)
    return emit_decided(w, m, number)


@compiled
def emit_decided(w: Words, m: Words, number: int) -> bool:
    """Emit up to where it was decided; a member that slept in between goes on with it."""
    slot = slot_at(number)
    bound = w[slot + BOUND_DECIDED]
    for index in range(m[RELEASED], bound):
        if index < w[slot + EMITTED] and planned(w, plan.COUNT_EACH) == 0:
            continue
        if not step(w, m, number):
            return False
        if m[entry_at(m, index)] & OUTPUT_BIT:
            _emit(w, m, number, index)
        w[slot + EMITTED] = index + 1
        if planned(w, plan.COUNT_EACH):
            if not step(w, m, number):
                return False
            on_released(m, index + 1)
    if not step(w, m, number):
        return False
    w[slot + BOUND_DECIDED] = -1
    on_released(m, bound)
    return True


@compiled
def _emit(w: Words, m: Words, number: int, index: int) -> None:
    """An output reaches the sink, which passes on what it has not seen, in order (G4)."""
    check_entry(w, m, number, index)
    node = node_of(w, number, index)
    w[node + N_EMITTED] += 1
    count(w, names.EMISSIONS)
    if w[node + N_EMITTED] > 1:
        count(w, names.AGAIN)
    if w[slot_at(number) + LATE]:
        count(w, names.LATE_EMISSIONS)
    if w[SINKS] < MAX_SINKS:
        at = SINKS_AT + w[SINKS] * SINK_WORDS
        w[at], w[at + 1], w[at + 2] = w[NOW], number, index
        w[SINKS] += 1
    flow, out = w[node + N_FLOW], w[node + N_OUT]
    epoch = (w[node + N_WHERE] >> 40) & 0xFFFF
    trace(w, names.EMIT, number, index, flow, epoch, out)
    at = MARKS_AT + 2 * flow
    if epoch == w[at] and out <= w[at + 1]:
        return
    if epoch < w[at]:
        return
    if out != (w[at + 1] + 1 if epoch == w[at] else 0):
        fail(w, names.G4, number, names.OUT_OF_ORDER)
    w[at], w[at + 1] = epoch, out


@compiled
def _check_owner(w: Words, m: Words, number: int) -> None:
    """A member decides to release: no other may be able to, and none of a newer epoch did (G7)."""
    epoch = m[GROUP_EPOCH]
    if epoch < w[OVERTAKEN]:
        fail(w, names.G7, number, names.OLD_EPOCH_RELEASED)
    w[OVERTAKEN] = max(w[OVERTAKEN], epoch)
    if epoch < 128:
        releaser = w[RELEASERS_AT + epoch]
        if releaser and releaser != number + 1:
            fail(w, names.G7, number, names.TWO_IN_AN_EPOCH)
        w[RELEASERS_AT + epoch] = number + 1
    for other in range(SLOTS):
        slot = slot_at(other)
        if other == number or w[slot + ALIVE] == 0:
            continue
        now_ns = local_ns(w, other)
        if w[slot + M_ACTIVE] and w[slot + M_EPOCH] > epoch and now_ns >= w[slot + M_WAIT_NS]:
            fail(w, names.G7, number, names.TWO_OWNERS)
        promised = w[slot + M_PROMISE_NS] > now_ns or _is_fresh(w, other)
        if m[peer_at(other) + P_STATE] == REQUIRED and not promised:
            fail(w, names.G7, number, names.NO_PROMISE)


@compiled
def check_leases(w: Words, m: Words, number: int) -> None:
    """No lease outlasts the promise that it rests on, whatever the two clocks do (G7)."""
    if m[ROLE] != PRIMARY or m[S_PROTECTED] == 0:
        return
    now_ns = local_ns(w, number)
    for other in range(SLOTS):
        slot = slot_at(other)
        lease_ns = m[peer_at(other) + P_LEASE_NS]
        if m[peer_at(other) + P_STATE] != REQUIRED or lease_ns <= now_ns or lease_ns >= NEVER:
            continue
        if w[slot + ALIVE] == 0 or _is_fresh(w, other):
            continue
        if world_ns(w, number, lease_ns) > world_ns(w, other, w[slot + M_PROMISE_NS]):
            fail(w, names.G7, number, names.LEASE_TOO_LONG)


@compiled
def _is_fresh(w: Words, number: int) -> bool:
    """Whether the promise may have been one of a process before, which is dead."""
    slot = slot_at(number)
    young = w[slot + BEGUN_NS] > 0 and w[slot + BEGUN_NS] + 60 * MS > w[NOW]
    return young or w[slot + LIFE] != w[slot + JOINED]


@compiled
def mirror(w: Words, m: Words, number: int) -> None:
    """Note what others look at."""
    slot = slot_at(number)
    w[slot + M_ROLE], w[slot + M_EPOCH] = m[ROLE], m[GROUP_EPOCH]
    w[slot + M_CONFIG] = m[CONFIG_EPOCH]
    w[slot + M_ACTIVE] = active(m)
    w[slot + M_WAIT_NS], w[slot + M_PROMISE_NS] = m[WAIT_NS], m[PROMISE_NS]
    w[slot + M_NEXT] = m[NEXT]
    # Copies of what a primary had no room for may wait for ever: it has said so.
    busy = (m[INPUTS] > 0 or m[NOTES] > 0) and planned(w, plan.FULL_TABLE) == 0
    if m[ROLE] == PRIMARY:
        busy = busy or m[RELEASED] != m[NEXT] or m[READY_FIRST] >= 0 or m[GAP_FIRST] >= 0
    else:
        busy = busy or m[NEEDS_SNAPSHOT] != 0
    w[slot + M_BUSY] = busy


@compiled
def begin_process(w: Words, number: int) -> None:
    """A fresh process with this number: a new life, with another clock."""
    slot = slot_at(number)
    w[slot + ALIVE] = 1
    w[slot + LIFE] += 1
    w[slot + AWAKE_NS] = w[slot + LATE] = w[slot + IDLE_DUE] = w[slot + EMITTED] = 0
    w[slot + FAULT_STEP] = w[slot + TIMER_NS] = w[slot + BOUND_DECIDED] = -1
    w[slot + OFFSET_NS] = draw(w, 500 * MS)
    rate = planned(w, plan.RATE_PPM)
    w[slot + RATE_PPM] = draw(w, 2 * rate + 1) - rate if rate else 0
    w[slot + TIP] = w[slot + KNOWN] = 0
    w[slot + BEGUN_NS] = w[NOW]
    w[slot + SHORTENED_NS] = w[slot + OLDER] = w[slot + NEWER] = 0
