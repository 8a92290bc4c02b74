"""A snapshot: what a member that joins has to know before it can go on from the log.

Words: release index; how many changes of shared records it contains; number of records, then the
key, the value and the bucket of each; number of flows, then `FLOW_MARKS` words of each (key, epoch,
expected, next output, bucket); number and words of the log entries whose outputs are not released
yet, then these entries: a member that joins may have to emit them again.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.replication.flow_table import find_logged
from testbed.vnf.replication.flows import discard_handled
from testbed.vnf.replication.log import entry_at, sound_entry, take_entry, words_of
from testbed.vnf.replication.member import (
    AT_FLOWS,
    AT_LOG,
    AT_SNAPSHOT,
    COMMITTED,
    F_BUCKET,
    F_EPOCH,
    F_EXPECTED,
    F_KEY,
    F_OUT,
    FLOW_WORDS,
    FLOWS,
    GROUP_EPOCH,
    LOG_FIRST,
    LOG_TAIL,
    MAX_FLOWS,
    NEEDS_SNAPSHOT,
    NEXT,
    RELEASED,
    SHARED_INDEX,
    SNAPSHOT_EPOCH,
    SNAPSHOT_GOT,
    SNAPSHOT_INDEX,
    SNAPSHOT_ROOM,
    SNAPSHOT_WORDS,
    Member,
)
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import COUNT, KEY_WORDS, insert

FLOW_MARKS = 5


@compiled
def take_snapshot(member: Member) -> bool:
    """Write the state of the member as it is now; False if there is no room for it."""
    m, records = member.words, member.records
    row_words = KEY_WORDS + records.values.shape[1] + 1
    held = 0
    for index in range(m[RELEASED], m[NEXT]):
        held += words_of(m[entry_at(m, index)])
    total = 6 + records.head[COUNT] * row_words + m[FLOWS] * FLOW_MARKS + held
    if total > m[SNAPSHOT_ROOM]:
        return False
    at = m[AT_SNAPSHOT]
    m[at] = m[RELEASED]
    m[at + 1] = m[SHARED_INDEX]
    at = _write_flows(m, _write_records(member, at + 2))
    m[at] = m[NEXT] - m[RELEASED]
    m[at + 1] = held
    at += 2
    for index in range(m[RELEASED], m[NEXT]):
        entry = entry_at(m, index)
        size = words_of(m[entry])
        for word in range(size):
            m[at + word] = m[entry + word]
        at += size
    m[SNAPSHOT_INDEX] = m[NEXT]
    m[SNAPSHOT_WORDS] = total
    m[SNAPSHOT_EPOCH] = m[GROUP_EPOCH]
    return True


@compiled
def _write_records(member: Member, at: int) -> int:
    m, records = member.words, member.records
    value_words = records.values.shape[1]
    m[at] = records.head[COUNT]
    at += 1
    for row in range(records.head[COUNT]):
        for word in range(KEY_WORDS):
            m[at + word] = records.keys[row, word]
        at += KEY_WORDS
        for word in range(value_words):
            m[at + word] = records.values[row, word]
        at += value_words
        m[at] = records.buckets[row]
        at += 1
    return at


@compiled
def _write_flows(m: Words, at: int) -> int:
    m[at] = m[FLOWS]
    at += 1
    for number in range(m[FLOWS]):
        flow_at = m[AT_FLOWS] + number * FLOW_WORDS
        m[at] = m[flow_at + F_KEY]
        m[at + 1] = m[flow_at + F_EPOCH]
        m[at + 2] = m[flow_at + F_EXPECTED]
        m[at + 3] = m[flow_at + F_OUT]
        m[at + 4] = m[flow_at + F_BUCKET]
        at += FLOW_MARKS
    return at


@compiled
def install_snapshot(member: Member) -> bool:
    """Become what the snapshot says; copies of inputs that wait for their turn stay.

    False, and nothing has changed: what came is no sound snapshot.
    """
    m = member.words
    sound = _is_sound(member)
    if sound:
        _install_held(m, _install_flows(m, _install_records(member, m[AT_SNAPSHOT] + 2)))
        m[SHARED_INDEX] = m[m[AT_SNAPSHOT] + 1]
        m[NEEDS_SNAPSHOT] = 0
    m[SNAPSHOT_EPOCH] = -1
    m[SNAPSHOT_GOT] = 0
    return sound


@compiled
def _install_records(member: Member, at: int) -> int:
    m, records = member.words, member.records
    value_words = records.values.shape[1]
    records.head[COUNT] = 0
    records.slots[:] = 0
    count = m[at]
    at += 1
    for _ in range(count):
        key = (m[at], m[at + 1], m[at + 2], m[at + 3], m[at + 4])
        at += KEY_WORDS
        row = insert(records, key, m[at + value_words])
        for word in range(value_words):
            records.values[row, word] = m[at + word]
        at += value_words + 1
    return at


@compiled
def _install_flows(m: Words, at: int) -> int:
    """Set the marks of all flows: those that the snapshot does not name were not begun."""
    for number in range(m[FLOWS]):
        flow_at = m[AT_FLOWS] + number * FLOW_WORDS
        m[flow_at + F_EPOCH] = -1
        m[flow_at + F_EXPECTED] = m[flow_at + F_OUT] = 0
    count = m[at]
    at += 1
    for _ in range(count):
        flow_at = find_logged(m, m[at] >> 32, m[at] & 0xFFFFFFFF)
        if flow_at >= 0:
            m[flow_at + F_EPOCH] = m[at + 1]
            m[flow_at + F_EXPECTED] = m[at + 2]
            m[flow_at + F_OUT] = m[at + 3]
            m[flow_at + F_BUCKET] = m[at + 4]
            discard_handled(m, flow_at)
        at += FLOW_MARKS
    return at


@compiled
def _install_held(m: Words, at: int) -> None:
    """Begin the log anew with the entries whose outputs are not released."""
    m[RELEASED] = m[LOG_FIRST] = m[NEXT] = m[COMMITTED] = m[m[AT_SNAPSHOT]]
    m[LOG_TAIL] = m[AT_LOG]
    held = m[at]
    at += 2
    for _ in range(held):
        size = words_of(m[at])
        take_entry(m, m, at, size)
        at += size


@compiled
def _is_sound(member: Member) -> bool:
    """Whether it is what `take_snapshot` writes, of tables like the member's own."""
    m, records = member.words, member.records
    at, total = m[AT_SNAPSHOT], m[SNAPSHOT_WORDS]
    end = at + total
    row_words = KEY_WORDS + records.values.shape[1] + 1
    rows = m[at + 2]
    if total < 6 or m[at] < 0 or m[at + 1] < 0 or not 0 <= rows <= len(records.keys):
        return False
    released = m[at]
    at += 3 + rows * row_words
    if at + 3 > end or not 0 <= m[at] <= m[MAX_FLOWS]:
        return False
    at += 1 + m[at] * FLOW_MARKS
    if at + 2 > end or m[at] < 0 or released + m[at] != m[SNAPSHOT_INDEX]:
        return False
    held = m[at]
    at += 2
    for _ in range(held):
        size = sound_entry(member, m, at, end)
        if size == 0:
            return False
        at += size
    return at == end
