"""What an instance notes of the packets that pass, if its scenario asks for a trace; compiled.

The rows, and the memory that they go to, are those of `testbed.records.traces`. Without a trace
each of these functions is one comparison.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.records.traces import (
    EMITTED,
    HEAD_WORDS,
    LOGGED,
    MISSED,
    NOTE,
    ROOM,
    ROW_WORDS,
    ROWS,
)
from testbed.vnf.dataplane.frames import Head
from testbed.vnf.dataplane.system import now_ns
from testbed.vnf.replication.log import OUTPUT_BIT, entry_at, is_granted
from testbed.vnf.replication.member import LOG_FIRST, NEXT, PRIMARY, ROLE
from testbed.vnf.state.arrays import Words

SEEN = 4
"""Place in the header of a trace: entries of the log below are noted, or were somebody else's."""


@compiled
def note_frame(trace: Words, kind: int, t_ns: int, head: Head, note: int) -> None:
    """Note a sight of a packet by its stamp; `t_ns` is now if it is 0."""
    if trace[ROOM] > 0:
        if t_ns == 0:
            t_ns = now_ns()
        _note(trace, kind, t_ns, head.path, head.flow, head.epoch, head.seq, note, 0, 0)


@compiled
def note_logged(m: Words, trace: Words) -> None:
    """Note the entries that a primary has logged since this was called last."""
    if trace[ROOM] == 0 or trace[SEEN] == m[NEXT]:
        return
    first, end = max(trace[SEEN], m[LOG_FIRST]), m[NEXT]
    trace[SEEN] = end
    if m[ROLE] != PRIMARY:
        return
    t_ns = now_ns()
    for index in range(first, end):
        at = entry_at(m, index)
        if is_granted(m[at]):
            continue
        output = m[at + 4] if m[at] & OUTPUT_BIT else -1
        reason, code = (m[at] >> 32) & 0xFF, (m[at] >> 41) & 0xFFFF
        where = m[at + 1]
        path, epoch = where & 0xFFFFFF, (where >> 40) & 0xFFFF
        _note(trace, LOGGED, t_ns, path, m[at + 2], epoch, m[at + 3], output, reason, code)


@compiled
def note_emitted(m: Words, trace: Words, at: int) -> None:
    """Note that the output of the entry at `at` is in the ring."""
    if trace[ROOM] > 0:
        where = m[at + 1]
        path, epoch = where & 0xFFFFFF, (where >> 40) & 0xFFFF
        _note(trace, EMITTED, now_ns(), path, m[at + 2], epoch, m[at + 3], m[at + 4], 0, 0)


@compiled
def _note(
    trace: Words,
    kind: int,
    t_ns: int,
    path: int,
    flow: int,
    epoch: int,
    seq: int,
    note: int,
    reason: int,
    code: int,
) -> None:
    count = trace[ROWS]
    if count >= trace[ROOM]:
        trace[MISSED] += 1
        return
    at = HEAD_WORDS + count * ROW_WORDS
    trace[at] = t_ns
    trace[at + 1] = kind
    trace[at + 2] = path
    trace[at + 3] = flow
    trace[at + 4] = epoch
    trace[at + 5] = seq
    trace[at + NOTE] = note
    trace[at + NOTE + 1] = reason
    trace[at + NOTE + 2] = code
    trace[ROWS] = count + 1
