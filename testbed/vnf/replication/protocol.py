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
from testbed.vnf.arrays import Words
from testbed.vnf.functions.function import Process
from testbed.vnf.replication.flows import discard_handled, find_logged
from testbed.vnf.replication.handling import (
    active,
    batch_due_ns,
    can_handle,
    close_batch,
    declare_gaps,
    drain_ready,
    forget_acknowledged,
    next_gap_ns,
    resume,
    update_commit,
)
from testbed.vnf.replication.log import (
    carry_out,
    expect_entry,
    forget_log,
    sound_entry,
    take_entry,
)
from testbed.vnf.replication.member import (
    AT_SNAPSHOT,
    BASE,
    CLOSED,
    COMMITTED,
    CONFIG_EPOCH,
    DRAINING,
    FOLLOWER,
    FORMER_TENURE,
    GROUP_EPOCH,
    IN_LOG,
    LEADER,
    LEARNING,
    LOG_FIRST,
    MAX_MEMBERS,
    NEAR_SHARE,
    NEEDS_SNAPSHOT,
    NEVER,
    NEXT,
    NO_ECHO,
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
    P_SYNCED_NS,
    P_TOLD,
    P_WAITED,
    PRIMARY,
    PROMISE_NS,
    READY_FIRST,
    RELEASED,
    REQUIRED,
    ROLE,
    S_BATCH_PACKETS,
    S_BOUND,
    S_DEFT,
    S_LEASE_NS,
    S_PROTECTED,
    S_RESEND_NS,
    SEEN_EPOCH,
    SELF,
    SNAPSHOT_EPOCH,
    SNAPSHOT_GOT,
    SNAPSHOT_INDEX,
    SNAPSHOT_ROOM,
    SNAPSHOT_WORDS,
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
    owe_ack,
    owe_nothing,
    send_again,
)
from testbed.vnf.replication.snapshot import install_snapshot


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
        return _on_log(member, now_ns, sender, words, begin, end)
    if kind == ACK:
        _on_ack(member, process, now_ns, sender, words, begin)
        return True
    if kind == SNAPSHOT:
        return _on_chunk(member, now_ns, sender, words, begin, end)
    return False


@compiled
def promised_ns(lease_ns: int) -> int:
    """How long a follower keeps still, by its own clock, for a lease of this length.

    Longer than the lease by its 256th part: both clocks may be wrong by 1/512 of the time.
    """
    return lease_ns + (lease_ns >> 8) + 1


@compiled
def _follows(m: Words, now_ns: int, sender: int, epoch: int, sent_ns: int) -> bool:
    """Whether a message of a primary in `epoch` is to be heeded; an answer to it is due then.

    Of a new epoch there is one primary, by the FDU's word: who hears of it follows. To one of an
    old epoch the answer tells the new one.
    """
    if m[ROLE] == FOLLOWER and epoch > m[GROUP_EPOCH]:
        m[GROUP_EPOCH] = epoch
        owe_nothing(m)
        m[SEEN_EPOCH] = max(m[SEEN_EPOCH], epoch)
    if epoch > m[GROUP_EPOCH]:
        m[SEEN_EPOCH] = max(m[SEEN_EPOCH], epoch)
        return False
    if epoch < m[GROUP_EPOCH] or m[ROLE] != FOLLOWER:
        # Nothing is promised, so the answer must not renew a lease.
        owe_ack(m, sender, NO_ECHO)
        return False
    owe_ack(m, sender, sent_ns)
    m[LEADER] = sender
    m[PROMISE_NS] = max(m[PROMISE_NS], now_ns + promised_ns(m[S_LEASE_NS]))
    return True


@compiled
def _on_log(member: Member, now_ns: int, sender: int, words: Words, begin: int, end: int) -> bool:
    m = member.words
    epoch, first = words[begin + 1], words[begin + 3]
    count, committed, released = words[begin + 4], words[begin + 5], words[begin + 6]
    if not _follows(m, now_ns, sender, epoch, words[begin + 7]):
        return True
    _compare_logs(m, words[begin + 8], words[begin + 9], words[begin + 2])
    if m[NEEDS_SNAPSHOT]:
        return True
    at = begin + HEAD_WORDS
    for index in range(first, first + count):
        size = sound_entry(member, words, at, end)
        if size == 0:
            return False
        expect_entry(member, words, at + size, end)
        if index == m[NEXT] and not _take(member, words, at, size):
            break
        at += size
    known = m[NEXT]
    m[COMMITTED] = max(m[COMMITTED], min(committed, known))
    m[RELEASED] = max(m[RELEASED], min(released, known))
    forget_log(m, m[RELEASED])
    return True


