"""Messages between the members of a group, in words; what is due to be sent follows from cursors.

Every message begins with ten words:

    word  LOG                          ACK                          SNAPSHOT
    0     kind, sender << 8, group << 16 (32 bits that name the group)
    1     group epoch                  group epoch                  group epoch
    2     base: log index at which     the next index that it       epoch in which it was taken
          the tenure began             lacks
    3     index of the first entry     commit index that it knows   index of the log it goes up to
    4     number of entries            sending time that it answers words of the whole
    5     commit index                 NEEDS, AGAIN or both         first word that follows
    6     release index                words of it that have come   number of words
    7     sending time                 its index                    sending time
    8     tenure                       tenure                       tenure
    9     tenure before                words of the snapshot        words of all parts but the last

An ACK with NEEDS asks for a snapshot; one with AGAIN for all that is not acknowledged, since the
first of it came before the member knew of the epoch.

A tenure is the time in which one member is the primary, named by the epoch in which it began; a
log is named by the tenure of the primary whose log it is a beginning of. A new primary's log is
that of the tenure before up to its base. So a member knows whether it can go on from its own log,
and the primary whether an acknowledgement is about its log.

Times are the sender's own clock; only the sender reads them, in the answer. So a lease needs no
common clock, just clocks of the same speed.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.replication.log import entry_at, words_of
from testbed.vnf.replication.member import (
    ASK_AGAIN,
    AT_SNAPSHOT,
    BASE,
    CLOSED,
    COMMITTED,
    FORMER_TENURE,
    GROUP_EPOCH,
    IN_LOG,
    MAX_MEMBERS,
    NEEDS_SNAPSHOT,
    NEVER,
    NEXT,
    NO_ECHO,
    NO_LIMIT,
    NO_PEER,
    P_ACK_DUE,
    P_ACKED,
    P_ASK,
    P_CHUNK,
    P_CHUNK_ACKED,
    P_CREDIT,
    P_ECHO_NS,
    P_RESEND_NS,
    P_RESENT,
    P_SENT,
    P_SENT_EVER,
    P_STATE,
    P_SYNC,
    P_SYNCED_NS,
    PRIMARY,
    RELEASED,
    ROLE,
    S_BATCH_PACKETS,
    S_MESSAGE_WORDS,
    S_RESEND_NS,
    SELF,
    SNAPSHOT_EPOCH,
    SNAPSHOT_GOT,
    SNAPSHOT_INDEX,
    SNAPSHOT_WORDS,
    TENURE,
    UNDER_WAY,
    WANTED,
    Member,
    peer_at,
)
from testbed.vnf.replication.snapshot import take_snapshot
from testbed.vnf.state.arrays import Words

LOG, ACK, SNAPSHOT = 1, 2, 3
NEEDS, AGAIN = 1, 2
HEAD_WORDS = 10

MAX_BACKOFF = 3
"""The time between retransmissions doubles this often at most."""

SNAPSHOT_WINDOW = 32
"""Messages of a snapshot that are under way at most."""


@compiled
def take_message(member: Member, now_ns: int, to: int, group: int, out: Words) -> int:
    """Write the next message that member `to` is due into `out`; its words, 0 if there is none."""
    m = member.words
    peer = peer_at(to)
    if m[peer + P_ACK_DUE]:
        m[peer + P_ACK_DUE] = 0
        return _write_ack(m, to, group, out)
    if m[ROLE] != PRIMARY or m[peer + P_STATE] == NO_PEER:
        return 0
    if m[peer + P_SYNC] == WANTED:
        _begin_snapshot(member, now_ns, to)
    if m[peer + P_SYNC] == UNDER_WAY:
        return _write_chunk(m, peer, now_ns, group, out)
    if m[peer + P_SYNC] != IN_LOG:
        return 0
    limit = m[peer + P_CREDIT]
    if m[peer + P_SENT] < m[CLOSED] and limit != 0:
        return _write_log(m, peer, now_ns, group, out)
    if m[peer + P_ASK]:
        return _write_log(m, peer, now_ns, group, out)
    return 0


@compiled
def _head(m: Words, kind: int, group: int, out: Words) -> None:
    out[0] = kind | m[SELF] << 8 | (group & 0xFFFFFFFF) << 16
    out[1] = m[GROUP_EPOCH]
    out[8] = m[TENURE]
    out[9] = 0


@compiled
def _write_ack(m: Words, to: int, group: int, out: Words) -> int:
    peer = peer_at(to)
    _head(m, ACK, group, out)
    out[2] = m[NEXT]
    out[3] = m[COMMITTED]
    out[4] = m[peer + P_ECHO_NS]
    again = (m[ASK_AGAIN] >> to) & 1
    m[ASK_AGAIN] &= ~(1 << to)
    out[5] = (NEEDS if m[NEEDS_SNAPSHOT] else 0) | (AGAIN if again else 0)
    out[6] = m[SNAPSHOT_GOT]
    out[7] = m[SNAPSHOT_INDEX]
    out[9] = m[SNAPSHOT_WORDS]
    m[peer + P_ECHO_NS] = NO_ECHO
    return HEAD_WORDS


@compiled
def _write_log(m: Words, peer: int, now_ns: int, group: int, out: Words) -> int:
    """The entries from P_SENT on that are closed and fit into one message; perhaps none."""
    first = m[peer + P_SENT]
    end = min(m[CLOSED], first + m[S_BATCH_PACKETS])
    if m[peer + P_CREDIT] != NO_LIMIT:
        end = min(end, first + m[peer + P_CREDIT])
    room = min(m[S_MESSAGE_WORDS], len(out))
    fill = HEAD_WORDS
    index = first
    while index < end:
        at = entry_at(m, index)
        size = words_of(m[at])
        # An entry larger than a message goes alone: the datagram is then as large as it has to be.
        if fill + size > room and (index > first or fill + size > len(out)):
            break
        for word in range(size):
            out[fill + word] = m[at + word]
        fill += size
        index += 1
    _head(m, LOG, group, out)
    out[2] = m[BASE]
    out[3] = first
    out[4] = index - first
    out[5] = m[COMMITTED]
    out[6] = m[RELEASED]
    out[7] = now_ns
    out[9] = m[FORMER_TENURE]
    # Nothing was missing before these entries: a message of before, that they answer, has its time.
    begins = index > first and first == m[peer + P_ACKED] and first == m[peer + P_SENT_EVER]
    m[peer + P_SENT] = index
    m[peer + P_SENT_EVER] = max(m[peer + P_SENT_EVER], index)
    m[peer + P_ASK] = 0
    if m[peer + P_CREDIT] != NO_LIMIT:
        m[peer + P_CREDIT] = (
            NO_LIMIT if index == m[CLOSED] else m[peer + P_CREDIT] - (index - first)
        )
    if begins or m[peer + P_RESEND_NS] == NEVER:
        backoff = min(m[peer + P_RESENT], MAX_BACKOFF)
        m[peer + P_RESEND_NS] = now_ns + (m[S_RESEND_NS] << backoff)
    return fill


@compiled
def _begin_snapshot(member: Member, now_ns: int, to: int) -> None:
    """Take a snapshot for this member, unless one is on its way to another."""
    m = member.words
    for number in range(MAX_MEMBERS):
        if m[peer_at(number) + P_STATE] != NO_PEER and m[peer_at(number) + P_SYNC] == UNDER_WAY:
            return
    if take_snapshot(member):
        peer = peer_at(to)
        m[peer + P_SYNC] = UNDER_WAY
        m[peer + P_SYNCED_NS] = now_ns
        m[peer + P_CHUNK] = m[peer + P_CHUNK_ACKED] = 0
        m[peer + P_RESEND_NS] = NEVER
        m[peer + P_RESENT] = 0


@compiled
def _write_chunk(m: Words, peer: int, now_ns: int, group: int, out: Words) -> int:
    room = min(m[S_MESSAGE_WORDS], len(out)) - HEAD_WORDS
    first = m[peer + P_CHUNK]
    count = min(room, m[SNAPSHOT_WORDS] - first)
    if count <= 0 or first >= m[peer + P_CHUNK_ACKED] + SNAPSHOT_WINDOW * room:
        return 0
    _head(m, SNAPSHOT, group, out)
    out[2] = m[SNAPSHOT_EPOCH]
    out[3] = m[SNAPSHOT_INDEX]
    out[4] = m[SNAPSHOT_WORDS]
    out[5] = first
    out[6] = count
    out[7] = now_ns
    out[9] = room
    for word in range(count):
        out[HEAD_WORDS + word] = m[m[AT_SNAPSHOT] + first + word]
    m[peer + P_CHUNK] = first + count
    if m[peer + P_RESEND_NS] == NEVER:
        m[peer + P_RESEND_NS] = now_ns + m[S_RESEND_NS]
    return HEAD_WORDS + count


@compiled
def owe_ack(m: Words, to: int, echo_ns: int) -> None:
    """An answer to member `to` is due; one answers all of its messages up to now."""
    peer = peer_at(to)
    m[peer + P_ACK_DUE] = 1
    m[peer + P_ECHO_NS] = max(m[peer + P_ECHO_NS], echo_ns)


@compiled
def ask_again(m: Words, to: int) -> None:
    """Member `to` is to send again what it has sent in this epoch; nothing is promised for it."""
    owe_ack(m, to, NO_ECHO)
    m[ASK_AGAIN] |= 1 << to


@compiled
def owe_nothing(m: Words) -> None:
    """A new epoch: what was heard in the former ones says nothing about it."""
    m[ASK_AGAIN] = 0
    for number in range(MAX_MEMBERS):
        m[peer_at(number) + P_ACK_DUE] = 0
        m[peer_at(number) + P_ECHO_NS] = NO_ECHO


@compiled
def send_again(m: Words, now_ns: int) -> None:
    """Go back to what is not acknowledged, where an acknowledgement has stayed away too long.

    The batches after the first follow as acknowledgements come in, two for each, so that a loss
    in a full queue is not answered by filling it at once.
    """
    for number in range(MAX_MEMBERS):
        peer = peer_at(number)
        if m[peer + P_STATE] == NO_PEER or now_ns < m[peer + P_RESEND_NS]:
            continue
        m[peer + P_RESEND_NS] = NEVER
        m[peer + P_RESENT] += 1
        if m[peer + P_SYNC] == UNDER_WAY:
            m[peer + P_CHUNK] = m[peer + P_CHUNK_ACKED]
            if m[peer + P_RESENT] > MAX_BACKOFF:
                m[peer + P_SYNC] = WANTED  # it may have lost what it had: from the beginning
                m[peer + P_RESENT] = 0
            continue
        m[peer + P_SENT] = m[peer + P_ACKED]
        m[peer + P_CREDIT] = m[S_BATCH_PACKETS]
        # Also when all entries are there: the answer to an empty message may be what was lost.
        m[peer + P_ASK] = 1


@compiled
def send_from_acked(m: Words, peer: int) -> None:
    """A member could not take what was sent to it in this epoch so far: all of it is due again."""
    m[peer + P_SENT] = m[peer + P_ACKED]
    m[peer + P_CHUNK] = m[peer + P_CHUNK_ACKED]
    m[peer + P_RESEND_NS] = NEVER
    m[peer + P_ASK] = 1


@compiled
def message_due(m: Words, to: int) -> bool:
    """Whether `take_message` may have something for this member."""
    peer = peer_at(to)
    if m[peer + P_ACK_DUE]:
        return True
    if m[ROLE] != PRIMARY or m[peer + P_STATE] == NO_PEER:
        return False
    return (
        m[peer + P_ASK] != 0
        or m[peer + P_SYNC] != IN_LOG
        or (m[peer + P_SENT] < m[CLOSED] and m[peer + P_CREDIT] != 0)
    )
