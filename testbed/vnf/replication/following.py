"""A follower: what it takes from its primary, and what it promises with its answers."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.arrays import Words
from testbed.vnf.replication.flow_table import find_logged
from testbed.vnf.replication.flows import discard_handled
from testbed.vnf.replication.log import (
    carry_out,
    expect_entry,
    forget_log,
    is_granted,
    sound_entry,
    take_entry,
)
from testbed.vnf.replication.member import (
    AT_SNAPSHOT,
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
    SNAPSHOT_ROOM,
    SNAPSHOT_WORDS,
    TENURE,
    Member,
)
from testbed.vnf.replication.messages import HEAD_WORDS, owe_ack, owe_nothing
from testbed.vnf.replication.snapshot import install_snapshot


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
def on_chunk(member: Member, now_ns: int, sender: int, words: Words, begin: int, end: int) -> bool:
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
