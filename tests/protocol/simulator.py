"""A replica group in a seeded, adversarial world: one call runs one schedule and judges it.

The members are the product's compiled state machines. A stamper sends numbered packets to them over
a network that loses, repeats, delays and overtakes; members crash, sleep, come back, move; the FDU
is at times without a majority. Then the world becomes calm, and everything has to come to its end.
A schedule follows from its seed, or from its entropy, alone.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.function import Process
from testbed.vnf.replication import membership
from testbed.vnf.replication.member import (
    AT_LOG,
    LOG_END,
    MAX_FLOWS,
    MOST_ENTRY_WORDS,
    S_ALONE,
    S_BATCH_NS,
    S_BATCH_PACKETS,
    S_BOUND,
    S_DEFT,
    S_GAP_NS,
    S_LEASE_NS,
    S_MESSAGE_WORDS,
    S_PROTECTED,
    S_RESEND_NS,
    Member,
    reset_member,
)
from testbed.vnf.state.arrays import Words
from tests.protocol import names, plan
from tests.protocol.actors import begin_process, mirror
from tests.protocol.counting import input_length
from tests.protocol.fdu import (
    admit,
    arm_move_fault,
    begin_group,
    begin_move,
    hand_over,
    primary,
    role_of,
    suspect,
    tick,
)
from tests.protocol.guarantees import check_backup, is_done, judge
from tests.protocol.lineage import begin_lineage
from tests.protocol.member_events import at_member
from tests.protocol.network import arrival_ns, copies_of
from tests.protocol.plan import planned
from tests.protocol.world import (
    ALIVE,
    AWAKE_NS,
    CALM,
    E_A,
    E_B,
    E_C,
    E_D,
    E_KIND,
    E_LIFE,
    E_TO,
    EVENTS,
    FLYING,
    FOUND,
    GROUP_LOST,
    IN_EPOCH,
    IN_FLOW,
    IN_LENGTH,
    IN_PATH,
    IN_SEQ,
    INPUT_WORDS,
    INPUTS_AT,
    JOINED,
    LAST_INPUT_NS,
    LIFE,
    MARKS_AT,
    MAX_INPUTS,
    MS,
    NOW,
    OUTAGE_NS,
    SLOTS,
    SLOW_NS,
    STATS_AT,
    STOPPED,
    begin_world,
    count,
    draw,
    fail,
    input_at,
    pop,
    push,
    slot_at,
    trace,
)
from tests.protocol.world import MAX_FLOWS as MOST_FLOWS

TICK_NS = 4 * MS
LIMIT_NS = 500 * MS
"""Once the world is calm everything must have come to its end within this time."""


@compiled
def run_schedule(
    w: Words, members: tuple[Member, ...], process: Process, seed: int, seeded: int
) -> int:
    """Run one schedule; how many violations it found, which are in the world."""
    begin_world(w, seed, seeded)
    plan.draw_plan(w)
    begin_lineage(w)
    for number in range(SLOTS):
        _begin_member(w, members[number], number)
    _settings(w, members[SLOTS].words)
    begin_group(w)
    _plan_inputs(w)
    _plan_events(w)
    while w[EVENTS] and w[STOPPED] == 0:
        at = pop(w)
        count(w, names.EVENTS_HANDLED)
        kind, to, life = w[at + E_KIND], w[at + E_TO], w[at + E_LIFE]
        a, b, c, d = w[at + E_A], w[at + E_B], w[at + E_C], w[at + E_D]
        if (names.INPUT <= kind <= names.WAKE) or kind == names.DRAIN:
            at_member(w, members[to], process, kind, to, life, a, b, c, d)
        elif kind == names.RESTART:
            _restart(w, members[to], to)
        elif kind == names.TICK:
            _tick(w, members[primary(w)].words)
        else:
            _in_world(w, kind, to, life, a, b)
    if w[GROUP_LOST] == 0 and w[FOUND] == 0:
        lead = primary(w)
        judge(w, lead, members[lead], members[SLOTS], process)
        for number in range(SLOTS):
            if number != lead and role_of(w, number) == membership.BACKUP and w[FOUND] == 0:
                check_backup(w, members[lead], members[number], lead, number)
    return w[FOUND]


@compiled
def _settings(w: Words, m: Words) -> None:
    """What the plan says of the configuration, in words of a member."""
    mode = planned(w, plan.MODE)
    m[S_DEFT] = mode == plan.DEFT
    m[S_PROTECTED] = mode != plan.NONE
    m[S_ALONE] = 1 if mode == plan.NONE or planned(w, plan.AVAILABILITY) else 0
    m[S_BATCH_PACKETS] = planned(w, plan.BATCH_PACKETS)
    m[S_BATCH_NS] = planned(w, plan.BATCH_NS)
    if mode == plan.DEFT and m[S_BATCH_NS] == 0:
        m[S_BATCH_NS] = 3 * MS
    m[S_GAP_NS] = 8 * MS
    m[S_RESEND_NS] = 5 * MS
    m[S_LEASE_NS] = planned(w, plan.LEASE_NS)
    m[S_MESSAGE_WORDS] = planned(w, plan.MESSAGE_BYTES) // 8
    m[S_BOUND] = planned(w, plan.BUFFER)
    log_words = 3 * m[MOST_ENTRY_WORDS] + planned(w, plan.LOG_WORDS)
    if planned(w, plan.LOG_WORDS) < 0:
        log_words = max(3, m[S_BOUND]) * m[MOST_ENTRY_WORDS]
    m[LOG_END] = m[AT_LOG] + log_words
    m[MAX_FLOWS] = MOST_FLOWS
    if planned(w, plan.FULL_TABLE):
        m[MAX_FLOWS] = max(1, planned(w, plan.FLOWS) - 1)


@compiled
def _begin_member(w: Words, member: Member, number: int) -> None:
    """A fresh process."""
    begin_process(w, number)
    _settings(w, member.words)
    reset_member(member, number)
    mirror(w, member.words, number)


@compiled
def _plan_inputs(w: Words) -> None:
    for number in range(MAX_INPUTS):
        w[INPUTS_AT + number * INPUT_WORDS + IN_FLOW] = -1
    epochs = planned(w, plan.STAMPER_EPOCHS)
    for flow in range(planned(w, plan.FLOWS)):
        w[MARKS_AT + 2 * flow + 1] = -1
        time_ns = 0
        for epoch in range(epochs):
            for seq in range(planned(w, plan.PACKETS)):
                time_ns += 1 + draw(w, planned(w, plan.SPACING_NS))
                push(w, time_ns, names.STAMP, flow, 0, epoch, seq, 0, 0)
                w[LAST_INPUT_NS] = max(w[LAST_INPUT_NS], time_ns)
            if epoch < epochs - 1:
                count(w, names.STAMPER_RESTARTS)
                time_ns += draw(w, 2) * 10 * MS


@compiled
def _plan_events(w: Words) -> None:
    push(w, planned(w, plan.CALM_NS), names.CALM_DOWN, 0, 0, 0, 0, 0, 0)
    push(w, TICK_NS, names.TICK, 0, 0, 0, 0, 0, 0)
    if planned(w, plan.OUTAGE_END_NS) > planned(w, plan.OUTAGE_BEGIN_NS):
        count(w, names.OUTAGES)
    for fault in range(plan.MAX_FAULTS):
        at = plan.FAULTS + fault * plan.FAULT_WORDS
        kind, whom = planned(w, at + plan.FAULT_KIND), planned(w, at + plan.FAULT_WHOM)
        lasts_ns = planned(w, at + plan.FAULT_LASTS_NS)
        if kind == plan.SUSPECT and planned(w, plan.MODE) != plan.NONE:
            push(w, planned(w, at + plan.FAULT_NS), names.FALSE_SUSPICION, whom, 0, 0, 0, 0, 0)
        if kind == plan.SLOW:
            push(w, planned(w, at + plan.FAULT_NS), names.SLOWNESS, whom, 0, lasts_ns, 0, 0, 0)
    for number in range(plan.MAX_CUTS):
        if planned(w, plan.CUTS + number * plan.CUT_WORDS + plan.CUT_FROM):
            count(w, names.CUTS)


@compiled
def _stamp(w: Words, flow: int, epoch: int, seq: int) -> None:
    """An input leaves the stamper for the members that the switch knows."""
    at = input_at(flow, epoch, seq)
    for word in range(INPUT_WORDS):
        w[at + word] = 0
    w[at + IN_FLOW], w[at + IN_EPOCH], w[at + IN_SEQ] = flow, epoch, seq
    w[at + IN_LENGTH] = input_length(flow, epoch, seq, planned(w, plan.LARGE_INPUTS))
    # The shard is part of the path, but not of the flow's name.
    w[at + IN_PATH] = 2 + (flow & 1) | (epoch & 1) << 20
    count(w, names.INPUTS)
    for to in range(SLOTS):
        if role_of(w, to) or planned(w, plan.DUPLICATE_TO_ALL) or w[CALM]:
            for _ in range(copies_of(w, plan.FROM_STAMPER, to)):
                w[FLYING] += 1
                push(w, arrival_ns(w, to), names.INPUT, to, 0, at, 0, 0, 0)


@compiled
def _in_world(w: Words, kind: int, to: int, life: int, a: int, b: int) -> None:
    """An event that is not a member's."""
    if kind == names.STAMP:
        _stamp(w, to, a, b)
    elif kind == names.CALM_DOWN:
        _calm_down(w)
    elif kind == names.SLOWNESS:
        slow = to if to < SLOTS else max(primary(w), 0)
        w[slot_at(slow) + SLOW_NS] = 0 if b else 6 * MS
        if b == 0:
            count(w, names.SLOW_MEMBERS)
            push(w, w[NOW] + a, names.SLOWNESS, slow, 0, 0, 1, 0, 0)
    elif w[OUTAGE_NS] > w[NOW]:
        push(w, w[OUTAGE_NS], kind, to, life, a, b, 0, 0)
    else:
        _at_fdu(w, kind, to, life, a, b)


