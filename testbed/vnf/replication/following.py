"""A follower: what it takes from its primary, and what it promises with its answers."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.replication.early import (
    early_at,
    forget_early,
    had_its_turn,
    has_early,
    keep_early,
)
from testbed.vnf.replication.flow_table import find_logged
from testbed.vnf.replication.flows import discard_handled
from testbed.vnf.replication.log import (
    carry_out,
    expect_entry,
    forget_log,
    is_granted,
    sound_entry,
    take_entry,
    words_of,
)
from testbed.vnf.replication.member import (
    AT_SNAPSHOT,
    CALLED_BY,
    CALLED_EPOCH,
    COMMITTED,
    FOLLOWER,
    GROUP_EPOCH,
    LEADER,
    NEEDS_SNAPSHOT,
    NEXT,
    NO_ECHO,
    PROMISE_NS,
    RELEASED,
    ROLE,
    S_LEASE_NS,
    SEEN_EPOCH,
    SNAPSHOT_EPOCH,
    SNAPSHOT_GOT,
    SNAPSHOT_INDEX,
    SNAPSHOT_PARTS,
    SNAPSHOT_ROOM,
    SNAPSHOT_WORDS,
    TENURE,
    Member,
)
from testbed.vnf.replication.messages import HEAD_WORDS, ask_again, owe_ack, owe_nothing
from testbed.vnf.replication.snapshot import install_snapshot
from testbed.vnf.state.arrays import Words

PARTS_AHEAD = 62
"""Parts of a snapshot that may have come before the next one: bits of a word."""


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
    # One who is out heeds the FDU alone: a process that began anew knows no epoch, and its answer
    # would renew the lease of a primary that has been replaced.
    if m[ROLE] == FOLLOWER and epoch > m[GROUP_EPOCH]:
        m[GROUP_EPOCH] = epoch
        owe_nothing(m)
        m[SEEN_EPOCH] = max(m[SEEN_EPOCH], epoch)
    if epoch > m[GROUP_EPOCH]:
        m[SEEN_EPOCH] = max(m[SEEN_EPOCH], epoch)
        if epoch > m[CALLED_EPOCH]:
            m[CALLED_EPOCH] = epoch
            m[CALLED_BY] = sender
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
def answer_call(m: Words) -> None:
    """The FDU's word on an epoch came: ask for what that epoch's primary had sent before."""
    if m[CALLED_EPOCH] == m[GROUP_EPOCH]:
        ask_again(m, m[CALLED_BY])
        m[CALLED_EPOCH] = 0


@compiled
def on_log(member: Member, now_ns: int, sender: int, words: Words, begin: int, end: int) -> bool:
    """Entries of the log, or none, are in `words[begin:end]`; False: not sound."""
    m = member.words
    epoch, first = words[begin + 1], words[begin + 3]
    count, committed, released = words[begin + 4], words[begin + 5], words[begin + 6]
    if not _follows(m, now_ns, sender, epoch, words[begin + 7]):
        return True
    _compare_logs(m, words[begin + 8], words[begin + 9], words[begin + 2])
    if m[NEEDS_SNAPSHOT]:
        return True
    at = begin + HEAD_WORDS
    # What is known to be released gives way to what comes.
    _note_progress(m, committed, released)
    if first > m[NEXT]:
        return keep_early(member, words, first, count, at, end)
    for index in range(first, first + count):
        size = sound_entry(member, words, at, end)
        if size == 0:
            return False
        expect_entry(member, words, at + size, end)
        if index == m[NEXT] and not _take(member, words, at, size):
            break
        at += size
    if has_early(m):
        _take_early(member)
    _note_progress(m, committed, released)
    return True


@compiled
def _note_progress(m: Words, committed: int, released: int) -> None:
    """The primary says how far it is; of entries that are not here that says nothing yet."""
    known = m[NEXT]
    m[COMMITTED] = max(m[COMMITTED], min(committed, known))
    m[RELEASED] = max(m[RELEASED], min(released, known))
    forget_log(m, m[RELEASED])


@compiled
def _compare_logs(m: Words, tenure: int, former: int, base: int) -> None:
    """Is the own log a beginning of that of the primary of `tenure`? Else a snapshot is due.

    It is a part of the log of the tenure before, up to where the new one began, or there is nothing
    in it. (A longer one has entries that the new primary never had.)
    """
    if m[TENURE] == tenure:
        return
    forget_early(m)
    if m[NEXT] == 0 or (m[TENURE] == former and m[NEXT] <= base):
        m[TENURE] = tenure
    else:
        m[NEEDS_SNAPSHOT] = 1


@compiled
def _take(member: Member, words: Words, at: int, size: int) -> bool:
    """Apply an entry: state, mark and the output that is kept change in one step."""
    m = member.words
    if is_granted(words[at]):
        if not take_entry(m, words, at, size):
            return False
        carry_out(member, -1, words, at)
        return True
    flow_at = find_logged(m, words[at + 1] & 0xFFFFFF, words[at + 2])
    if flow_at < 0 or not take_entry(m, words, at, size):
        return False
    carry_out(member, flow_at, words, at)
    discard_handled(m, flow_at)
    return True


@compiled
def _take_early(member: Member) -> None:
    """Apply what waited for the entries that have just come."""
    m = member.words
    at = early_at(m)
    while at:
        size = words_of(m[at])
        if not _take(member, m, at, size):
            return
        had_its_turn(m, size)
        at = early_at(m)


@compiled
def on_chunk(member: Member, now_ns: int, sender: int, words: Words, begin: int, end: int) -> bool:
    """A part of a snapshot, in any order; those of a newer snapshot take the place of an older's.

    All parts but the last are of one size.
    """
    m = member.words
    if not _follows(m, now_ns, sender, words[begin + 1], words[begin + 7]):
        return True
    taken, index, total = words[begin + 2], words[begin + 3], words[begin + 4]
    first, count = words[begin + 5], words[begin + 6]
    tenure, part_words = words[begin + 8], words[begin + 9]
    if m[NEEDS_SNAPSHOT] == 0:
        if m[TENURE] == tenure and index <= m[NEXT]:
            return True
        # The primary does not keep what comes next in the own log.
        m[NEEDS_SNAPSHOT] = 1
        forget_early(m)
    if not 1 <= count <= part_words or begin + HEAD_WORDS + count > end:
        return False
    if total > m[SNAPSHOT_ROOM] or first < 0 or first + count > total or first % part_words:
        return False
    if count < part_words and first + count < total:
        return False
    if taken < m[SNAPSHOT_EPOCH] or (taken == m[SNAPSHOT_EPOCH] and index < m[SNAPSHOT_INDEX]):
        return True  # late, of one that was given up
    known = m[SNAPSHOT_EPOCH] == taken and m[SNAPSHOT_INDEX] == index
    # One that was taken again has fewer outputs to hold, and so fewer words.
    if not known or m[SNAPSHOT_WORDS] != total:
        m[SNAPSHOT_EPOCH] = taken
        m[SNAPSHOT_INDEX] = index
        m[SNAPSHOT_WORDS] = total
        m[SNAPSHOT_GOT] = m[SNAPSHOT_PARTS] = 0
    ahead = first - m[SNAPSHOT_GOT]
    if ahead < 0 or ahead >= PARTS_AHEAD * part_words:
        return True
    for word in range(count):
        m[m[AT_SNAPSHOT] + first + word] = words[begin + HEAD_WORDS + word]
    m[SNAPSHOT_PARTS] |= 1 << ahead // part_words
    while m[SNAPSHOT_PARTS] & 1:
        m[SNAPSHOT_PARTS] >>= 1
        m[SNAPSHOT_GOT] = min(m[SNAPSHOT_GOT] + part_words, total)
    if m[SNAPSHOT_GOT] == m[SNAPSHOT_WORDS]:
        if not install_snapshot(member):
            return False
        m[TENURE] = tenure
    return True
