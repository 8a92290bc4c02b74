"""The simulated FDU: the product's record of the group, and who decides when to change it.

Its three voters are one here: a suspicion is what a majority agreed on, and without a majority
nothing changes for a while. It tells its configurations over the network, again until they are
known, and each to the process that it knows as the member, not to one that came after it.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.replication import membership as record
from testbed.vnf.replication.member import (
    DRAINING,
    GROUP_EPOCH,
    P_CAUGHT_UP,
    PRIMARY,
    ROLE,
    peer_at,
)
from testbed.vnf.replication.protocol import is_drained
from testbed.vnf.state.arrays import Words
from tests.protocol import names, plan
from tests.protocol.network import arrival_ns, copies_of
from tests.protocol.plan import planned
from tests.protocol.world import (
    ALIVE,
    AWAKE_NS,
    CALM,
    CONTROL,
    CONTROL_HITS,
    FAULT_KIND,
    FAULT_NS,
    FAULT_STEP,
    GROUP_AT,
    GROUP_LOST,
    HANDING_OVER,
    JOINED,
    LIFE,
    M_CONFIG,
    MOVE_PHASE,
    MOVE_TO,
    MS,
    NOW,
    OUTAGE_NS,
    REMOVED_NS,
    SLOTS,
    STEPS,
    STOPPED,
    count,
    draw,
    push,
    slot_at,
    trace,
)

EPOCH_AT = GROUP_AT + record.EPOCH

IDLE, JOINING, DRAINS = 0, 1, 2
"""Phases of a move; then it is over."""
OVER = 3


@compiled
def group_of(w: Words) -> Words:
    """The record."""
    return w[GROUP_AT : GROUP_AT + record.SIZE]


@compiled
def role_of(w: Words, number: int) -> int:
    """A member's role in the record."""
    return w[GROUP_AT + record.ROLES + number]


@compiled
def primary(w: Words) -> int:
    """The primary in the record; -1: none."""
    return record.primary_of(group_of(w))


@compiled
def begin_group(w: Words) -> None:
    """Epoch 1, with the members that the plan says."""
    for word in range(record.SIZE):
        w[GROUP_AT + word] = 0
    first = planned(w, plan.PRIMARY)
    backups = 0
    for number in range(planned(w, plan.BACKUPS)):
        backups |= 1 << (first + 1 + number) % SLOTS
    record.create(group_of(w), first, backups)
    for number in range(SLOTS):
        w[slot_at(number) + JOINED] = 1
        w[slot_at(number) + REMOVED_NS] = -1
    tell_all(w)


@compiled
def tell(w: Words, to: int) -> None:
    """Send the configuration to the process that is known as this member."""
    group = group_of(w)
    first = record.primary_of(group)
    if first < 0:
        return
    masks = record.mask_of(group, record.BACKUP) | record.mask_of(group, record.LEARNER) << 8
    confirmed = record.is_confirmed(group) or w[CONTROL] == names.ALL_CONFIRMED
    if confirmed:
        masks |= 1 << 16
    life = w[slot_at(to) + JOINED]
    for _ in range(copies_of(w, plan.FROM_FDU, to)):
        push(w, arrival_ns(w, to), names.CONFIG, to, life, group[record.EPOCH], masks, first, 0)


@compiled
def tell_all(w: Words) -> None:
    """Send the configuration to all, also to those who are out now."""
    for number in range(SLOTS):
        tell(w, number)


@compiled
def suspect(w: Words, number: int, confirmed: int) -> None:
    """The majority says that a member failed."""
    group = group_of(w)
    if role_of(w, number) == record.NONE:
        return
    was_primary = role_of(w, number) == record.PRIMARY
    count(w, names.SUSPICIONS)
    if not record.vote_failed(group, group[record.EPOCH], number, 0, confirmed, 1):
        return
    w[slot_at(number) + REMOVED_NS] = w[NOW]
    if was_primary:
        if primary(w) < 0:
            w[GROUP_LOST] = w[STOPPED] = 1
            count(w, names.GROUPS_LOST)
            return
        count(w, names.PROMOTIONS)
        if not record.is_confirmed(group):
            count(w, names.UNCONFIRMED_PROMOTIONS)
    tell_all(w)


