"""Order within a flow: what was handled, what is next, and what waits for its turn.

A flow is named by its base path and its number. Its packets are handled in the order of (stamper's
epoch, sequence number); a newer epoch has its turn when nothing of an older one waits.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.replication.copying import copy_to_words
from testbed.vnf.replication.member import (
    BEYOND_WINDOW,
    BUFFER_FULL,
    COPY_BUFFER_FULL,
    DUPLICATE,
    F_BUCKET,
    F_EPOCH,
    F_EXPECTED,
    F_GAP_EPOCH,
    F_GAP_NEXT,
    F_GAP_NS,
    F_GAP_PREVIOUS,
    F_GAP_SEQ,
    F_HEAD,
    F_LOST_EPOCH,
    F_LOST_SEQ,
    F_OUT,
    F_TAIL,
    FREE_INPUT,
    FREE_NOTE,
    GAP_FIRST,
    GAP_LAST,
    I_EPOCH,
    I_LENGTH,
    I_NEXT,
    I_PATH,
    I_REASON,
    I_SEQ,
    INPUT_STRIDE,
    INPUT_WORDS,
    INPUTS,
    INPUTS_END,
    NEVER,
    NOT_LOST,
    NOTES,
    OLD_EPOCH,
    S_BOUND,
    S_GAP_NS,
    TAKEN,
    UNUSED_INPUT,
    UNUSED_NOTE,
)
from testbed.vnf.state.arrays import Bytes, Words

MAX_GAP = 1 << 16
"""A packet that is further than this ahead of its turn is refused: its stamp cannot be right."""


@compiled
def mark(m: Words, flow_at: int, epoch: int, seq: int, emitted: bool, bucket: int) -> None:
    """The input (epoch, seq) is handled; an epoch's first starts the output numbers anew."""
    if epoch != m[flow_at + F_EPOCH]:
        m[flow_at + F_EPOCH] = epoch
        m[flow_at + F_OUT] = 0
    m[flow_at + F_EXPECTED] = seq + 1
    m[flow_at + F_BUCKET] = bucket
    if emitted:
        m[flow_at + F_OUT] += 1


@compiled
def is_next(m: Words, flow_at: int, epoch: int, seq: int) -> bool:
    """Whether an input that just came has its turn now."""
    if epoch == m[flow_at + F_EPOCH]:
        return seq == m[flow_at + F_EXPECTED]
    if epoch < m[flow_at + F_EPOCH] or seq != 0:
        return False
    head = m[flow_at + F_HEAD]
    if head >= 0 and m[head + I_EPOCH] < epoch:
        return False
    return not (m[flow_at + F_LOST_EPOCH] < epoch and _is_lost_ahead(m, flow_at))


@compiled
def _is_lost_ahead(m: Words, flow_at: int) -> bool:
    """Whether an input that was lost without a note has not had its turn yet."""
    epoch = m[flow_at + F_LOST_EPOCH]
    if epoch < 0:
        return False
    return epoch > m[flow_at + F_EPOCH] or (
        epoch == m[flow_at + F_EPOCH] and m[flow_at + F_LOST_SEQ] >= m[flow_at + F_EXPECTED]
    )


@compiled
def refusal(m: Words, flow_at: int, epoch: int, seq: int) -> int:
    """Why a copy is not wanted, or TAKEN if it is. What waits already is seen by `put`."""
    ahead = seq
    if epoch == m[flow_at + F_EPOCH]:
        ahead = seq - m[flow_at + F_EXPECTED]
        if ahead < 0:
            return DUPLICATE
    elif epoch < m[flow_at + F_EPOCH]:
        return OLD_EPOCH
    return BEYOND_WINDOW if ahead > MAX_GAP else TAKEN


