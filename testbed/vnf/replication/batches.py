"""Batches: which entries of the log leave together, and when."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.replication.member import (
    CLOSED,
    COMMITTED,
    DRAINING,
    IN_LOG,
    MAX_MEMBERS,
    NEVER,
    NEXT,
    OPENED_NS,
    P_ACKED,
    P_SENT,
    P_STATE,
    P_SYNC,
    RELEASED,
    REQUIRED,
    S_ALONE,
    S_BATCH_NS,
    S_BATCH_PACKETS,
    S_DEFT,
    S_PROTECTED,
    peer_at,
)
from testbed.vnf.state.arrays import Words

FEW_ENTRIES = 8
"""So few entries on their way make no batch wait: there is little to save."""


@compiled
def update_commit(m: Words) -> None:
    """Entries are committed when every member that must have them has acknowledged them."""
    low = m[NEXT]
    if m[S_PROTECTED]:
        protected = False
        for number in range(MAX_MEMBERS):
            peer = peer_at(number)
            if m[peer + P_STATE] == REQUIRED:
                protected = True
                acked = m[peer + P_ACKED] if m[peer + P_SYNC] == IN_LOG else 0
                low = min(low, acked)
        if not protected and m[S_ALONE] == 0:
            return
    m[COMMITTED] = max(m[COMMITTED], low)


@compiled
def close_batch(m: Words, now_ns: int, idle: bool) -> None:
    """Close the batch if it is full, old enough, or (with `idle`) if no more input is there."""
    update_commit(m)  # alone, a primary commits as it goes
    opened = m[NEXT] - m[CLOSED]
    if opened == 0:
        return
    if m[S_DEFT] and not _all_released(m):
        return
    batch_ns = m[S_BATCH_NS]
    if batch_ns == 0:
        due = idle and not _awaits_answer(m, opened)
    else:
        due = now_ns >= m[OPENED_NS] + batch_ns
    due = due or m[DRAINING] != 0
    most = m[S_BATCH_PACKETS]
    if m[S_DEFT]:
        if due or opened >= most:
            m[CLOSED] += min(opened, most)
            m[OPENED_NS] = now_ns
    elif due:
        m[CLOSED] = m[NEXT]
    elif opened >= most:
        m[CLOSED] += opened - opened % most
        m[OPENED_NS] = now_ns


@compiled
def _awaits_answer(m: Words, opened: int) -> bool:
    """Whether a batch that is not full waits for an answer that is on its way (as in RFC 896).

    A message and its answer cost as much as ten packets, so under load they had better be few.
    """
    if opened >= m[S_BATCH_PACKETS]:
        return False
    for number in range(MAX_MEMBERS):
        peer = peer_at(number)
        waits = m[peer + P_STATE] == REQUIRED and m[peer + P_SYNC] == IN_LOG
        if waits and m[peer + P_SENT] - m[peer + P_ACKED] > FEW_ENTRIES:
            return True
    return False


@compiled
def _all_released(m: Words) -> bool:
    """Mode "deft" has one batch under way at a time. (A primary alone releases open ones too.)"""
    return m[RELEASED] >= m[CLOSED]


@compiled
def batch_due_ns(m: Words) -> int:
    """When the open batch is closed by its age; NEVER if that is not what it waits for."""
    if m[NEXT] == m[CLOSED] or m[S_BATCH_NS] == 0:
        return NEVER
    if m[S_DEFT] and not _all_released(m):
        return NEVER
    return m[OPENED_NS] + m[S_BATCH_NS]