@compiled
def _join_one(w: Words) -> int:
    """Let a process join that is no member; its number, -1 if there is none."""
    group = group_of(w)
    offset = draw(w, SLOTS)
    for step in range(SLOTS):
        number = (offset + step) % SLOTS
        slot = slot_at(number)
        if w[slot + ALIVE] == 0 or role_of(w, number) != record.NONE:
            continue
        again = w[slot + REMOVED_NS] >= 0 and w[slot + JOINED] == w[slot + LIFE]
        if again and planned(w, plan.REJOIN_IN_PLACE) == 0:
            # It is stopped, and begins anew.
            w[slot + ALIVE] = 0
            push(w, w[NOW] + MS, names.RESTART, number, 0, 0, 0, 0, 0)
            continue
        if not record.join(group, group[record.EPOCH], number):
            return -1
        if again:
            count(w, names.REJOINS_IN_PLACE)
        count(w, names.JOINS)
        w[slot + JOINED] = w[slot + LIFE]
        w[slot + REMOVED_NS] = -1
        if w[CONTROL] == names.EARLY_ADMISSION:
            w[CONTROL_HITS] += 1
            record.admit(group, group[record.EPOCH], number)
        tell_all(w)
        return number
    return -1


@compiled
def _leave(w: Words, number: int) -> None:
    group = group_of(w)
    if record.leave(group, group[record.EPOCH], number):
        w[slot_at(number) + REMOVED_NS] = w[NOW]
        tell_all(w)


@compiled
def admit(w: Words, number: int, epoch: int) -> None:
    """The primary of `epoch` reported that this learner has caught up."""
    if record.admit(group_of(w), epoch, number):
        count(w, names.ADMISSIONS)
        tell_all(w)


@compiled
def hand_over(w: Words, to: int, epoch: int, drained: int) -> None:
    """A planned change of the primary, ordered when the group was in `epoch`."""
    w[HANDING_OVER] -= 1
    kind = planned(w, plan.MOVE)
    stays = 1 if kind == plan.DRAINED_STAYS or kind == plan.SUDDEN_STAYS else 0
    old = primary(w)
    if not record.hand_over(group_of(w), epoch, to, stays, drained):
        count(w, names.HAND_OVERS_REFUSED)
        return
    count(w, names.HAND_OVERS)
    w[MOVE_PHASE] = OVER
    if stays == 0:
        w[slot_at(old) + REMOVED_NS] = w[NOW]
    tell_all(w)


@compiled
def tick(w: Words, m: Words) -> None:
    """What the FDU and the orchestration do from time to time; `m` is the primary's."""
    if w[OUTAGE_NS] > w[NOW]:
        return
    lead = primary(w)
    for number in range(SLOTS):
        slot = slot_at(number)
        if w[slot + ALIVE] == 0 or w[slot + LIFE] != w[slot + JOINED]:
            continue
        if w[slot + M_CONFIG] < w[EPOCH_AT]:
            tell(w, number)
    heard = w[slot_at(lead) + ALIVE] and w[slot_at(lead) + AWAKE_NS] <= w[NOW]
    heard = heard and m[ROLE] == PRIMARY and w[slot_at(lead) + LIFE] == w[slot_at(lead) + JOINED]
    if heard and m[GROUP_EPOCH] == w[EPOCH_AT]:
        for number in range(SLOTS):
            if m[peer_at(number) + P_CAUGHT_UP] and role_of(w, number) == record.LEARNER:
                _order(w, names.ADMIT, number, 0, m[GROUP_EPOCH], 0)
        _go_on_moving(w, m, lead)
    _keep_size(w)


@compiled
def _order(w: Words, kind: int, to: int, life: int, a: int, b: int) -> None:
    """An order or a report on its way to the FDU, or to a member."""
    push(w, w[NOW] + 100_000 + draw(w, 4 * MS), kind, to, life, a, b, 0, 0)


