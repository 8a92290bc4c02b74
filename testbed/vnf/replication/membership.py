"""Who is in a replica group, and in which role: the record that the FDU's majority keeps.

A group is an int64 array of `SIZE` words. Each change raises its epoch by one; a command names
the epoch that it was based on, and one that is based on another epoch, or that makes no sense,
changes nothing. So commands can be repeated, and the same commands in the same order give the
same record wherever they are applied. Compiled: the FDU and the compiled simulator call the same
code.

    NONE --join--> LEARNER --admit--> BACKUP --hand_over, or the primary failed--> PRIMARY
    and each of them --leave, vote_failed, hand_over (the old primary)--> NONE

All functions return whether the group changed, unless they say otherwise.
"""

from __future__ import annotations

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.state.arrays import Words

MAX_MEMBERS = 8
NONE, LEARNER, BACKUP, PRIMARY = 0, 1, 2, 3

EPOCH = 0
"""0: the group was not created yet."""
DOUBTFUL = 1
"""Bit m: member m was in the group when a primary was removed that may still be alive. Such a
member may have promised that primary not to take over before a time; it has to wait for that."""
ROLES = 2
"""Role of member m in word ROLES + m."""
ADMITTED = ROLES + MAX_MEMBERS
"""The epoch in which member m became a backup, in word ADMITTED + m."""
VOTES = ADMITTED + MAX_MEMBERS
"""Bit v: voter v says that member m failed, in word VOTES + m; cleared by each new epoch."""
SIZE = VOTES + MAX_MEMBERS
MAX_VOTERS = 62


def new_group() -> Words:
    """A group that was not created yet."""
    return np.zeros(SIZE, dtype=np.int64)


@compiled("boolean(int64)")
def is_member(member: int) -> bool:
    """Whether a number can be a member's."""
    return 0 <= member < MAX_MEMBERS


@compiled("int64(int64[::1])")
def primary_of(group: Words) -> int:
    """The number of the primary; -1 if the group has none."""
    for member in range(MAX_MEMBERS):
        if group[ROLES + member] == PRIMARY:
            return member
    return -1


@compiled("int64(int64[::1])")
def heir_of(group: Words) -> int:
    """The backup that would take over: the first admitted, then the lowest number; -1 if none."""
    heir = -1
    for member in range(MAX_MEMBERS):
        if group[ROLES + member] != BACKUP:
            continue
        if heir < 0 or group[ADMITTED + member] < group[ADMITTED + heir]:
            heir = member
    return heir


@compiled("boolean(int64[::1])")
def is_confirmed(group: Words) -> bool:
    """Whether the primary need not wait: no former primary that it may have promised can act."""
    primary = primary_of(group)
    return primary >= 0 and (group[DOUBTFUL] >> primary) & 1 == 0


@compiled("boolean(int64[::1], int64, int64)")
def is_valid_start(group: Words, primary: int, backups: int) -> bool:
    """Whether a group can be created with this primary and these backups (bit m: member m)."""
    if group[EPOCH] != 0 or not is_member(primary):
        return False
    return 0 <= backups < 1 << MAX_MEMBERS and (backups >> primary) & 1 == 0


@compiled("boolean(int64[::1], int64, int64)")
def create(group: Words, primary: int, backups: int) -> bool:
    """Begin epoch 1 with a primary and backups (bit m: member m is one)."""
    if not is_valid_start(group, primary, backups):
        return False
    group[:] = 0
    group[EPOCH] = 1
    for member in range(MAX_MEMBERS):
        if (backups >> member) & 1:
            group[ROLES + member] = BACKUP
            group[ADMITTED + member] = 1
    group[ROLES + primary] = PRIMARY
    return True


@compiled("boolean(int64[::1], int64, int64)")
def is_current(group: Words, epoch: int, member: int) -> bool:
    """Whether a command about `member` that was based on `epoch` is to be looked at."""
    return group[EPOCH] == epoch and epoch > 0 and is_member(member)


@compiled("void(int64[::1])")
def begin_epoch(group: Words) -> None:
    """Raise the epoch: votes were about the former one."""
    group[EPOCH] += 1
    group[VOTES : VOTES + MAX_MEMBERS] = 0


@compiled("void(int64[::1], int64)")
def remove(group: Words, member: int) -> None:
    """Forget a member's part."""
    group[ROLES + member] = NONE
    group[ADMITTED + member] = 0
    group[DOUBTFUL] &= ~(1 << member)


