"""A primary: what it learns from the answers of the other members."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.function import Process
from testbed.vnf.replication.batches import update_commit
from testbed.vnf.replication.handling import drain_ready, forget_acknowledged
from testbed.vnf.replication.member import (
    COMMITTED,
    GROUP_EPOCH,
    IN_LOG,
    LEARNING,
    LOG_FIRST,
    NEAR_SHARE,
    NEVER,
    NEXT,
    NO_LIMIT,
    NO_PEER,
    P_ACKED,
    P_ASK,
    P_CAUGHT_UP,
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
    REQUIRED,
    ROLE,
    S_BATCH_PACKETS,
    S_BOUND,
    S_DEFT,
    S_LEASE_NS,
    S_RESEND_NS,
    SEEN_EPOCH,
    SNAPSHOT_INDEX,
    SNAPSHOT_WORDS,
    TENURE,
    UNDER_WAY,
    WANTED,
    Member,
    peer_at,
)
from testbed.vnf.replication.messages import AGAIN, NEEDS, send_from_acked
from testbed.vnf.state.arrays import Words


@compiled
def on_ack(
    member: Member, process: Process, now_ns: int, sender: int, words: Words, begin: int
) -> None:
    """An answer of another member is in `words` from `begin` on."""
    m = member.words
    epoch, index, told = words[begin + 1], words[begin + 2], words[begin + 3]
    echo_ns, wants = words[begin + 4], words[begin + 5]
    m[SEEN_EPOCH] = max(m[SEEN_EPOCH], epoch)
    peer = peer_at(sender)
    if m[ROLE] != PRIMARY or epoch != m[GROUP_EPOCH] or m[peer + P_STATE] == NO_PEER:
        return
    if echo_ns > now_ns:
        return
    m[peer + P_LEASE_NS] = max(m[peer + P_LEASE_NS], echo_ns + m[S_LEASE_NS])
    if wants & AGAIN:
        send_from_acked(m, peer)
    if wants & NEEDS:
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
    if m[S_DEFT] and is_untold(m, peer):
        m[peer + P_ASK] = 1


@compiled
def is_untold(m: Words, peer: int) -> bool:
    """Whether a member does not know yet of a commit of entries that it has."""
    return m[peer + P_TOLD] < min(m[COMMITTED], m[peer + P_ACKED])