@compiled
def _keep_size(w: Words) -> None:
    """As many backups as planned: one may join, or leave if there is one too many."""
    backups = learners = last = 0
    for number in range(SLOTS):
        role = role_of(w, number)
        learners += role == record.LEARNER
        if role == record.BACKUP:
            backups += 1
            last = number
    wanted = planned(w, plan.BACKUPS)
    moving = w[MOVE_PHASE] == JOINING or w[MOVE_PHASE] == DRAINS
    if moving:
        return
    if backups + learners < wanted:
        _join_one(w)
    elif backups > wanted or (learners and backups >= wanted):
        for number in range(SLOTS):
            if role_of(w, number) == record.LEARNER:
                last = number
        _leave(w, last)


@compiled
def begin_move(w: Words) -> None:
    """The orchestration wants to move the primary, or a backup: its new place joins."""
    if primary(w) < 0 or w[MOVE_PHASE] != IDLE:
        return
    number = _join_one(w)
    if number >= 0:
        count(w, names.MOVES_BEGUN)
        w[MOVE_PHASE] = JOINING
        w[MOVE_TO] = number
        arm_move_fault(w, 1)


@compiled
def _go_on_moving(w: Words, m: Words, lead: int) -> None:
    """The next step of the move; the primary is in the FDU's epoch and listens."""
    to = w[MOVE_TO]
    moving = w[MOVE_PHASE] == JOINING or w[MOVE_PHASE] == DRAINS
    if not moving:
        if m[DRAINING] and w[HANDING_OVER] == 0:
            _order(w, names.DRAIN, lead, w[slot_at(lead) + LIFE], 0, m[GROUP_EPOCH])
        return
    gone = role_of(w, to) == record.NONE or lead == to
    if gone or (planned(w, plan.ABORT_MOVE) == w[MOVE_PHASE] and draw(w, 4) == 1):
        count(w, names.MOVES_ABORTED)
        w[MOVE_PHASE] = OVER
        return
    if role_of(w, to) != record.BACKUP:
        return
    kind = planned(w, plan.MOVE)
    if kind == plan.BACKUP_MOVE:
        w[MOVE_PHASE] = OVER  # one backup is too many now
        for number in range(SLOTS):
            if number != to and role_of(w, number) == record.BACKUP:
                _leave(w, number)
                return
        return
    if w[MOVE_PHASE] == JOINING:
        w[MOVE_PHASE] = DRAINS
        arm_move_fault(w, 2)
    sudden = kind == plan.SUDDEN_MOVE or kind == plan.SUDDEN_STAYS
    if planned(w, plan.MODE) == plan.NONE:
        sudden = False
    if sudden:
        w[HANDING_OVER] += 1
        _order(w, names.HAND_OVER, to, 0, m[GROUP_EPOCH], 0)
    elif m[DRAINING] == 0:
        _order(w, names.DRAIN, lead, w[slot_at(lead) + LIFE], 1, m[GROUP_EPOCH])
    elif is_drained(m) or w[CONTROL] == names.NOT_DRAINED_MOVE:
        w[CONTROL_HITS] += 1
        w[HANDING_OVER] += 1
        arm_move_fault(w, 3)
        _order(w, names.HAND_OVER, to, 0, m[GROUP_EPOCH], 1)


@compiled
def arm_move_fault(w: Words, phase: int) -> None:
    """Something happens soon to one who takes part in the move."""
    if planned(w, plan.MOVE_FAULT_PHASE) != phase or w[CALM]:
        return
    whom = primary(w)
    if planned(w, plan.MOVE_FAULT_WHOM) == 1:
        whom = w[MOVE_TO]
    elif planned(w, plan.MOVE_FAULT_WHOM) == 2:
        for number in range(SLOTS):
            if role_of(w, number) == record.BACKUP and number != w[MOVE_TO]:
                whom = number
    slot = slot_at(whom)
    if w[slot + FAULT_STEP] < 0:
        w[slot + FAULT_STEP] = w[slot + STEPS] + 1 + draw(w, 30)
        w[slot + FAULT_KIND] = plan.CRASH if draw(w, 3) < 2 else plan.PAUSE
        w[slot + FAULT_NS] = draw(w, 50 * MS)
        count(w, names.FAULTS_IN_MOVES)
        trace(w, names.ARMED, whom, w[slot + FAULT_STEP], w[slot + FAULT_KIND], 0, 0)