@compiled
def put(
    m: Words,
    flow_at: int,
    path: int,
    epoch: int,
    seq: int,
    packet: Bytes,
    begin: int,
    length: int,
    reason: int,
) -> int:
    """Keep an input that `refusal` took until its turn; TAKEN, DUPLICATE or COPY_BUFFER_FULL.

    `reason` is NOT_LOST for a packet. A packet without room is kept as the note that it is lost;
    without room for that either (COPY_BUFFER_FULL) only the last of them is known.
    """
    before = _place(m, flow_at, epoch, seq)
    if before == -2:
        return DUPLICATE
    slot = -1
    if reason == NOT_LOST:
        slot = _take_slot(m, FREE_INPUT, UNUSED_INPUT, m[INPUT_STRIDE], m[INPUTS_END])
        if slot >= 0:
            m[INPUTS] += 1
            copy_to_words(packet, begin, m, slot + INPUT_WORDS, length)
        else:
            reason = BUFFER_FULL
    if slot < 0:
        end = m[INPUTS_END] + m[S_BOUND] * INPUT_WORDS
        slot = _take_slot(m, FREE_NOTE, UNUSED_NOTE, INPUT_WORDS, end)
        if slot < 0:
            forget(m, flow_at, epoch, seq)
            return COPY_BUFFER_FULL
        m[NOTES] += 1
    m[slot + I_EPOCH] = epoch
    m[slot + I_SEQ] = seq
    m[slot + I_LENGTH] = length
    m[slot + I_REASON] = reason
    m[slot + I_PATH] = path
    if before < 0:
        m[slot + I_NEXT] = m[flow_at + F_HEAD]
        m[flow_at + F_HEAD] = slot
    else:
        m[slot + I_NEXT] = m[before + I_NEXT]
        m[before + I_NEXT] = slot
    if m[slot + I_NEXT] < 0:
        m[flow_at + F_TAIL] = slot
    return TAKEN


@compiled
def _take_slot(m: Words, given_back: int, unused: int, size: int, end: int) -> int:
    """A slot that was given back, or else one that was never used; -1: there is none."""
    slot = m[given_back]
    if slot >= 0:
        m[given_back] = m[slot + I_NEXT]
        return slot
    slot = m[unused]
    if slot >= end:
        return -1
    m[unused] = slot + size
    return slot


@compiled
def _place(m: Words, flow_at: int, epoch: int, seq: int) -> int:
    """The slot after which (epoch, seq) belongs; -1: at the front, -2: it waits already."""
    tail = m[flow_at + F_TAIL]
    if tail < 0:
        return -1
    # Nearly always it is the newest so far.
    if m[tail + I_EPOCH] < epoch or (m[tail + I_EPOCH] == epoch and m[tail + I_SEQ] < seq):
        return tail
    before = -1
    at = m[flow_at + F_HEAD]
    while at >= 0:
        if m[at + I_EPOCH] == epoch and m[at + I_SEQ] == seq:
            return -2
        if m[at + I_EPOCH] > epoch or (m[at + I_EPOCH] == epoch and m[at + I_SEQ] > seq):
            break
        before = at
        at = m[at + I_NEXT]
    return before


@compiled
def forget(m: Words, flow_at: int, epoch: int, seq: int) -> None:
    """Note that an input came and is lost; its gap is declared in its turn.

    Of two epochs the newer is remembered: after it nothing may come that shows the gap.
    """
    if epoch > m[flow_at + F_LOST_EPOCH] or (
        epoch == m[flow_at + F_LOST_EPOCH] and seq > m[flow_at + F_LOST_SEQ]
    ):
        m[flow_at + F_LOST_EPOCH] = epoch
        m[flow_at + F_LOST_SEQ] = seq


@compiled
def take_head(m: Words, flow_at: int) -> int:
    """Remove the first input that waits from its flow and return its slot, for `free`."""
    slot = m[flow_at + F_HEAD]
    m[flow_at + F_HEAD] = m[slot + I_NEXT]
    if m[flow_at + F_HEAD] < 0:
        m[flow_at + F_TAIL] = -1
    return slot