@compiled
def _restart(w: Words, member: Member, to: int) -> None:
    """A process that died is begun anew; that it died is seen, at the latest now."""
    slot = slot_at(to)
    if w[slot + ALIVE]:
        return
    count(w, names.RESTARTS)
    trace(w, names.RESTART, to, 0, 0, 0, 0)
    _begin_member(w, member, to)
    if role_of(w, to):
        push(w, w[NOW] + MS, names.SUSPICION, to, w[slot + JOINED], 1, 0, 0, 0)


@compiled
def _at_fdu(w: Words, kind: int, to: int, life: int, a: int, b: int) -> None:
    trace(w, kind, to, life, a, b, 0)
    if kind == names.SUSPICION:
        # Of one that sleeps: if it is still silent. Not of one that took its place.
        slot = slot_at(to)
        dead = w[slot + ALIVE] == 0 or w[slot + LIFE] != life
        if w[slot + JOINED] == life and (dead or w[slot + AWAKE_NS] > w[NOW]):
            suspect(w, to, a if dead else 0)
    elif kind == names.FALSE_SUSPICION:
        whom = to if to < SLOTS else primary(w)
        if whom >= 0 and w[CALM] == 0:
            count(w, names.FALSE_SUSPICIONS)
            suspect(w, whom, 0)
    elif kind == names.ADMIT:
        admit(w, to, a)
        arm_move_fault(w, 4)
    elif kind == names.HAND_OVER:
        hand_over(w, to, a, b)
        arm_move_fault(w, 5)


