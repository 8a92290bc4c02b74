"""Groups of chains: which an instance can serve, what serving them does, when they are dropped.

Numba over struct of arrays; dynamics.py says what the model is.
"""

from __future__ import annotations

import numpy as np

from agents.provisioning.types import (
    BOUND_MS,
    CHAINS,
    CPU,
    LENGTHS,
    LONGEST,
    PROCESSING_MS,
    IntArray,
    State,
)
from testbed.compiled import compiled

TIGHT = 1e-9
"""Sums of times are compared with this much room, in ms."""


def _remaining_ms() -> list[list[float]]:
    """Processing of the VNFs from each stage on, by type."""
    table = []
    for chain, length in zip(CHAINS, LENGTHS, strict=True):
        own = [PROCESSING_MS[v] if i < length else 0.0 for i, v in enumerate(chain)]
        table.append([sum(own[i:]) for i in range(LONGEST + 1)])
    return table


def _work_done() -> list[list[float]]:
    """Share of a chain's CPU time that is behind it at each stage, by type."""
    table = []
    for chain, length in zip(CHAINS, LENGTHS, strict=True):
        own = [CPU[v] * PROCESSING_MS[v] if i < length else 0.0 for i, v in enumerate(chain)]
        table.append([sum(own[:i]) / sum(own) for i in range(LONGEST + 1)])
    return table


CHAIN_TABLE = np.array(CHAINS, dtype=np.int64)
LENGTH_TABLE = np.array(LENGTHS, dtype=np.int64)
BOUND_TABLE = np.array(BOUND_MS)
REMAINING_MS = np.array(_remaining_ms())
WORK_DONE = np.array(_work_done())
PROCESSING_TABLE = np.array(PROCESSING_MS)


@compiled
def next_vnf(s: State, b: int, g: int) -> int:
    """The VNF that group `g` needs next."""
    return CHAIN_TABLE[s.kind[b, s.bundle[b, g]], s.stage[b, g]]


@compiled
def due_ms(s: State, b: int, r: int) -> float:
    """The deadline of bundle `r`."""
    return s.arrival[b, r] + BOUND_TABLE[s.kind[b, r]]


@compiled
def time_left_ms(s: State, b: int, g: int) -> float:
    """From now to the deadline of group `g`."""
    return due_ms(s, b, s.bundle[b, g]) - s.step[b]


@compiled
def servable(s: State, b: int, g: int, d: int, free_ms: float) -> int:
    """How many chains of `g` an instance at `d`, free from `free_ms` on, can serve in this step.

    As many as end in the step, can still meet their bound, and have their rate on the links.
    """
    r, at, stage = s.bundle[b, g], s.place[b, g], s.stage[b, g]
    kind, to = s.kind[b, r], s.destination[b, r]
    each_ms = PROCESSING_TABLE[CHAIN_TABLE[kind, stage]]
    begin_ms = max(free_ms, s.ready_ms[b, g] + s.delay_ms[b, at, d])
    rest_ms = REMAINING_MS[kind, stage + 1] + s.delay_ms[b, d, to]
    latest_ms = min(s.step[b] + 1.0, due_ms(s, b, r) - rest_ms)
    if begin_ms + each_ms > latest_ms + TIGHT:
        return 0
    count = min(s.size[b, g], int((latest_ms - begin_ms + TIGHT) / each_ms))
    if at != d:
        count = min(count, int(s.link_free[b, at, d] / s.rate_mbps[b, r]))
    if stage + 1 == LENGTH_TABLE[kind] and d != to:
        count = min(count, int(s.link_free[b, d, to] / s.rate_mbps[b, r]))
    return count


@compiled
def serve(s: State, b: int, d: int, v: int, waiting: IntArray) -> int:
    """Serve groups in the rest of the step; how many chains are satisfied by it."""
    free_ms = s.step[b] * 1.0
    satisfied, head, alive = 0, 0, s.groups[b]
    while head < len(waiting) and free_ms + PROCESSING_TABLE[v] <= s.step[b] + 1 + TIGHT:
        _first_come(s, b, d, free_ms, waiting, head)
        g = waiting[head]
        head += 1
        count = servable(s, b, g, d, free_ms)
        if count == 0:
            continue
        come_ms = s.ready_ms[b, g] + s.delay_ms[b, s.place[b, g], d]
        free_ms = max(free_ms, come_ms) + count * PROCESSING_TABLE[v]
        if count < s.size[b, g]:
            if alive == s.size.shape[1]:
                continue
            _copy(s, b, g, alive)  # the rest stays as it is, for the moment behind all others
            s.size[b, alive] -= count
            s.size[b, g] = count
            alive += 1
        satisfied += _move_on(s, b, g, d, free_ms)
    if alive > s.groups[b]:
        sort_in(s, b, alive)
    if satisfied > 0:
        _forget_finished(s, b)
    return satisfied


