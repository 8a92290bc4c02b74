"""Operations on linearizable records: a primary asks for them, and takes them when all are told.

A packet whose effect has such operations (see `testbed.vnf.functions.sharing`) is not logged. Its
flow waits, and what it asks for goes, with what else is asked for meanwhile, to whoever puts the
operations of all groups in one order: one ask is on its way at a time. What was granted comes back
as the changes that follow `SHARED_INDEX`, other groups' among them; each is an entry of the log
like any other, so backups and heirs know the shared records as the primary does. With the answer
the waiting packets are processed anew, and those that have nothing more to ask for are logged.

Words of an ask, for each packet: how many words follow; then, for each of its operations on a
linearizable record, the operation as in `testbed.vnf.state.records`, and what the record is
expected to be before: 1 and the words of its value, or 0 if it is not there.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.effect import FILL, HEADER_WORDS
from testbed.vnf.functions.sharing import FIRST_LINEARIZABLE, TAG_SHIFT
from testbed.vnf.replication.member import (
    ASK_ANSWERED,
    ASK_FILL,
    ASK_NUMBER,
    ASK_ROOM,
    ASKED_FIRST,
    ASKED_LAST,
    AT_ASK,
    AT_FLOWS,
    F_ASKED,
    F_ASKED_NEXT,
    FLOW_WORDS,
    FLOWS,
    PRIMARY,
    ROLE,
    Member,
)
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import PUT, find


@compiled
def ask(member: Member, flow_at: int) -> None:
    """Ask for what the effect wants of shared records; the flow waits for the answer.

    Without room the flow waits for the answer to what is asked for already, and then asks.
    """
    m = member.words
    begin = m[AT_ASK] + m[ASK_FILL]
    end = _write(member, begin + 1, m[AT_ASK] + m[ASK_ROOM])
    if end >= 0:
        m[begin] = end - begin - 1
        m[ASK_FILL] += end - begin
    m[flow_at + F_ASKED] = m[ASK_NUMBER]
    m[flow_at + F_ASKED_NEXT] = -1
    last = m[ASKED_LAST]
    if last >= 0:
        m[last + F_ASKED_NEXT] = flow_at
    else:
        m[ASKED_FIRST] = flow_at
    m[ASKED_LAST] = flow_at


@compiled
def _write(member: Member, at: int, end: int) -> int:
    """Write the effect's shared operations, and what they expect; where they end, -1: no room."""
    m, effect, values = member.words, member.effect, member.records.values
    place, stop = HEADER_WORDS, HEADER_WORDS + effect[FILL]
    while place < stop:
        head = effect[place]
        size = 1 + ((head >> 8) & 0xFF) + (((head >> 32) & 0xFFFF) if head & 0xFF == PUT else 0)
        if effect[place + 1] >> TAG_SHIFT >= FIRST_LINEARIZABLE:
            if at + size + 1 + values.shape[1] > end:
                return -1
            for word in range(size):
                m[at + word] = effect[place + word]
            at += size
            row = find(member.records, _key_in(effect, place))
            m[at] = 1 if row >= 0 else 0
            at += 1
            if row >= 0:
                for word in range(values.shape[1]):
                    m[at + word] = values[row, word]
                at += values.shape[1]
        place += size
    return at


@compiled
def _key_in(operations: Words, at: int) -> tuple[int, int, int, int, int]:
    """The key of the operation at `operations[at]`."""
    words = (operations[at] >> 8) & 0xFF
    return (
        operations[at + 1] if words > 0 else 0,
        operations[at + 2] if words > 1 else 0,
        operations[at + 3] if words > 2 else 0,
        operations[at + 4] if words > 3 else 0,
        operations[at + 5] if words > 4 else 0,
    )


@compiled
def waits(m: Words, flow_at: int) -> bool:
    """Whether the flow's next input waits for an answer."""
    return m[flow_at + F_ASKED] > m[ASK_ANSWERED]


@compiled
def ask_due(m: Words) -> bool:
    """Whether something is asked for and nothing is on its way."""
    return m[ASK_FILL] > 0 and m[ASK_ANSWERED] == m[ASK_NUMBER] - 1 and m[ROLE] == PRIMARY


@compiled
def take_ask(m: Words) -> int:
    """The number of the ask that is due; its words are then the caller's to read, before the next.

    They are the first `m[ASK_FILL]` from `m[AT_ASK]` on as they were before the call.
    """
    number = m[ASK_NUMBER]
    m[ASK_NUMBER] += 1
    m[ASK_FILL] = 0
    return number


@compiled
def next_answered(m: Words) -> int:
    """A flow that has waited for an answer that has come, and waits no more; -1: there is none."""
    flow_at = m[ASKED_FIRST]
    if flow_at < 0 or m[flow_at + F_ASKED] > m[ASK_ANSWERED]:
        return -1
    m[ASKED_FIRST] = m[flow_at + F_ASKED_NEXT]
    if m[ASKED_FIRST] < 0:
        m[ASKED_LAST] = -1
    m[flow_at + F_ASKED] = 0
    return flow_at


@compiled
def forget_asks(m: Words) -> None:
    """Wait for no answer any more: the member was not the primary for a while."""
    for number in range(m[FLOWS]):
        m[m[AT_FLOWS] + number * FLOW_WORDS + F_ASKED] = 0
    m[ASKED_FIRST] = m[ASKED_LAST] = -1
    m[ASK_FILL] = 0
    m[ASK_ANSWERED] = m[ASK_NUMBER]
    m[ASK_NUMBER] += 1
