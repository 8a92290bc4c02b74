"""What an instance here would do for the chains that are best served here, and a rule by it.

An instance takes its CPU for a whole step, however few chains it serves. So where CPU is short, the
share of it that serves nothing decides how much is accepted. Numba over struct of arrays.
"""

from __future__ import annotations

import numpy as np

from agents.provisioning.chains import (
    CHAIN_TABLE,
    PROCESSING_TABLE,
    REMAINING_MS,
    TIGHT,
    due_ms,
    servable,
)
from agents.provisioning.dynamics import CPU_TABLE, has_room
from agents.provisioning.types import (
    CHAINS,
    CPU,
    LENGTHS,
    LONGEST,
    PROCESSING_MS,
    VNFS,
    WAIT,
    FloatArray,
    State,
)
from testbed.compiled import compiled

PACKED, SLACK_MS, WORTH = range(3)
"""Columns of `offers`."""
OFFER = 3
FULL = 0.8
"""An instance counts as full from this share of its step on."""
HASTE_MS = 1.0
"""A chain with less to spare is not kept waiting for others."""


def _remaining_work() -> list[list[float]]:
    """CPU ms that a chain takes from each stage on in full instances, by type."""
    table = []
    for chain, length in zip(CHAINS, LENGTHS, strict=True):
        own = [
            CPU[v] / int(1.0 / PROCESSING_MS[v] + 1e-9) if i < length else 0.0
            for i, v in enumerate(chain)
        ]
        table.append([sum(own[i:]) for i in range(LONGEST + 1)])
    return table


REMAINING_WORK = np.array(_remaining_work())


@compiled
def best_here(s: State, b: int, g: int, v: int) -> bool:
    """Whether no data centre whose turn is still to come serves group `g` better than this one.

    Better is less propagation (to it, and from it to the destination), or as much of it and an
    idle instance where here is none, if it can run the VNF.
    """
    here = s.order[b, s.turn[b]]
    own_ms = _added_ms(s, b, g, here)
    for position in range(s.turn[b] + 1, s.centres[b]):
        d = s.order[b, position]
        added_ms = _added_ms(s, b, g, d)
        idle = s.idle[b, d, v] > 0 and s.idle[b, here, v] == 0
        nearer = added_ms < own_ms or (added_ms == own_ms and idle)
        if nearer and has_room(s, b, d, v) and servable(s, b, g, d, s.step[b] * 1.0):
            return False
    return True


@compiled
def _added_ms(s: State, b: int, g: int, d: int) -> float:
    to = s.destination[b, s.bundle[b, g]]
    return s.delay_ms[b, s.place[b, g], d] + s.delay_ms[b, d, to]


@compiled
def offers(s: State, b: int, out: FloatArray) -> None:
    """What one more instance of each VNF here would do, into `out` [VNFS, OFFER].

    PACKED    share of its step that chains fill which are best served here, the most urgent first
    SLACK_MS  what the most urgent of them could wait and still meet its bound
    WORTH     sum of 1 / (CPU ms that a chain still takes) of them, for each CPU of the instance

    A VNF that has no room here, or serves none, has zeros.
    """
    here, now_ms = s.order[b, s.turn[b]], s.step[b] * 1.0
    out[:] = 0.0
    for g in range(s.groups[b]):
        r, stage = s.bundle[b, g], s.stage[b, g]
        kind = s.kind[b, r]
        v = CHAIN_TABLE[kind, stage]
        fit = int((1.0 - out[v, PACKED] + TIGHT) / PROCESSING_TABLE[v])
        if fit == 0 or not has_room(s, b, here, v):
            continue
        count = min(fit, servable(s, b, g, here, now_ms))
        if count == 0 or not best_here(s, b, g, v):
            continue
        way_ms = s.delay_ms[b, s.place[b, g], here] + s.delay_ms[b, here, s.destination[b, r]]
        slack_ms = max(0.0, due_ms(s, b, r) - now_ms - way_ms - REMAINING_MS[kind, stage])
        if out[v, PACKED] == 0.0 or slack_ms < out[v, SLACK_MS]:
            out[v, SLACK_MS] = slack_ms
        out[v, PACKED] += count * PROCESSING_TABLE[v]
        out[v, WORTH] += count / REMAINING_WORK[kind, stage] / CPU_TABLE[v]


@compiled
def advised(offered: FloatArray) -> int:
    """Of the VNFs that are full or in haste, the one of most worth; WAIT if none is."""
    best, most = WAIT, 0.0
    for v in range(VNFS):
        if offered[v, PACKED] < FULL and offered[v, SLACK_MS] > HASTE_MS:
            continue
        if offered[v, WORTH] > most:
            best, most = v, offered[v, WORTH]
    return best
