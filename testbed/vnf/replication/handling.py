"""The primary: runs the function on inputs in their turn, commits, and says what may go out."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.arrays import Bytes, Words
from testbed.vnf.functions.effect import FORWARD, LENGTH, OVERFLOW, REASON, clear
from testbed.vnf.functions.function import Process
from testbed.vnf.replication.copying import copy_from_words
from testbed.vnf.replication.flows import (
    close_gap,
    discard_handled,
    find_flow,
    free,
    head_is_next,
    is_next,
    missing,
    put,
    refusal,
    take_head,
    watch_gap,
)
from testbed.vnf.replication.log import append, forget_log, has_room
from testbed.vnf.replication.member import (
    AT_FLOWS,
    CLOSED,
    COMMITTED,
    DRAINING,
    F_BUCKET,
    F_GAP_NS,
    F_HEAD,
    F_KEY,
    F_LOST_EPOCH,
    F_PATH,
    F_READY,
    F_READY_NEXT,
    FLOW_WORDS,
    FLOWS,
    FLOWS_FULL,
    GAP,
    GAP_FIRST,
    GROUP_EPOCH,
    I_EPOCH,
    I_LENGTH,
    I_PATH,
    I_REASON,
    I_SEQ,
    IN_LOG,
    INPUT_WORDS,
    MAX_MEMBERS,
    MAX_PACKET_BYTES,
    NEVER,
    NEXT,
    NO_PEER,
    NOT_LOST,
    NOT_MEMBER,
    OPENED_NS,
    OUT,
    P_ACKED,
    P_LEASE_NS,
    P_SENT,
    P_STATE,
    P_SYNC,
    P_TOLD,
    PACKET_ROOM,
    PRIMARY,
    PROCESSED,
    READY_FIRST,
    READY_LAST,
    RELEASED,
    REQUIRED,
    ROLE,
    S_ALONE,
    S_BATCH_NS,
    S_BATCH_PACKETS,
    S_DEFT,
    S_PROTECTED,
    SEEN_EPOCH,
    SNAPSHOT_INDEX,
    TAKEN,
    TOO_LARGE,
    UNDER_WAY,
    WAIT_NS,
    WANTED,
    Member,
    peer_at,
)

FEW_ENTRIES = 8
"""So few entries on their way make no batch wait: there is little to save."""


@compiled
def on_packet(
    member: Member,
    process: Process,
    now_ns: int,
    path: int,
    flow: int,
    bucket: int,
    epoch: int,
    seq: int,
    packet: Bytes,
    begin: int,
    length: int,
    reason: int,
) -> int:
    """A copy of an input arrived, at a primary or at a follower; what became of it, as a code.

    It is in `packet[begin : begin + length]`. A `reason` other than NOT_LOST says that this copy is
    lost here, for lack of CPU for one: nothing is waited for.
    """
    m = member.words
    if m[ROLE] == OUT:
        return NOT_MEMBER
    flow_at = find_flow(m, path, flow, True)
    if flow_at < 0:
        return FLOWS_FULL
    fate = refusal(m, flow_at, epoch, seq)
    if fate != TAKEN:
        return fate
    m[flow_at + F_PATH] = path
    if length > m[PACKET_ROOM]:
        reason = TOO_LARGE
    if can_handle(m) and is_next(m, flow_at, epoch, seq):
        if reason == NOT_LOST:
            for i in range(length):
                member.packet[i] = packet[begin + i]
        _handle(member, process, now_ns, flow_at, path, flow, bucket, epoch, seq, length, reason)
    else:
        m[flow_at + F_BUCKET] = bucket
        fate = put(m, flow_at, path, epoch, seq, packet, begin, length, reason)
    if m[ROLE] == PRIMARY and (m[flow_at + F_HEAD] >= 0 or m[flow_at + F_LOST_EPOCH] >= 0):
        _advance(member, process, now_ns, flow_at)
    return fate


@compiled
def active(m: Words) -> bool:
    """Whether the member is the primary, as far as it can know."""
    return m[ROLE] == PRIMARY and m[SEEN_EPOCH] <= m[GROUP_EPOCH]


@compiled
def can_handle(m: Words) -> bool:
    """Whether an input in its turn can be handled now."""
    return active(m) and m[DRAINING] == 0 and has_room(m)


@compiled
def _handle(
    member: Member,
    process: Process,
    now_ns: int,
    flow_at: int,
    path: int,
    flow: int,
    bucket: int,
    epoch: int,
    seq: int,
    length: int,
    reason: int,
) -> None:
    """Process an input in its turn; it is in `member.packet`, unless it is lost."""
    m, effect = member.words, member.effect
    clear(effect)
    code = 0
    output = -1
    if reason == NOT_LOST:
        # An odd path is a chain's way back.
        verdict = process(
            member.packet, length, path & 1, now_ns, member.records, effect, member.config
        )
        m[PROCESSED] += 1
        if effect[OVERFLOW] or effect[LENGTH] > min(MAX_PACKET_BYTES, m[PACKET_ROOM]):
            clear(effect)
            reason = TOO_LARGE
        elif verdict == FORWARD:
            output = effect[LENGTH]
        else:
            code = effect[REASON]
    if m[NEXT] == m[CLOSED]:
        m[OPENED_NS] = now_ns
    append(member, flow_at, path, flow, bucket, epoch, seq, reason, code, output)
    if m[S_PROTECTED] == 0:
        m[COMMITTED] = m[CLOSED] = m[NEXT]


@compiled
def _advance(member: Member, process: Process, now_ns: int, flow_at: int) -> None:
    """Handle what waits in a flow as far as it is in order and there is room."""
    m = member.words
    discard_handled(m, flow_at)
    while head_is_next(m, flow_at):
        if not can_handle(m):
            _push_ready(m, flow_at)
            break
        slot = take_head(m, flow_at)
        length, reason = m[slot + I_LENGTH], m[slot + I_REASON]
        path, epoch, seq = m[slot + I_PATH], m[slot + I_EPOCH], m[slot + I_SEQ]
        if reason == NOT_LOST:
            copy_from_words(m, slot + INPUT_WORDS, member.packet, 0, length)
        free(m, slot)
        flow, bucket = m[flow_at + F_KEY] & 0xFFFFFFFF, m[flow_at + F_BUCKET]
        _handle(member, process, now_ns, flow_at, path, flow, bucket, epoch, seq, length, reason)
    watch_gap(m, flow_at, now_ns)


@compiled
def _push_ready(m: Words, flow_at: int) -> None:
    if m[flow_at + F_READY]:
        return
    m[flow_at + F_READY] = 1
    m[flow_at + F_READY_NEXT] = -1
    last = m[READY_LAST]
    if last >= 0:
        m[last + F_READY_NEXT] = flow_at
    else:
        m[READY_FIRST] = flow_at
    m[READY_LAST] = flow_at


@compiled
def drain_ready(member: Member, process: Process, now_ns: int) -> None:
    """Go on with the flows that waited for room; one that must wait again goes to the end."""
    m = member.words
    while m[READY_FIRST] >= 0 and can_handle(m):
        flow_at = m[READY_FIRST]
        m[READY_FIRST] = m[flow_at + F_READY_NEXT]
        if m[flow_at + F_READY_NEXT] < 0:
            m[READY_LAST] = -1
        m[flow_at + F_READY] = 0
        _advance(member, process, now_ns, flow_at)


@compiled
def resume(member: Member, process: Process, now_ns: int) -> None:
    """Handle the copies that a follower has buffered, once it is the primary."""
    m = member.words
    for number in range(m[FLOWS]):
        flow_at = m[AT_FLOWS] + number * FLOW_WORDS
        if m[flow_at + F_HEAD] >= 0 or m[flow_at + F_LOST_EPOCH] >= 0:
            _advance(member, process, now_ns, flow_at)


@compiled
def declare_gaps(member: Member, process: Process, now_ns: int) -> None:
    """Declare lost what was missed for too long, as far as the log has room for it."""
    m = member.words
    while next_gap_ns(m) <= now_ns:
        flow_at = m[GAP_FIRST]
        epoch, first, end = missing(m, flow_at)
        flow = m[flow_at + F_KEY] & 0xFFFFFFFF
        for seq in range(first, end):
            if not can_handle(m):
                return
            path, bucket = m[flow_at + F_PATH], m[flow_at + F_BUCKET]
            _handle(member, process, now_ns, flow_at, path, flow, bucket, epoch, seq, 0, GAP)
        close_gap(m, flow_at)
        _advance(member, process, now_ns, flow_at)


@compiled
def next_gap_ns(m: Words) -> int:
    """When the first gap is declared; NEVER too while the log has no room for that."""
    flow_at = m[GAP_FIRST]
    if flow_at < 0 or not can_handle(m):
        return NEVER
    return m[flow_at + F_GAP_NS]


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
def forget_acknowledged(m: Words) -> None:
    """Forget the entries that are released and that no member needs any more."""
    low = m[RELEASED]
    for number in range(MAX_MEMBERS):
        peer = peer_at(number)
        if m[peer + P_STATE] == NO_PEER or m[peer + P_SYNC] == WANTED:
            continue
        kept = m[SNAPSHOT_INDEX] if m[peer + P_SYNC] == UNDER_WAY else m[peer + P_ACKED]
        low = min(low, kept)
    forget_log(m, low)


@compiled
def release_bound(m: Words, now_ns: int) -> int:
    """The outputs of all entries below may go out now.

    They are committed, and every member that could take over has promised not to do so yet. In mode
    "deft" each of them knows, too, that they are committed: the second phase.
    """
    released = m[RELEASED]
    if m[COMMITTED] <= released or not active(m) or now_ns < m[WAIT_NS]:
        return released
    bound = m[COMMITTED]
    if m[S_PROTECTED] == 0:
        return bound
    for number in range(MAX_MEMBERS):
        peer = peer_at(number)
        if m[peer + P_STATE] != REQUIRED:
            continue
        if m[peer + P_LEASE_NS] <= now_ns:
            bound = released
        if m[S_DEFT]:
            bound = min(bound, m[peer + P_TOLD])
    return max(bound, released)


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
    """Whether a batch of few entries waits for an answer that is on its way (as in RFC 896).

    A message costs as much as ten packets, so under load they had better share one. Enough entries
    are as many as are on their way, or a quarter of the most.
    """
    if 4 * opened >= m[S_BATCH_PACKETS]:
        return False
    enough = max(opened, FEW_ENTRIES)
    for number in range(MAX_MEMBERS):
        peer = peer_at(number)
        waits = m[peer + P_STATE] == REQUIRED and m[peer + P_SYNC] == IN_LOG
        if waits and m[peer + P_SENT] - m[peer + P_ACKED] > enough:
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
