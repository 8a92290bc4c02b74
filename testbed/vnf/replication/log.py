"""The log: a ring of entries in the words in which they travel.

    word      an entry
    0         bits 0-15 bytes of the output, 16-31 words of operations, 32-39 reason of a loss,
              40 there is an output, 41-56 the function's reason of a drop
    1         bits 0-23 path, 24-39 bucket, 40-55 the stamper's epoch
    2, 3, 4   flow, seq, the output's seq
    5-        operations on the state (`testbed.vnf.state.records`), then the output

An entry says what became of one input. One with the reason GRANTED says how shared records change
(see `shared`): its word 2 is how many such changes there were with it. Entries are whole in the
ring: none wraps around its end.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.effect import FILL, HEADER_WORDS
from testbed.vnf.replication.copying import copy_to_words
from testbed.vnf.replication.flows import mark
from testbed.vnf.replication.member import (
    AT_ENTRIES,
    AT_LOG,
    AT_LOSSES,
    ENTRY_HEAD_WORDS,
    ENTRY_PLACES,
    F_EPOCH,
    F_OUT,
    GRANTED,
    LOG_END,
    LOG_FIRST,
    LOG_TAIL,
    LOSS_WORDS,
    LOSSES,
    LOSSES_KEPT,
    MOST_ENTRY_WORDS,
    NEXT,
    NOT_LOST,
    S_BOUND,
    SHARED_INDEX,
    Member,
)
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import KEY_WORDS, apply, expect, sound

OUTPUT_BIT = 1 << 40


@compiled
def length_of(word: int) -> int:
    """Bytes of the output, from the first word of an entry."""
    return word & 0xFFFF


@compiled
def words_of(word: int) -> int:
    """Words of the entry, from its first word."""
    return ENTRY_HEAD_WORDS + ((word >> 16) & 0xFFFF) + (((word & 0xFFFF) + 7) >> 3)


@compiled
def output_at(words: Words, at: int) -> int:
    """Where, in words, the output of the entry at `at` begins."""
    return at + ENTRY_HEAD_WORDS + ((words[at] >> 16) & 0xFFFF)


@compiled
def table_at(m: Words, index: int) -> int:
    """The word that says where the entry with this index begins."""
    return m[AT_ENTRIES] + (index & (m[ENTRY_PLACES] - 1))


@compiled
def entry_at(m: Words, index: int) -> int:
    """The word where the entry with this index begins; it must be kept."""
    return m[table_at(m, index)]


@compiled
def _place(m: Words, words: int) -> int:
    """Where an entry of this size can go, or -1."""
    begin, end = m[AT_LOG], m[LOG_END]
    tail = m[LOG_TAIL]
    first = m[LOG_FIRST]
    kept = m[NEXT] - first
    if kept == 0:
        return begin if words <= end - begin else -1
    if kept >= m[S_BOUND]:
        return -1
    oldest = entry_at(m, first)
    # The tail never reaches the oldest entry from below: equal would mean empty.
    if tail > oldest:
        if end - tail >= words:
            return tail
        return begin if oldest - begin > words else -1
    return tail if oldest - tail > words else -1


@compiled
def has_room(m: Words) -> bool:
    """Whether any entry that can be made finds room."""
    return _place(m, m[MOST_ENTRY_WORDS]) >= 0


@compiled
def forget_log(m: Words, index: int) -> None:
    """Entries below `index` are needed no more."""
    if index > m[LOG_FIRST]:
        m[LOG_FIRST] = min(index, m[NEXT])


@compiled
def _keep(m: Words, at: int, words: int) -> None:
    """The entry with the index NEXT is in the ring."""
    m[table_at(m, m[NEXT])] = at
    m[LOG_TAIL] = at + words
    m[NEXT] += 1


@compiled
def append(
    member: Member,
    flow_at: int,
    path: int,
    flow: int,
    bucket: int,
    epoch: int,
    seq: int,
    reason: int,
    code: int,
    length: int,
) -> None:
    """Log what became of an input, and carry it out: state and marks change in the same step.

    The operations are those of the effect; a `length` of -1 says that there is no output, else it
    is in `member.packet`. The caller has asked `has_room`.
    """
    m, effect = member.words, member.effect
    operations = effect[FILL]
    output = max(length, 0)
    words = ENTRY_HEAD_WORDS + operations + ((output + 7) >> 3)
    at = _place(m, words)
    head = output | operations << 16 | reason << 32 | code << 41
    m[at] = head | OUTPUT_BIT if length >= 0 else head
    m[at + 1] = path | bucket << 24 | epoch << 40
    m[at + 2] = flow
    m[at + 3] = seq
    m[at + 4] = m[flow_at + F_OUT] if epoch == m[flow_at + F_EPOCH] else 0
    for word in range(operations):
        m[at + ENTRY_HEAD_WORDS + word] = effect[HEADER_WORDS + word]
    copy_to_words(member.packet, 0, m, at + ENTRY_HEAD_WORDS + operations, output)
    apply(member.records, effect, HEADER_WORDS, HEADER_WORDS + operations, bucket)
    mark(m, flow_at, epoch, seq, length >= 0, bucket)
    if reason != NOT_LOST:
        note_loss(m, path, flow, epoch, seq, reason)
    _keep(m, at, words)


@compiled
def append_granted(member: Member, words: Words, begin: int, end: int, index: int) -> None:
    """Log change number `index` of shared records, and carry it out.

    It is in `words[begin:end]`. The caller has asked `has_room`.
    """
    m = member.words
    operations = end - begin
    at = _place(m, ENTRY_HEAD_WORDS + operations)
    m[at] = operations << 16 | GRANTED << 32
    m[at + 1] = m[at + 3] = m[at + 4] = 0
    m[at + 2] = index
    for word in range(operations):
        m[at + ENTRY_HEAD_WORDS + word] = words[begin + word]
    apply(member.records, words, begin, end, 0)
    m[SHARED_INDEX] = index
    _keep(m, at, ENTRY_HEAD_WORDS + operations)


@compiled
def is_granted(word: int) -> bool:
    """Whether an entry, by its first word, is of no input but of granted operations."""
    return (word >> 32) & 0xFF == GRANTED


@compiled
def take_entry(m: Words, words: Words, at: int, size: int) -> bool:
    """Keep the entry at `words[at]`, with the index NEXT, not carried out; False: no room."""
    to = _place(m, size)
    if to < 0:
        return False
    for word in range(size):
        m[to + word] = words[at + word]
    _keep(m, to, size)
    return True


@compiled
def carry_out(member: Member, flow_at: int, words: Words, at: int) -> None:
    """Change state and marks as the entry at `words[at]` says."""
    m = member.words
    head = words[at]
    where = words[at + 1]
    begin = at + ENTRY_HEAD_WORDS
    if is_granted(head):
        apply(member.records, words, begin, begin + ((head >> 16) & 0xFFFF), 0)
        m[SHARED_INDEX] = words[at + 2]
        return
    bucket = (where >> 24) & 0xFFFF
    epoch = (where >> 40) & 0xFFFF
    apply(member.records, words, begin, begin + ((head >> 16) & 0xFFFF), bucket)
    mark(m, flow_at, epoch, words[at + 3], head & OUTPUT_BIT != 0, bucket)
    reason = (head >> 32) & 0xFF
    if reason != NOT_LOST:
        note_loss(m, where & 0xFFFFFF, words[at + 2], epoch, words[at + 3], reason)


@compiled
def sound_entry(member: Member, words: Words, at: int, end: int) -> int:
    """The words of the entry at `words[at]`, or 0 if it is not one that fits in before `end`."""
    if at + ENTRY_HEAD_WORDS > end:
        return 0
    size = words_of(words[at])
    if at + size > end or length_of(words[at]) > len(member.packet):
        return 0
    begin = at + ENTRY_HEAD_WORDS
    stop = begin + ((words[at] >> 16) & 0xFFFF)
    if words[at] < 0 or words[at + 1] < 0 or words[at + 3] < 0 or words[at + 4] < 0:
        return 0
    return size if sound(words, begin, stop, member.records.values.shape[1]) else 0


@compiled
def expect_entry(member: Member, words: Words, at: int, end: int) -> None:
    """The entry at `words[at]` will be carried out soon: fetch the state that it changes.

    It has not been looked at yet and may be anything.
    """
    if at + ENTRY_HEAD_WORDS + 1 + KEY_WORDS <= end and (words[at] >> 16) & 0xFFFF:
        expect(member.records, words, at + ENTRY_HEAD_WORDS)


@compiled
def note_loss(m: Words, path: int, flow: int, epoch: int, seq: int, reason: int) -> None:
    """Remember a declared loss."""
    at = m[AT_LOSSES] + m[LOSSES] % LOSSES_KEPT * LOSS_WORDS
    m[at] = path
    m[at + 1] = flow
    m[at + 2] = epoch
    m[at + 3] = seq
    m[at + 4] = reason
    m[LOSSES] += 1
