"""Negative controls: words of members and messages are tampered with, as if a rule were missing.

The product has no switches for this. A check that notices none of these has not been tested.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.replication.flow_table import find_flow
from testbed.vnf.replication.member import (
    AT_FLOWS,
    COMMITTED,
    CONFIG_EPOCH,
    F_EPOCH,
    F_EXPECTED,
    F_GAP_NEXT,
    F_GAP_NS,
    F_OUT,
    FLOW_WORDS,
    FLOWS,
    FOLLOWER,
    GAP_FIRST,
    GROUP_EPOCH,
    LOG_FIRST,
    MAX_MEMBERS,
    NEVER,
    NEXT,
    P_LEASE_NS,
    PRIMARY,
    PROMISE_NS,
    RELEASED,
    ROLE,
    S_LEASE_NS,
    SNAPSHOT_GOT,
    TENURE,
    WAIT_NS,
    peer_at,
)
from testbed.vnf.replication.messages import LOG, SNAPSHOT
from testbed.vnf.state.arrays import Words
from tests.protocol import names
from tests.protocol.world import CONTROL, CONTROL_HITS, NEWER, OLDER, SHORTENED_NS, slot_at

NOT_IN_TIME_NS = 1_000_000_000_000
"""A time that no schedule reaches."""


@compiled
def before_message(w: Words, m: Words, at: int, size: int) -> None:
    """Tamper with a message that is about to be read, or with its reader."""
    control = w[CONTROL]
    if control == names.NO_EPOCH_CHECK and w[at + 1] != m[GROUP_EPOCH] and m[GROUP_EPOCH]:
        w[at + 1] = m[GROUP_EPOCH]
        w[CONTROL_HITS] += 1
    if control == names.NO_BASE_CHECK and w[at] & 0xFF == LOG and m[TENURE] != w[at + 8]:
        m[TENURE] = w[at + 8]
        w[CONTROL_HITS] += 1
    if m[ROLE] == FOLLOWER:
        _throw_away_early(w, m, at)


@compiled
def _throw_away_early(w: Words, m: Words, at: int) -> None:
    """Only the head is left of a message that came before its turn."""
    control, kind = w[CONTROL], w[at] & 0xFF
    if control == names.NO_EARLY_ENTRIES and kind == LOG and w[at + 3] > m[NEXT]:
        w[at + 4] = 0
        w[CONTROL_HITS] += 1
    if control == names.NO_EARLY_PARTS and kind == SNAPSHOT and w[at + 5] > m[SNAPSHOT_GOT]:
        w[at + 6] = 0
        w[CONTROL_HITS] += 1


@compiled
def before_packet(w: Words, m: Words, path: int, flow: int, epoch: int, seq: int) -> int:
    """Make a duplicate look new; returns what `after_packet` is to put back, 0 if nothing."""
    if w[CONTROL] != names.NO_DUPLICATE_CHECK or m[ROLE] != PRIMARY:
        return 0
    flow_at = find_flow(m, path, flow, False)
    if flow_at < 0 or m[flow_at + F_EPOCH] != epoch or seq >= m[flow_at + F_EXPECTED]:
        return 0
    kept = m[flow_at + F_EXPECTED]
    m[flow_at + F_EXPECTED] = seq
    w[CONTROL_HITS] += 1
    return kept


@compiled
def after_packet(m: Words, path: int, flow: int, kept: int) -> None:
    """Put back what `before_packet` changed."""
    if kept:
        flow_at = find_flow(m, path, flow, False)
        m[flow_at + F_EXPECTED] = max(kept, m[flow_at + F_EXPECTED])


@compiled
def before_release(w: Words, m: Words) -> None:
    """Without leases each output may go out at once."""
    if w[CONTROL] == names.NO_LEASE:
        m[WAIT_NS] = 0
        for number in range(MAX_MEMBERS):
            m[peer_at(number) + P_LEASE_NS] = NEVER
        w[CONTROL_HITS] += 1


@compiled
def bound_of(w: Words, m: Words, bound: int) -> int:
    """How far outputs may go out."""
    if w[CONTROL] == names.RELEASE_EARLY and m[ROLE] == PRIMARY and bound < m[NEXT]:
        w[CONTROL_HITS] += 1
        return m[NEXT]
    return bound


@compiled
def before_configure(w: Words, m: Words, epoch: int) -> None:
    """No configuration seems to have been missed."""
    if w[CONTROL] == names.MISSED_IGNORED and m[CONFIG_EPOCH] < epoch - 1:
        m[CONFIG_EPOCH] = epoch - 1
        w[CONTROL_HITS] += 1


@compiled
def after_configure(w: Words, m: Words, promoted: bool) -> None:
    """A member that has just been promoted forgets what it should know."""
    if not promoted:
        return
    if w[CONTROL] == names.NO_PROMISE_WAIT:
        m[WAIT_NS] = 0
        w[CONTROL_HITS] += 1
    if w[CONTROL] == names.NO_RE_EMISSION and m[RELEASED] < m[NEXT]:
        m[RELEASED] = m[COMMITTED] = m[NEXT]
        w[CONTROL_HITS] += 1


@compiled
def after_install(w: Words, m: Words) -> None:
    """The outputs that are held are missing in the snapshot."""
    if w[CONTROL] == names.SNAPSHOT_WITHOUT_HELD and m[RELEASED] < m[NEXT]:
        m[RELEASED] = m[LOG_FIRST] = m[COMMITTED] = m[NEXT]
        w[CONTROL_HITS] += 1


@compiled
def after_event(w: Words, m: Words, number: int) -> None:
    """What is tampered with after any event at a member."""
    if w[CONTROL] == names.NO_GAPS and m[GAP_FIRST] >= 0:
        at = m[GAP_FIRST]
        while at >= 0:
            m[at + F_GAP_NS] = NOT_IN_TIME_NS
            at = m[at + F_GAP_NEXT]
        w[CONTROL_HITS] += 1
    if w[CONTROL] == names.NO_MARGIN:
        _shorten_promise(w, m, number)


@compiled
def _shorten_promise(w: Words, m: Words, number: int) -> None:
    """The promise lasts no longer than the lease."""
    slot = slot_at(number)
    if m[PROMISE_NS] != w[slot + SHORTENED_NS]:
        m[PROMISE_NS] -= m[S_LEASE_NS] >> 8
        w[slot + SHORTENED_NS] = m[PROMISE_NS]
        w[CONTROL_HITS] += 1


@compiled
def restore_marks(w: Words, m: Words, number: int) -> None:
    """Marks apart from the state, before a message: those of the last one come true now."""
    if w[CONTROL] == names.MARKS_APART and m[ROLE] == FOLLOWER:
        _write_marks(w, m, slot_at(number) + NEWER)
        _read_marks(w, m, slot_at(number) + OLDER)


@compiled
def delay_marks(w: Words, m: Words, number: int) -> None:
    """... and after it: the state is new, and the marks are still the former ones."""
    if w[CONTROL] == names.MARKS_APART and m[ROLE] == FOLLOWER:
        _read_marks(w, m, slot_at(number) + NEWER)
        _write_marks(w, m, slot_at(number) + OLDER)
        w[CONTROL_HITS] += 1


@compiled
def _read_marks(w: Words, m: Words, at: int) -> None:
    w[at] = m[FLOWS]
    for place in range(m[FLOWS]):
        flow_at = m[AT_FLOWS] + place * FLOW_WORDS
        w[at + 3 * place + 1] = m[flow_at + F_EPOCH]
        w[at + 3 * place + 2] = m[flow_at + F_EXPECTED]
        w[at + 3 * place + 3] = m[flow_at + F_OUT]


@compiled
def _write_marks(w: Words, m: Words, at: int) -> None:
    for place in range(w[at]):
        flow_at = m[AT_FLOWS] + place * FLOW_WORDS
        m[flow_at + F_EPOCH] = w[at + 3 * place + 1]
        m[flow_at + F_EXPECTED] = w[at + 3 * place + 2]
        m[flow_at + F_OUT] = w[at + 3 * place + 3]
