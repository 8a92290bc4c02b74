"""The primary: runs the function on inputs in their turn, commits, and says what may go out."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.effect import (
    FORWARD,
    HEADER_WORDS,
    LENGTH,
    OVERFLOW,
    REASON,
    SHARED,
    clear,
)
from testbed.vnf.functions.function import Call, Process
from testbed.vnf.replication.copying import copy_from_words
from testbed.vnf.replication.flow_table import find_flow
from testbed.vnf.replication.flows import (
    close_gap,
    discard_handled,
    free,
    head_is_next,
    is_next,
    missing,
    put,
    refusal,
    take_head,
    watch_gap,
)
from testbed.vnf.replication.log import append, append_granted, forget_log, has_room
from testbed.vnf.replication.member import (
    ASK_ANSWERED,
    ASK_NUMBER,
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
    S_DEFT,
    S_PROTECTED,
    S_SHARED,
    SEEN_EPOCH,
    SHARED_INDEX,
    SNAPSHOT_INDEX,
    TAKEN,
    TOO_LARGE,
    UNDER_WAY,
    WAIT_NS,
    WANTED,
    Member,
    peer_at,
)
from testbed.vnf.replication.shared import ask, next_answered, waits
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.records import sound


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
    handled = False
    if can_handle(m) and is_next(m, flow_at, epoch, seq) and not waits(m, flow_at):
        if reason == NOT_LOST:
            for i in range(length):
                member.packet[i] = packet[begin + i]
        handled = _handle(
            member, process, now_ns, flow_at, path, flow, bucket, epoch, seq, length, reason
        )
    if not handled:
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
) -> bool:
    """Process an input in its turn; it is in `member.packet`, unless it is lost.

    False: it waits for the answer to what it asked for of shared records.
    """
    m, effect = member.words, member.effect
    clear(effect)
    code = 0
    output = -1
    if reason == NOT_LOST:
        # An odd path is a chain's way back.
        verdict = process(
            Call(member.packet, length, path & 1, now_ns, member.records, effect, member.config)
        )
        if effect[OVERFLOW] or effect[LENGTH] > min(MAX_PACKET_BYTES, m[PACKET_ROOM]):
            clear(effect)
            reason = TOO_LARGE
        elif effect[SHARED] and m[S_SHARED]:
            ask(member, flow_at)
            return False
        elif verdict == FORWARD:
            output = effect[LENGTH]
        else:
            code = effect[REASON]
        m[PROCESSED] += 1
    _open_batch(m, now_ns)
    append(member, flow_at, path, flow, bucket, epoch, seq, reason, code, output)
    _close_unprotected(m)
    return True


@compiled
def _open_batch(m: Words, now_ns: int) -> None:
    """An entry is about to be appended."""
    if m[NEXT] == m[CLOSED]:
        m[OPENED_NS] = now_ns


@compiled
def _close_unprotected(m: Words) -> None:
    """An entry was appended."""
    if m[S_PROTECTED] == 0:
        m[COMMITTED] = m[CLOSED] = m[NEXT]


@compiled
def _advance(member: Member, process: Process, now_ns: int, flow_at: int) -> None:
    """Handle what waits in a flow as far as it is in order and there is room."""
    m = member.words
    discard_handled(m, flow_at)
    while head_is_next(m, flow_at) and not waits(m, flow_at):
        if not can_handle(m):
            _push_ready(m, flow_at)
            break
        slot = m[flow_at + F_HEAD]
        length, reason = m[slot + I_LENGTH], m[slot + I_REASON]
        path, epoch, seq = m[slot + I_PATH], m[slot + I_EPOCH], m[slot + I_SEQ]
        if reason == NOT_LOST:
            copy_from_words(m, slot + INPUT_WORDS, member.packet, 0, length)
        flow, bucket = m[flow_at + F_KEY] & 0xFFFFFFFF, m[flow_at + F_BUCKET]
        if _handle(
            member, process, now_ns, flow_at, path, flow, bucket, epoch, seq, length, reason
        ):
            free(m, take_head(m, flow_at))
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
def on_granted(member: Member, now_ns: int, words: Words, begin: int, end: int, index: int) -> bool:
    """Change number `index` of shared records is in `words[begin:end]`; False: not taken now.

    It is wanted if it is the next one, by an active primary that has room for it.
    """
    m = member.words
    if index != m[SHARED_INDEX] + 1 or not can_handle(m):
        return False
    operation_words = len(member.effect) - HEADER_WORDS
    if end - begin > operation_words or not sound(
        words, begin, end, member.records.values.shape[1]
    ):
        return False
    _open_batch(m, now_ns)
    append_granted(member, words, begin, end, index)
    _close_unprotected(m)
    return True


@compiled
def on_answer(member: Member, process: Process, now_ns: int, number: int) -> None:
    """Ask `number` was answered, and what was granted is taken: those that waited go on."""
    m = member.words
    if m[ROLE] != PRIMARY or number >= m[ASK_NUMBER]:
        return
    m[ASK_ANSWERED] = max(m[ASK_ANSWERED], number)
    flow_at = next_answered(m)
    while flow_at >= 0:
        _advance(member, process, now_ns, flow_at)
        flow_at = next_answered(m)


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
