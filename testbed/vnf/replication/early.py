"""Log entries that came before their turn: the network may change the order of messages.

A follower keeps them until those before them come, so that nothing is sent again for the sake of
order alone. They lie, each behind its index, in the room for a snapshot, which a follower that goes
on from the log does not need; the log's table says where. Of the indices from NEXT to EARLY_END,
each has the place of its entry there, or 0.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.replication.log import sound_entry, table_at, words_of
from testbed.vnf.replication.member import (
    AT_SNAPSHOT,
    EARLY_END,
    EARLY_FILL,
    EARLY_LIVE,
    ENTRY_PLACES,
    LOG_FIRST,
    NEXT,
    SNAPSHOT_ROOM,
    Member,
)
from testbed.vnf.state.arrays import Words

SLACK_WORDS = 256
"""Words of entries that had their turn lie among those that wait: as many as those, and these."""


@compiled
def forget_early(m: Words) -> None:
    """What came early is of another log, or its room is needed for a snapshot."""
    m[EARLY_END] = 0


@compiled
def has_early(m: Words) -> bool:
    """Whether anything waits for its turn."""
    return m[EARLY_END] > m[NEXT]


@compiled
def early_at(m: Words) -> int:
    """Where the entry with the index NEXT is, if it came early; 0 if it did not."""
    return m[table_at(m, m[NEXT])] if has_early(m) else 0


@compiled
def keep_early(member: Member, words: Words, first: int, count: int, begin: int, end: int) -> bool:
    """Keep the entries from index `first` on, above NEXT, in `words[begin:end]`; False: not sound.

    One without room is as good as lost. There is none only if the room for a snapshot is full, or
    for an index that no primary can have reached: its log has as many places.
    """
    m = member.words
    at = begin
    for index in range(first, first + count):
        size = sound_entry(member, words, at, end)
        if size == 0:
            return False
        if index - m[LOG_FIRST] < m[ENTRY_PLACES]:
            _keep(m, index, words, at, size)
        at += size
    return True


@compiled
def _keep(m: Words, index: int, words: Words, at: int, size: int) -> None:
    if not has_early(m):
        m[EARLY_END] = m[NEXT]
        m[EARLY_FILL] = m[EARLY_LIVE] = 0
    for unknown in range(m[EARLY_END], index + 1):
        m[table_at(m, unknown)] = 0
    m[EARLY_END] = max(m[EARLY_END], index + 1)
    if m[table_at(m, index)] or not _make_room(m, 1 + size):
        return
    to = m[AT_SNAPSHOT] + m[EARLY_FILL]
    m[to] = index
    for word in range(size):
        m[to + 1 + word] = words[at + word]
    m[table_at(m, index)] = to + 1
    m[EARLY_FILL] += 1 + size
    m[EARLY_LIVE] += 1 + size


@compiled
def had_its_turn(m: Words, size: int) -> None:
    """An entry of so many words was taken from here."""
    m[EARLY_LIVE] -= 1 + size


@compiled
def _make_room(m: Words, size: int) -> bool:
    """Whether so many words have room behind those that are used."""
    if m[EARLY_FILL] + size > min(m[SNAPSHOT_ROOM], 2 * m[EARLY_LIVE] + SLACK_WORDS):
        _close_up(m)
    return m[EARLY_FILL] + size <= m[SNAPSHOT_ROOM]


@compiled
def _close_up(m: Words) -> None:
    """Move what still waits to the front."""
    at = to = m[AT_SNAPSHOT]
    end = at + m[EARLY_FILL]
    while at < end:
        index, size = m[at], 1 + words_of(m[at + 1])
        if index >= m[NEXT] and m[table_at(m, index)] == at + 1:
            for word in range(size):
                m[to + word] = m[at + word]
            m[table_at(m, index)] = to + 1
            to += size
        at += size
    m[EARLY_FILL] = m[EARLY_LIVE] = to - m[AT_SNAPSHOT]