@compiled
def free(m: Words, slot: int) -> None:
    """Give the slot back."""
    if slot < m[INPUTS_END]:
        m[slot + I_NEXT] = m[FREE_INPUT]
        m[FREE_INPUT] = slot
        m[INPUTS] -= 1
    else:
        m[slot + I_NEXT] = m[FREE_NOTE]
        m[FREE_NOTE] = slot
        m[NOTES] -= 1


@compiled
def discard_handled(m: Words, flow_at: int) -> None:
    """Forget the inputs that wait although their turn is past."""
    while m[flow_at + F_HEAD] >= 0:
        head = m[flow_at + F_HEAD]
        epoch = m[head + I_EPOCH]
        if epoch > m[flow_at + F_EPOCH] or (
            epoch == m[flow_at + F_EPOCH] and m[head + I_SEQ] >= m[flow_at + F_EXPECTED]
        ):
            return
        free(m, take_head(m, flow_at))


@compiled
def head_is_next(m: Words, flow_at: int) -> bool:
    """Whether the first input that waits has its turn now. (`discard_handled` was called.)"""
    head = m[flow_at + F_HEAD]
    if head < 0:
        return False
    if m[head + I_EPOCH] == m[flow_at + F_EPOCH]:
        return m[head + I_SEQ] == m[flow_at + F_EXPECTED]
    if m[head + I_SEQ] != 0:
        return False
    return not (m[flow_at + F_LOST_EPOCH] < m[head + I_EPOCH] and _is_lost_ahead(m, flow_at))


@compiled
def missing(m: Words, flow_at: int) -> tuple[int, int, int]:
    """(epoch, first, end) of the sequence numbers that are missed; first == end: none.

    They lie before the first input that waits, or up to the last that was lost without a note.
    """
    epoch = -1
    end = 0
    head = m[flow_at + F_HEAD]
    if head >= 0:
        epoch = m[head + I_EPOCH]
        end = m[head + I_SEQ]
    if _is_lost_ahead(m, flow_at) and (head < 0 or m[flow_at + F_LOST_EPOCH] < epoch):
        epoch = m[flow_at + F_LOST_EPOCH]
        end = m[flow_at + F_LOST_SEQ] + 1
    if epoch < 0:
        return -1, 0, 0
    first = m[flow_at + F_EXPECTED] if epoch == m[flow_at + F_EPOCH] else 0
    return epoch, first, end


@compiled
def watch_gap(m: Words, flow_at: int, now_ns: int) -> None:
    """Set, keep or clear the time at which what the flow misses is declared lost."""
    epoch, first, end = missing(m, flow_at)
    if first == end:
        close_gap(m, flow_at)
        return
    if m[flow_at + F_GAP_NS] != NEVER:
        if m[flow_at + F_GAP_EPOCH] == epoch and m[flow_at + F_GAP_SEQ] == first:
            return
        close_gap(m, flow_at)
    m[flow_at + F_GAP_EPOCH] = epoch
    m[flow_at + F_GAP_SEQ] = first
    # All gaps wait equally long, so that the list in order of opening is one by deadline.
    m[flow_at + F_GAP_NS] = now_ns + m[S_GAP_NS]
    last = m[GAP_LAST]
    m[flow_at + F_GAP_PREVIOUS] = last
    m[flow_at + F_GAP_NEXT] = -1
    if last >= 0:
        m[last + F_GAP_NEXT] = flow_at
    else:
        m[GAP_FIRST] = flow_at
    m[GAP_LAST] = flow_at


@compiled
def close_gap(m: Words, flow_at: int) -> None:
    """Nothing is missed any more."""
    if m[flow_at + F_GAP_NS] == NEVER:
        return
    m[flow_at + F_GAP_NS] = NEVER
    before = m[flow_at + F_GAP_PREVIOUS]
    after = m[flow_at + F_GAP_NEXT]
    if before >= 0:
        m[before + F_GAP_NEXT] = after
    else:
        m[GAP_FIRST] = after
    if after >= 0:
        m[after + F_GAP_PREVIOUS] = before
    else:
        m[GAP_LAST] = before
