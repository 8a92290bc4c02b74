"""The events of a member: configurations of the FDU, messages of other members, times.

    configure    the FDU's word on who is what; the only way to become a primary
    on_message   what another member sent
    on_time      a time has come (`next_time_ns` says when)
    on_idle      the input ran empty: a batch that is open waits no longer

An event changes cursors; `messages.take_message` then gives the messages that are due, and
`handling.release_bound` the entries whose outputs may go out.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.function import Process
from testbed.vnf.replication.acknowledging import is_untold, on_ack
from testbed.vnf.replication.batches import batch_due_ns, close_batch, update_commit
from testbed.vnf.replication.early import forget_early
from testbed.vnf.replication.following import answer_call, on_chunk, on_log
from testbed.vnf.replication.handling import (
    active,
    can_handle,
    declare_gaps,
    drain_ready,
    forget_acknowledged,
    next_gap_ns,
    resume,
)
from testbed.vnf.replication.member import (
    BASE,
    CLOSED,
    COMMITTED,
    CONFIG_EPOCH,
    DRAINING,
    FOLLOWER,
    FORMER_TENURE,
    GROUP_EPOCH,
    IN_LOG,
    LEARNING,
    LOG_FIRST,
    MAX_MEMBERS,
    NEEDS_SNAPSHOT,
    NEVER,
    NEXT,
    NO_LIMIT,
    NO_PEER,
    OPENED_NS,
    OUT,
    P_ACKED,
    P_ASK,
    P_CAUGHT_UP,
    P_CHUNK,
    P_CHUNK_ACKED,
    P_CREDIT,
    P_LEASE_NS,
    P_RESEND_NS,
    P_RESENT,
    P_SENT,
    P_SENT_EVER,
    P_STATE,
    P_SYNC,
    P_TOLD,
    P_WAITED,
    PRIMARY,
    PROMISE_NS,
    READY_FIRST,
    RELEASED,
    REQUIRED,
    ROLE,
    S_DEFT,
    S_PROTECTED,
    SEEN_EPOCH,
    SELF,
    SNAPSHOT_EPOCH,
    SNAPSHOT_INDEX,
    TENURE,
    UNDER_WAY,
    WAIT_NS,
    WANTED,
    Member,
    peer_at,
)
from testbed.vnf.replication.messages import (
    ACK,
    HEAD_WORDS,
    LOG,
    SNAPSHOT,
    owe_nothing,
    send_again,
)
from testbed.vnf.replication.shared import forget_asks
from testbed.vnf.state.arrays import Words


@compiled
def configure(
    member: Member,
    process: Process,
    now_ns: int,
    epoch: int,
    primary: int,
    backups: int,
    learners: int,
    confirmed: int,
) -> bool:
    """The FDU's configuration of the group in `epoch`; False if it is no news.

    `backups` and `learners` have a bit for each member number. `confirmed`: the primary before is
    known to release nothing more, so a new one need not wait until its own promise has run out.
    """
    m = member.words
    if epoch <= m[CONFIG_EPOCH]:
        return False
    missed = epoch > m[CONFIG_EPOCH] + 1
    m[CONFIG_EPOCH] = epoch
    m[SEEN_EPOCH] = max(m[SEEN_EPOCH], epoch)
    if epoch < m[GROUP_EPOCH]:
        return False
    if epoch > m[GROUP_EPOCH]:
        m[GROUP_EPOCH] = epoch
        owe_nothing(m)
    if primary == m[SELF]:
        if missed:
            # Another may have led meanwhile, a member may have begun anew: what is known is void.
            m[ROLE] = FOLLOWER
        _lead(member, process, now_ns, backups, learners, confirmed)
        return True
    m[ROLE] = FOLLOWER if ((backups | learners) >> m[SELF]) & 1 else OUT
    if m[ROLE] == FOLLOWER:
        answer_call(m)
    return True


@compiled
def _lead(
    member: Member, process: Process, now_ns: int, backups: int, learners: int, confirmed: int
) -> None:
    """Be the primary of GROUP_EPOCH with these members."""
    m = member.words
    promoted = m[ROLE] != PRIMARY
    if promoted:
        m[ROLE] = PRIMARY
        m[WAIT_NS] = now_ns if confirmed else m[PROMISE_NS]
        m[OPENED_NS] = now_ns
        m[SNAPSHOT_EPOCH] = -1
        m[NEEDS_SNAPSHOT] = 0
        m[FORMER_TENURE] = m[TENURE]
        m[TENURE] = m[GROUP_EPOCH]
        m[BASE] = m[NEXT]
        forget_early(m)
    m[CLOSED] = m[NEXT]
    m[DRAINING] = 0
    for number in range(MAX_MEMBERS):
        peer = peer_at(number)
        bit = 1 << number
        state = REQUIRED if backups & bit else LEARNING if learners & bit else NO_PEER
        if promoted or m[peer + P_STATE] == NO_PEER:
            m[peer + P_ACKED] = m[LOG_FIRST] if state == REQUIRED else 0
            m[peer + P_TOLD] = -1
            m[peer + P_LEASE_NS] = 0
            m[peer + P_SYNC] = IN_LOG if state == REQUIRED else WANTED
        elif state == LEARNING and m[peer + P_STATE] == REQUIRED:
            # It has caught up and is waited for; that the FDU admits it is only a matter of time.
            state = REQUIRED
        m[peer + P_STATE] = state
        if state != REQUIRED or learners & bit == 0:
            m[peer + P_WAITED] = 0
        caught_up = state == REQUIRED and learners & bit and m[peer + P_WAITED] == 0
        m[peer + P_CAUGHT_UP] = 1 if caught_up else 0
        m[peer + P_SENT] = m[peer + P_SENT_EVER] = m[peer + P_ACKED]
        m[peer + P_RESENT] = 0
        m[peer + P_RESEND_NS] = NEVER
        m[peer + P_CREDIT] = NO_LIMIT
        m[peer + P_ASK] = 1 if state != NO_PEER else 0
        # What was sent of a snapshot in the former epoch may have been refused.
        m[peer + P_CHUNK] = m[peer + P_CHUNK_ACKED]
    update_commit(m)
    # The log may have been kept for one who is gone.
    forget_acknowledged(m)
    if promoted:
        forget_asks(m)
        resume(member, process, now_ns)
    drain_ready(member, process, now_ns)
    close_batch(m, now_ns, True)


@compiled
def on_message(
    member: Member, process: Process, now_ns: int, group: int, words: Words, begin: int, end: int
) -> bool:
    """A message of another member is in `words[begin:end]`; False if it is none of this group."""
    if end - begin < HEAD_WORDS:
        return False
    kind = words[begin] & 0xFF
    sender = (words[begin] >> 8) & 0xFF
    if words[begin] >> 16 != group & 0xFFFFFFFF or sender >= MAX_MEMBERS:
        return False
    if kind == LOG:
        return on_log(member, now_ns, sender, words, begin, end)
    if kind == ACK:
        on_ack(member, process, now_ns, sender, words, begin)
        return True
    if kind == SNAPSHOT:
        return on_chunk(member, now_ns, sender, words, begin, end)
    return False


@compiled
def on_released(m: Words, index: int) -> None:
    """The outputs of all entries below `index` went out."""
    m[RELEASED] = max(m[RELEASED], index)
    forget_acknowledged(m)


@compiled
def on_idle(member: Member, process: Process, now_ns: int) -> None:
    """The input ran empty."""
    m = member.words
    if m[ROLE] == PRIMARY:
        drain_ready(member, process, now_ns)
        close_batch(m, now_ns, True)


@compiled
def on_time(member: Member, process: Process, now_ns: int) -> None:
    """The time may have come for a gap, a batch, a retransmission or a lease."""
    m = member.words
    if m[ROLE] != PRIMARY:
        return
    declare_gaps(member, process, now_ns)
    drain_ready(member, process, now_ns)
    close_batch(m, now_ns, False)
    send_again(m, now_ns)
    _renew_leases(m, now_ns)
    _give_up_laggards(m)


@compiled
def _must_ask(m: Words, peer: int, now_ns: int) -> bool:
    """Whether outputs wait for a word of this member and no message to it is on its way."""
    if m[peer + P_STATE] != REQUIRED or m[peer + P_ASK] or m[peer + P_RESEND_NS] != NEVER:
        return False
    if m[COMMITTED] <= m[RELEASED] or m[S_PROTECTED] == 0:
        return False
    return (m[S_DEFT] != 0 and is_untold(m, peer)) or m[peer + P_LEASE_NS] <= now_ns


@compiled
def _renew_leases(m: Words, now_ns: int) -> None:
    """Ask for a lease where outputs wait for one."""
    for number in range(MAX_MEMBERS):
        if _must_ask(m, peer_at(number), now_ns):
            m[peer_at(number) + P_ASK] = 1


@compiled
def _give_up_laggards(m: Words) -> None:
    """A learner for which the log is kept must not hold up the group: it begins anew."""
    if m[READY_FIRST] < 0:
        return
    for number in range(MAX_MEMBERS):
        peer = peer_at(number)
        if m[peer + P_STATE] != LEARNING or m[peer + P_SYNC] == WANTED:
            continue
        kept = m[SNAPSHOT_INDEX] if m[peer + P_SYNC] == UNDER_WAY else m[peer + P_ACKED]
        if kept == m[LOG_FIRST] and kept < m[RELEASED]:
            m[peer + P_SYNC] = WANTED
    forget_acknowledged(m)


@compiled
def next_time_ns(m: Words, now_ns: int) -> int:
    """When `on_time` is due; NEVER: not before another event."""
    if m[ROLE] != PRIMARY:
        return NEVER
    due_ns = min(next_gap_ns(m), batch_due_ns(m))
    if m[READY_FIRST] >= 0 and can_handle(m):
        due_ns = min(due_ns, now_ns)
    waits = m[COMMITTED] > m[RELEASED]
    for number in range(MAX_MEMBERS):
        peer = peer_at(number)
        if m[peer + P_STATE] == NO_PEER:
            continue
        due_ns = min(due_ns, m[peer + P_RESEND_NS])
        if _must_ask(m, peer, now_ns):
            due_ns = min(due_ns, now_ns)
    if waits and active(m) and now_ns < m[WAIT_NS]:
        due_ns = min(due_ns, m[WAIT_NS])
    return due_ns


@compiled("boolean(int64[::1])")
def is_drained(m: Words) -> bool:
    """Whether everything that was taken in is out and at every backup: it can hand over."""
    if m[ROLE] != PRIMARY or m[DRAINING] == 0:
        return False
    for number in range(MAX_MEMBERS):
        peer = peer_at(number)
        behind = m[peer + P_SYNC] != IN_LOG or m[peer + P_ACKED] < m[NEXT]
        if m[peer + P_STATE] == REQUIRED and behind:
            return False
    return m[RELEASED] == m[NEXT]


@compiled
def drain(member: Member, process: Process, now_ns: int, on: int) -> None:
    """Begin or end taking no more inputs into the log; they wait in the input buffer meanwhile."""
    m = member.words
    m[DRAINING] = on
    if on == 0:
        resume(member, process, now_ns)
    close_batch(m, now_ns, True)