@compiled
def _tick(w: Words, m: Words) -> None:
    """The FDU looks at the group; at the end, so does the simulation."""
    now = w[NOW]
    if w[CALM] == 0 and planned(w, plan.OUTAGE_BEGIN_NS) <= now < planned(w, plan.OUTAGE_END_NS):
        w[OUTAGE_NS] = planned(w, plan.OUTAGE_END_NS)
    if w[OUTAGE_NS] <= now:
        begins = planned(w, plan.MOVE_NS) <= now
        if planned(w, plan.MOVE) != plan.NO_MOVE and begins and w[CALM] == 0:
            begin_move(w)
        tick(w, m)
    if w[CALM] and now > w[LAST_INPUT_NS] and w[STOPPED] == 0:
        took = now - w[LAST_INPUT_NS]
        if w[FLYING] == 0 and is_done(w):
            w[STOPPED] = 1
            if took > w[STATS_AT + names.LONGEST_RECOVERY_NS]:
                w[STATS_AT + names.LONGEST_RECOVERY_NS] = took
        elif took > LIMIT_NS:
            fail(w, names.G8, max(primary(w), 0), names.NOT_DRAINED)
            w[STOPPED] = 1
    push(w, now + TICK_NS, names.TICK, 0, 0, 0, 0, 0, 0)


@compiled
def _calm_down(w: Words) -> None:
    """From now on nothing fails; a last packet of each flow shows where it ends."""
    w[CALM] = 1
    w[OUTAGE_NS] = 0
    for number in range(SLOTS):
        slot = slot_at(number)
        w[slot + SLOW_NS] = 0
        if w[slot + AWAKE_NS] > w[NOW]:
            w[slot + AWAKE_NS] = w[NOW]
            push(w, w[NOW], names.WAKE, number, w[slot + LIFE], 0, 0, 0, 0)
    w[LAST_INPUT_NS] = max(w[LAST_INPUT_NS], w[NOW]) + 10 * MS
    epoch, seq = planned(w, plan.STAMPER_EPOCHS) - 1, planned(w, plan.PACKETS)
    for flow in range(planned(w, plan.FLOWS)):
        push(w, w[LAST_INPUT_NS], names.STAMP, flow, 0, epoch, seq, 0, 0)
