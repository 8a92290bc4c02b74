"""Where a flow is: the table of all that a member knows."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.replication.flows import close_gap, free, take_head
from testbed.vnf.replication.member import (
    AT_FLOW_SLOTS,
    AT_FLOWS,
    COPIES_DROPPED,
    F_EPOCH,
    F_GAP_NS,
    F_HEAD,
    F_KEY,
    F_LOST_EPOCH,
    F_PATH,
    F_READY_NEXT,
    F_TAIL,
    FLOW_CURSOR,
    FLOW_SLOTS,
    FLOW_WORDS,
    FLOWS,
    MAX_FLOWS,
    NEVER,
)
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.memory import prefetch

LINE_WORDS = 8
"""Of a line of the cache."""

BASE_PATH_MASK = (1 << 20) - 1
"""The bits of a path that name its chain; those above say the shard (`scenario.steering`)."""


@compiled
def find_flow(m: Words, path: int, flow: int, make: bool) -> int:
    """Where the flow begins; -1 if it is unknown, and `make` is off or the table is full."""
    key = ((path & BASE_PATH_MASK) << 32) | (flow & 0xFFFFFFFF)
    at = _slot(m, key)
    flow_at = m[m[AT_FLOW_SLOTS] + at]
    if flow_at or not make:
        return flow_at if flow_at else -1
    if m[FLOWS] >= m[MAX_FLOWS]:
        return -1
    flow_at = m[AT_FLOWS] + m[FLOWS] * FLOW_WORDS
    m[FLOWS] += 1
    m[m[AT_FLOW_SLOTS] + at] = flow_at
    for word in range(FLOW_WORDS):
        m[flow_at + word] = 0
    m[flow_at + F_KEY] = key
    m[flow_at + F_EPOCH] = -1
    m[flow_at + F_HEAD] = m[flow_at + F_TAIL] = m[flow_at + F_READY_NEXT] = -1
    m[flow_at + F_LOST_EPOCH] = -1
    m[flow_at + F_GAP_NS] = NEVER
    m[flow_at + F_PATH] = path
    return flow_at


@compiled
def _home(m: Words, key: int) -> int:
    """The slot where the search for a flow begins."""
    mixed = (key ^ (key >> 31)) * 0x2127599BF4325C37
    return (mixed ^ (mixed >> 29)) & (m[FLOW_SLOTS] - 1)


@compiled
def expect_flow(m: Words, path: int, flow: int) -> None:
    """This flow will be looked for soon: fetch the slot where the search begins."""
    key = ((path & BASE_PATH_MASK) << 32) | (flow & 0xFFFFFFFF)
    prefetch(m, m[AT_FLOW_SLOTS] + _home(m, key))


@compiled
def expect_marks(m: Words, path: int, flow: int) -> None:
    """This flow will be worked on soon, and `expect_flow` has had its time: fetch what it keeps.

    It may be another flow's, if the search goes on from there.
    """
    key = ((path & BASE_PATH_MASK) << 32) | (flow & 0xFFFFFFFF)
    flow_at = m[m[AT_FLOW_SLOTS] + _home(m, key)]
    prefetch(m, flow_at)
    prefetch(m, flow_at + LINE_WORDS)


@compiled
def _slot(m: Words, key: int) -> int:
    """The slot that holds the flow, or the free one where it belongs."""
    at = _home(m, key)
    while True:
        flow_at = m[m[AT_FLOW_SLOTS] + at]
        if flow_at == 0 or m[flow_at + F_KEY] == key:
            return at
        at = (at + 1) & (m[FLOW_SLOTS] - 1)


@compiled
def find_logged(m: Words, path: int, flow: int) -> int:
    """Where a flow begins that the log names: in a full table one that it does not name gives way.

    A follower knows flows from copies that the primary never got, and must not refuse for them what
    the primary took. -1: there is none that could give way, so the log is not sound.
    """
    flow_at = find_flow(m, path, flow, True)
    if flow_at >= 0:
        return flow_at
    for _ in range(m[FLOWS]):
        m[FLOW_CURSOR] = (m[FLOW_CURSOR] + 1) % m[FLOWS]
        flow_at = m[AT_FLOWS] + m[FLOW_CURSOR] * FLOW_WORDS
        if m[flow_at + F_EPOCH] < 0:
            _replace(m, flow_at, ((path & BASE_PATH_MASK) << 32) | (flow & 0xFFFFFFFF))
            m[flow_at + F_PATH] = path
            return flow_at
    return -1


@compiled
def _replace(m: Words, flow_at: int, key: int) -> None:
    """Forget a flow of which nothing was handled, and name its place anew.

    Whether it is in the list of ready flows stays as it is: there it does no harm.
    """
    close_gap(m, flow_at)
    while m[flow_at + F_HEAD] >= 0:
        free(m, take_head(m, flow_at))
        m[COPIES_DROPPED] += 1
    m[flow_at + F_LOST_EPOCH] = -1
    _free_slot(m, _slot(m, m[flow_at + F_KEY]))
    m[flow_at + F_KEY] = key
    m[m[AT_FLOW_SLOTS] + _slot(m, key)] = flow_at


@compiled
def _free_slot(m: Words, at: int) -> None:
    """Empty a slot and close the hole, so that no search ends too early (Knuth 6.4, R)."""
    begin, mask = m[AT_FLOW_SLOTS], m[FLOW_SLOTS] - 1
    hole = at
    while True:
        m[begin + hole] = 0
        ahead = hole
        while True:
            ahead = (ahead + 1) & mask
            if m[begin + ahead] == 0:
                return
            home = _home(m, m[m[begin + ahead] + F_KEY])
            # It may move into the hole if its home does not lie after the hole, on the circle.
            if (ahead - home) & mask >= (ahead - hole) & mask:
                break
        m[begin + hole] = m[begin + ahead]
        hole = ahead
