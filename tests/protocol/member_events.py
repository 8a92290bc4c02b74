"""An event at a member of the simulated group, given to the product's state machine."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.function import Process
from testbed.vnf.replication.handling import on_packet
from testbed.vnf.replication.member import (
    COMMITTED,
    COPIES_DROPPED,
    FLOWS_FULL,
    FOLLOWER,
    GROUP_EPOCH,
    MAX_MEMBERS,
    NEEDS_SNAPSHOT,
    NEXT,
    NO_CPU,
    NOT_LOST,
    P_RESENT,
    PRIMARY,
    RELEASED,
    ROLE,
    SNAPSHOT_GOT,
    TAKEN,
    TENURE,
    Member,
    peer_at,
)
from testbed.vnf.replication.messages import ACK, LOG, SNAPSHOT
from testbed.vnf.replication.protocol import (
    configure,
    drain,
    next_time_ns,
    on_idle,
    on_message,
    on_time,
)
from testbed.vnf.state.arrays import Words
from tests.protocol import names, plan
from tests.protocol.actors import GROUP, act, check_leases, emit_decided, mirror, runs, step
from tests.protocol.controls import (
    after_configure,
    after_event,
    after_install,
    after_packet,
    before_configure,
    before_message,
    before_packet,
    delay_marks,
    restore_marks,
)
from tests.protocol.counting import write_input
from tests.protocol.fdu import primary
from tests.protocol.lineage import note_installed, record
from tests.protocol.network import free_message
from tests.protocol.plan import planned
from tests.protocol.world import (
    ALIVE,
    AT_ONCE,
    AWAKE_NS,
    BOUND_DECIDED,
    CALM,
    CONTROL,
    FLYING,
    GAVE_WAY,
    IDLE_DUE,
    IN_EPOCH,
    IN_FLOW,
    IN_LENGTH,
    IN_PATH,
    IN_SEQ,
    IN_TAKEN,
    IN_UNHEARD,
    LIFE,
    MESSAGE_WORDS,
    MESSAGES_AT,
    NOW,
    STOPPED,
    TIMER_NS,
    bucket_of,
    chance,
    count,
    draw,
    fail,
    local_ns,
    push,
    slot_at,
    trace,
)


@compiled
def at_member(
    w: Words,
    member: Member,
    process: Process,
    kind: int,
    to: int,
    life: int,
    a: int,
    b: int,
    c: int,
    d: int,
) -> None:
    """An event at a member: it may be dead, or asleep, or stop within what it does."""
    slot = slot_at(to)
    named = kind != names.INPUT and kind != names.MESSAGE
    if w[slot + ALIVE] == 0 or (named and w[slot + LIFE] != life):
        _forget(w, kind, a)
        return
    if w[slot + AWAKE_NS] > w[NOW]:
        push(w, w[slot + AWAKE_NS], kind, to, life, a, b, c, d)
        return
    m = member.words
    if not step(w, m, to):
        if w[slot + ALIVE]:
            push(w, w[slot + AWAKE_NS], kind, to, life, a, b, c, d)
        else:
            _forget(w, kind, a)
        return
    now_ns = local_ns(w, to)
    timed = False
    before = m[NEXT]
    trace(w, kind, to, a, b, c, d)
    if kind == names.INPUT:
        _on_input(w, member, process, to, a)
    elif kind == names.MESSAGE:
        _on_message(w, member, process, to, a, b)
        check_leases(w, m, to)
    elif kind == names.TIMER:
        if w[slot + TIMER_NS] <= w[NOW]:
            w[slot + TIMER_NS] = -1
        timed = next_time_ns(m, now_ns) <= now_ns
        resent = _resent(m)
        on_time(member, process, now_ns)
        _check_resent(w, to, _resent(m) - resent)
    elif kind == names.IDLE:
        w[slot + IDLE_DUE] = 0
        on_idle(member, process, now_ns)
    elif kind == names.CONFIG:
        was = m[ROLE]
        before_configure(w, m, a)
        learners = (b >> 8) & 0xFF
        if configure(member, process, now_ns, a, c, b & 0xFF, learners, (b >> 16) & 1):
            after_configure(w, m, m[ROLE] == PRIMARY and was != PRIMARY)
    elif kind == names.DRAIN:
        if b == m[GROUP_EPOCH] and m[ROLE] == PRIMARY:
            drain(member, process, now_ns, a)
    elif not _on_wake(w, m, to):
        return
    record(w, m, to)
    after_event(w, m, to)
    act(w, member, to)
    trace(w, names.STATE, to, m[NEXT], m[RELEASED], m[COMMITTED], m[GROUP_EPOCH])
    record(w, m, to)
    mirror(w, m, to)
    w[GAVE_WAY] |= m[COPIES_DROPPED] > 0
    if timed:
        _check_time(w, m, to, now_ns, before)


@compiled
def _resent(m: Words) -> int:
    """How often messages are being sent again now, to all others together."""
    times = 0
    for number in range(MAX_MEMBERS):
        times += m[peer_at(number) + P_RESENT]
    return times


@compiled
def _check_resent(w: Words, to: int, times: int) -> None:
    """What merely came in another order is waited for by nobody (G8)."""
    if times > 0:
        count(w, names.RETRANSMISSIONS)
        if planned(w, plan.REORDER_ONLY):
            fail(w, names.G8, to, names.TIMER_NEEDED)


@compiled
def _check_time(w: Words, m: Words, to: int, now_ns: int, before: int) -> None:
    """A time that was dealt with may be due again at once, if something comes of it each time."""
    slot = slot_at(to)
    at_once = runs(w, to) and next_time_ns(m, now_ns) <= now_ns and m[NEXT] == before
    w[slot + AT_ONCE] = w[slot + AT_ONCE] + 1 if at_once else 0
    if w[slot + AT_ONCE] > 8:
        fail(w, names.G8, to, names.DUE_AT_ONCE)
        w[STOPPED] = 1


@compiled
def _on_wake(w: Words, m: Words, to: int) -> bool:
    """A member goes on where it stopped; False: it stops again."""
    if m[ROLE] == PRIMARY and primary(w) != to:
        count(w, names.WOKEN_PAST_PROMOTION)
    return w[slot_at(to) + BOUND_DECIDED] < 0 or emit_decided(w, m, to)


@compiled
def _forget(w: Words, kind: int, a: int) -> None:
    """What was on its way to a member that is dead."""
    if kind == names.INPUT:
        w[FLYING] -= 1
    elif kind == names.MESSAGE:
        free_message(w, a)


@compiled
def _on_input(w: Words, member: Member, process: Process, to: int, at: int) -> None:
    """A copy of an input arrives; perhaps there is no CPU for it."""
    w[FLYING] -= 1
    m = member.words
    flow, epoch, seq = w[at + IN_FLOW], w[at + IN_EPOCH], w[at + IN_SEQ]
    path, length = w[at + IN_PATH], w[at + IN_LENGTH]
    packet = member.packet
    write_input(packet, flow, epoch, seq, min(length, len(packet)))
    reason = NOT_LOST
    if w[CALM] == 0 and chance(w, planned(w, plan.NO_CPU)):
        reason = NO_CPU
    kept = before_packet(w, m, path, flow, epoch, seq)
    bucket = bucket_of(flow)
    now_ns = local_ns(w, to)
    fate = on_packet(
        member, process, now_ns, path, flow, bucket, epoch, seq, packet, 0, length, reason
    )
    after_packet(m, path, flow, kept)
    trace(w, names.FATE, to, flow, epoch, seq, fate)
    if fate == TAKEN:
        w[at + IN_TAKEN + 2 * to] = w[slot_at(to) + LIFE]
        w[at + IN_TAKEN + 2 * to + 1] = w[NOW]
    elif fate == FLOWS_FULL:
        w[at + IN_UNHEARD] = 1
    if draw(w, 2) == 0:
        on_idle(member, process, now_ns)


@compiled
def _count_early(w: Words, m: Words, at: int) -> None:
    """Count a message that came before one that it follows."""
    kind = w[at] & 0xFF
    if kind != ACK and w[at + 1] > m[GROUP_EPOCH] and m[ROLE] != FOLLOWER:
        count(w, names.CALLS)
    elif m[ROLE] == FOLLOWER and kind == LOG and w[at + 4] and w[at + 3] > m[NEXT]:
        count(w, names.EARLY_LOGS)
    elif m[ROLE] == FOLLOWER and kind == SNAPSHOT and w[at + 5] > m[SNAPSHOT_GOT]:
        count(w, names.EARLY_PARTS)


@compiled
def _on_message(w: Words, member: Member, process: Process, to: int, slot: int, size: int) -> None:
    m = member.words
    at = MESSAGES_AT + slot * MESSAGE_WORDS
    _count_early(w, m, at)
    before_message(w, m, at, size)
    kind, taken, index = w[at] & 0xFF, w[at + 2], w[at + 3]
    needed, next_index, tenure = m[NEEDS_SNAPSHOT], m[NEXT], m[TENURE]
    restore_marks(w, m, to)
    sound = on_message(member, process, local_ns(w, to), GROUP, w, at, at + size)
    if not sound and w[CONTROL] == names.NO_CONTROL:
        fail(w, names.G8, to, names.REFUSED_MESSAGE)
    changed = needed or m[NEXT] != next_index or m[TENURE] != tenure
    if kind == SNAPSHOT and m[NEEDS_SNAPSHOT] == 0 and changed:
        count(w, names.SNAPSHOTS_INSTALLED)
        note_installed(w, m, to, taken, index)
        after_install(w, m)
    free_message(w, slot)
    delay_marks(w, m, to)