@compiled
def _compare_logs(m: Words, tenure: int, former: int, base: int) -> None:
    """Is the own log a beginning of that of the primary of `tenure`? Else a snapshot is due.

    It is a part of the log of the tenure before, up to where the new one began, or there is nothing
    in it. (A longer one has entries that the new primary never had.)
    """
    if m[TENURE] == tenure:
        return
    if m[NEXT] == 0 or (m[TENURE] == former and m[NEXT] <= base):
        m[TENURE] = tenure
    else:
        m[NEEDS_SNAPSHOT] = 1


@compiled
def _take(member: Member, words: Words, at: int, size: int) -> bool:
    """Apply an entry: state, mark and the output that is kept change in one step."""
    m = member.words
    where = words[at + 1]
    flow_at = find_logged(m, where & 0xFFFFFF, words[at + 2])
    if flow_at < 0 or not take_entry(m, words, at, size):
        return False
    carry_out(member, flow_at, words, at)
    discard_handled(m, flow_at)
    return True


@compiled
def _on_chunk(member: Member, now_ns: int, sender: int, words: Words, begin: int, end: int) -> bool:
    """A part of a snapshot; parts are taken in order, and a new one starts from its beginning."""
    m = member.words
    if not _follows(m, now_ns, sender, words[begin + 1], words[begin + 7]):
        return True
    taken, index, total = words[begin + 2], words[begin + 3], words[begin + 4]
    first, count = words[begin + 5], words[begin + 6]
    tenure = words[begin + 8]
    if m[NEEDS_SNAPSHOT] == 0:
        if m[TENURE] == tenure and index <= m[NEXT]:
            return True
        # The primary does not keep what comes next in the own log.
        m[NEEDS_SNAPSHOT] = 1
    if count < 1 or total > m[SNAPSHOT_ROOM] or begin + HEAD_WORDS + count > end:
        return False
    known = m[SNAPSHOT_EPOCH] == taken and m[SNAPSHOT_INDEX] == index
    # One that was taken again has fewer outputs to hold, and so fewer words.
    if not known or m[SNAPSHOT_WORDS] != total:
        m[SNAPSHOT_EPOCH] = taken
        m[SNAPSHOT_INDEX] = index
        m[SNAPSHOT_WORDS] = total
        m[SNAPSHOT_GOT] = 0
    if first != m[SNAPSHOT_GOT] or first + count > m[SNAPSHOT_WORDS]:
        return True
    for word in range(count):
        m[m[AT_SNAPSHOT] + first + word] = words[begin + HEAD_WORDS + word]
    m[SNAPSHOT_GOT] = first + count
    if m[SNAPSHOT_GOT] == m[SNAPSHOT_WORDS]:
        if not install_snapshot(member):
            return False
        m[TENURE] = tenure
    return True


@compiled
def _on_ack(
    member: Member, process: Process, now_ns: int, sender: int, words: Words, begin: int
) -> None:
    m = member.words
    epoch, index, told = words[begin + 1], words[begin + 2], words[begin + 3]
    echo_ns, needs = words[begin + 4], words[begin + 5]
    m[SEEN_EPOCH] = max(m[SEEN_EPOCH], epoch)
    peer = peer_at(sender)
    if m[ROLE] != PRIMARY or epoch != m[GROUP_EPOCH] or m[peer + P_STATE] == NO_PEER:
        return
    if echo_ns > now_ns:
        return
    m[peer + P_LEASE_NS] = max(m[peer + P_LEASE_NS], echo_ns + m[S_LEASE_NS])
    if needs:
        same = words[begin + 7] == m[SNAPSHOT_INDEX] and words[begin + 9] == m[SNAPSHOT_WORDS]
        _on_need(m, peer, now_ns, echo_ns, words[begin + 6] if same else 0)
    elif words[begin + 8] != m[TENURE] or index > m[NEXT]:
        return
    elif index >= m[LOG_FIRST]:
        if m[peer + P_SYNC] == IN_LOG or echo_ns >= m[peer + P_SYNCED_NS]:
            _on_index(m, peer, now_ns, index, told)
    elif m[peer + P_SYNC] == IN_LOG and m[peer + P_TOLD] < 0:
        # It lags behind what is kept. (From one that has answered before it is an old answer.)
        m[peer + P_SYNC] = WANTED
    update_commit(m)
    forget_acknowledged(m)
    drain_ready(member, process, now_ns)