@compiled
def _first_come(s: State, b: int, d: int, free_ms: float, waiting: IntArray, head: int) -> None:
    """Bring to `head` the most urgent of waiting[head:] that is there at `free_ms`.

    If none is, the one that comes first. The others keep their order.
    """
    chosen, first_ms = head, np.inf
    for i in range(head, len(waiting)):
        g = waiting[i]
        come_ms = s.ready_ms[b, g] + s.delay_ms[b, s.place[b, g], d]
        if come_ms <= free_ms + TIGHT:
            chosen = i
            break
        if come_ms < first_ms:
            chosen, first_ms = i, come_ms
    g = waiting[chosen]
    for i in range(chosen, head, -1):
        waiting[i] = waiting[i - 1]
    waiting[head] = g


@compiled
def _move_on(s: State, b: int, g: int, d: int, end_ms: float) -> int:
    """Group `g` was served at `d` until `end_ms`; its size if that was its last VNF, else 0."""
    r, at = s.bundle[b, g], s.place[b, g]
    to, kind, size = s.destination[b, r], s.kind[b, r], s.size[b, g]
    if at != d:
        s.link_free[b, at, d] -= size * s.rate_mbps[b, r]
    s.place[b, g] = d
    s.ready_ms[b, g] = end_ms
    s.stage[b, g] += 1
    if s.stage[b, g] < LENGTH_TABLE[kind]:
        return 0
    if d != to:
        s.link_free[b, d, to] -= size * s.rate_mbps[b, r]
    s.totals.satisfied_by_type[b, kind] += size
    s.totals.delay_ms[b] += size * (end_ms + s.delay_ms[b, d, to] - s.arrival[b, r])
    return size


@compiled
def _copy(s: State, b: int, source: int, target: int) -> None:
    s.bundle[b, target] = s.bundle[b, source]
    s.size[b, target] = s.size[b, source]
    s.stage[b, target] = s.stage[b, source]
    s.place[b, target] = s.place[b, source]
    s.ready_ms[b, target] = s.ready_ms[b, source]


@compiled
def sort_in(s: State, b: int, alive: int) -> None:
    """Put groups number `groups` ... `alive` where they belong by (deadline, bundle)."""
    for new in range(s.groups[b], alive):
        bundle, size, stage = s.bundle[b, new], s.size[b, new], s.stage[b, new]
        place, ready_ms = s.place[b, new], s.ready_ms[b, new]
        at, due = new, due_ms(s, b, bundle)
        while at > 0:
            other = s.bundle[b, at - 1]
            other_due = due_ms(s, b, other)
            if other_due < due or (other_due == due and other <= bundle):
                break
            _copy(s, b, at - 1, at)
            at -= 1
        s.bundle[b, at], s.size[b, at], s.stage[b, at] = bundle, size, stage
        s.place[b, at], s.ready_ms[b, at] = place, ready_ms
    s.groups[b] = alive


@compiled
def _forget_finished(s: State, b: int) -> None:
    kept = 0
    for g in range(s.groups[b]):
        if s.stage[b, g] < LENGTH_TABLE[s.kind[b, s.bundle[b, g]]]:
            _copy(s, b, g, kept)
            kept += 1
    s.groups[b] = kept


@compiled
def drop(s: State, b: int) -> int:
    """Drop the chains that are late for certain; how many. Groups that are alike become one."""
    kept, dropped = 0, 0
    for g in range(s.groups[b]):
        r = s.bundle[b, g]
        kind = s.kind[b, r]
        begin_ms = max(s.step[b] * 1.0, s.ready_ms[b, g])
        way_ms = s.delay_ms[b, s.place[b, g], s.destination[b, r]]
        end_ms = begin_ms + REMAINING_MS[kind, s.stage[b, g]] + way_ms
        if end_ms > due_ms(s, b, r) + TIGHT:
            s.totals.dropped_by_type[b, kind] += s.size[b, g]
            dropped += s.size[b, g]
        elif not _merged(s, b, g, kept):
            _copy(s, b, g, kept)
            kept += 1
    s.groups[b] = kept
    return dropped


@compiled
def _merged(s: State, b: int, g: int, kept: int) -> bool:
    """Whether `g` could be added to one of the groups 0 ... `kept`: same bundle, stage, place."""
    other = kept - 1
    while other >= 0 and s.bundle[b, other] == s.bundle[b, g]:
        if s.stage[b, other] == s.stage[b, g] and s.place[b, other] == s.place[b, g]:
            s.size[b, other] += s.size[b, g]
            s.ready_ms[b, other] = max(s.ready_ms[b, other], s.ready_ms[b, g])
            return True
        other -= 1
    return False


@compiled
def enter(s: State, b: int, r: int, g: int) -> None:
    """Make bundle `r` group `g`."""
    s.bundle[b, g] = r
    s.size[b, g] = s.requests[b, r]
    s.stage[b, g] = 0
    s.place[b, g] = s.source[b, r]
    s.ready_ms[b, g] = s.arrival[b, r]