@compiled("boolean(int64[::1], int64, int64)")
def join(group: Words, epoch: int, member: int) -> bool:
    """NONE becomes LEARNER; refused without a primary, from whom it would learn."""
    if not is_current(group, epoch, member) or group[ROLES + member] != NONE:
        return False
    if primary_of(group) < 0:
        return False
    remove(group, member)
    group[ROLES + member] = LEARNER
    begin_epoch(group)
    return True


@compiled("boolean(int64[::1], int64, int64)")
def admit(group: Words, epoch: int, member: int) -> bool:
    """LEARNER becomes BACKUP: the primary waits for its acknowledgements from now on."""
    if not is_current(group, epoch, member) or group[ROLES + member] != LEARNER:
        return False
    if primary_of(group) < 0:
        return False
    group[ROLES + member] = BACKUP
    begin_epoch(group)
    group[ADMITTED + member] = group[EPOCH]
    return True


@compiled("boolean(int64[::1], int64, int64)")
def leave(group: Words, epoch: int, member: int) -> bool:
    """BACKUP or LEARNER becomes NONE."""
    if not is_current(group, epoch, member):
        return False
    if group[ROLES + member] != BACKUP and group[ROLES + member] != LEARNER:
        return False
    remove(group, member)
    begin_epoch(group)
    return True


@compiled("void(int64[::1])")
def doubt(group: Words) -> None:
    """Remember that those who are in the group now saw a primary go that may still act."""
    for member in range(MAX_MEMBERS):
        if group[ROLES + member] != NONE:
            group[DOUBTFUL] |= 1 << member


@compiled("boolean(int64[::1], int64, int64, int64, int64)")
def hand_over(group: Words, epoch: int, to: int, stays: int, drained: int) -> bool:
    """The backup `to` becomes the primary, as planned; the old one leaves, or backs it up.

    `drained` says that the old primary has stopped: it releases nothing any more.
    """
    if not is_current(group, epoch, to) or group[ROLES + to] != BACKUP:
        return False
    old = primary_of(group)
    if old < 0:
        return False
    if not drained:
        doubt(group)
    if stays:
        group[ROLES + old] = BACKUP
    else:
        remove(group, old)
    group[ROLES + to] = PRIMARY
    group[ADMITTED + to] = 0
    begin_epoch(group)
    if stays:
        group[ADMITTED + old] = group[EPOCH]
    return True


@compiled("int64(int64)")
def count_bits(word: int) -> int:
    """How many bits of a word that is not negative are set."""
    count = 0
    while word:
        word &= word - 1
        count += 1
    return count


@compiled("boolean(int64[::1], int64, int64, int64)")
def is_vote(group: Words, epoch: int, member: int, voter: int) -> bool:
    """Whether a vote is about a member that the group has in this epoch."""
    if not is_current(group, epoch, member) or group[ROLES + member] == NONE:
        return False
    return 0 <= voter < MAX_VOTERS


@compiled("boolean(int64[::1], int64, int64, int64, int64, int64)")
def vote_failed(
    group: Words, epoch: int, member: int, voter: int, confirmed: int, majority: int
) -> bool:
    """`voter` has not heard of `member` for too long, or (`confirmed`) it is known to be dead.

    With `majority` votes, or confirmed, the member is removed; if it was the primary, the heir
    takes over, or the group has no primary any more and only learners, which are useless.
    Returns whether the member was removed: a vote alone begins no epoch.
    """
    if not is_vote(group, epoch, member, voter):
        return False
    group[VOTES + member] |= 1 << voter
    if not confirmed and count_bits(group[VOTES + member]) < majority:
        return False
    if group[ROLES + member] == PRIMARY:
        heir = heir_of(group)
        remove(group, member)
        if not confirmed:
            doubt(group)
        if heir >= 0:
            group[ROLES + heir] = PRIMARY
            group[ADMITTED + heir] = 0
    else:
        remove(group, member)
    begin_epoch(group)
    return True


@compiled("boolean(int64[::1], int64, int64, int64)")
def retract(group: Words, epoch: int, member: int, voter: int) -> bool:
    """`voter` has heard of `member` again. Returns whether a vote was withdrawn; no new epoch."""
    if not is_vote(group, epoch, member, voter):
        return False
    had_voted = (group[VOTES + member] >> voter) & 1 == 1
    group[VOTES + member] &= ~(1 << voter)
    return had_voted


@compiled("int64(int64[::1], int64)")
def mask_of(group: Words, role: int) -> int:
    """The members that have a role (bit m: member m)."""
    mask = 0
    for member in range(MAX_MEMBERS):
        if group[ROLES + member] == role:
            mask |= 1 << member
    return mask