@compiled
def _on_need(m: Words, peer: int, now_ns: int, echo_ns: int, got: int) -> None:
    """A member cannot go on from the log, and has so many words of the snapshot."""
    if m[peer + P_SYNC] == IN_LOG:
        if echo_ns >= m[peer + P_SYNCED_NS]:
            m[peer + P_SYNC] = WANTED
    elif m[peer + P_SYNC] == UNDER_WAY and got > m[peer + P_CHUNK_ACKED]:
        m[peer + P_CHUNK_ACKED] = got
        m[peer + P_RESENT] = 0
        m[peer + P_RESEND_NS] = now_ns + m[S_RESEND_NS]


@compiled
def _on_index(m: Words, peer: int, now_ns: int, index: int, told: int) -> None:
    """A member has all entries below `index`."""
    if m[peer + P_SYNC] != IN_LOG:
        m[peer + P_SYNC] = IN_LOG
        m[peer + P_SYNCED_NS] = now_ns
        m[peer + P_SENT] = m[peer + P_SENT_EVER] = m[peer + P_ACKED] = index
        m[peer + P_CREDIT] = 2 * m[S_BATCH_PACKETS]
        m[peer + P_RESEND_NS] = NEVER
    m[peer + P_TOLD] = max(m[peer + P_TOLD], min(told, m[COMMITTED]))
    # Also without progress: what was asked is answered, and nothing is under way any more.
    if index > m[peer + P_ACKED] or m[peer + P_SENT_EVER] <= index:
        m[peer + P_ACKED] = max(m[peer + P_ACKED], index)
        m[peer + P_SENT] = max(m[peer + P_SENT], m[peer + P_ACKED])
        m[peer + P_SENT_EVER] = max(m[peer + P_SENT_EVER], m[peer + P_ACKED])
        m[peer + P_RESENT] = 0
        behind = m[peer + P_ACKED] < m[peer + P_SENT_EVER]
        m[peer + P_RESEND_NS] = now_ns + m[S_RESEND_NS] if behind else NEVER
        if m[peer + P_CREDIT] != NO_LIMIT:
            m[peer + P_CREDIT] = 2 * m[S_BATCH_PACKETS]
    elif m[peer + P_RESENT]:
        # It answers, so the way to it is not what is slow: leases must not wait for long.
        m[peer + P_RESENT] = 0
        m[peer + P_RESEND_NS] = min(m[peer + P_RESEND_NS], now_ns + m[S_RESEND_NS])
    # It is waited for from the moment on at which it is near, and may be admitted when it has all
    # that is committed.
    if m[peer + P_STATE] == LEARNING:
        near = m[COMMITTED] - m[S_BOUND] // NEAR_SHARE
        if m[peer + P_ACKED] >= near:
            m[peer + P_STATE] = REQUIRED
            m[peer + P_WAITED] = 1
    if m[peer + P_WAITED] and m[peer + P_ACKED] >= m[COMMITTED]:
        m[peer + P_WAITED] = 0
        m[peer + P_CAUGHT_UP] = 1
    update_commit(m)
    if m[S_DEFT] and _is_untold(m, peer):
        m[peer + P_ASK] = 1


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
    return (m[S_DEFT] != 0 and _is_untold(m, peer)) or m[peer + P_LEASE_NS] <= now_ns


@compiled
def _is_untold(m: Words, peer: int) -> bool:
    """Whether a member does not know yet of a commit of entries that it has."""
    return m[peer + P_TOLD] < min(m[COMMITTED], m[peer + P_ACKED])


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


@compiled
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
