"""What is seen at the data centre whose turn it is; columns.py has the name of each column."""

from __future__ import annotations

import numpy as np

from agents.provisioning.chains import (
    BOUND_TABLE,
    LENGTH_TABLE,
    PROCESSING_TABLE,
    next_vnf,
    servable,
    time_left_ms,
)
from agents.provisioning.dynamics import valid_actions
from agents.provisioning.observation_columns import (
    ALL_CHAINS,
    CAPACITY,
    CENTRE,
    CENTRE_CHAINS,
    CENTRE_CPU,
    CENTRE_CPU_FREE,
    CENTRE_DELAY,
    CENTRE_HERE,
    CENTRE_IDLE,
    CENTRE_LINK,
    CENTRE_NEEDED,
    CENTRE_TO_COME,
    CPU_FREE,
    CUT,
    DECISIONS_LEFT,
    EACH,
    HEAD,
    LARGEST_CPU,
    LONGEST_BOUND_MS,
    LONGEST_WAY_MS,
    NEEDS_SECOND,
    OWN,
    PENDING,
    PENDING_RATE,
    PENDING_SERVABLE,
    RAM_FREE,
    STORAGE_FREE,
    TURNS_LEFT,
    TYPE_CHAINS,
    TYPE_HERE,
    TYPE_LEFT,
    UNDERWAY,
    VNF_ADVISED,
    VNF_COMPLETED,
    VNF_FILLED,
    VNF_HERE,
    VNF_IDLE,
    VNF_LEFT,
    VNF_PACKED,
    VNF_RUNNING,
    VNF_SERVABLE,
    VNF_SLACK,
    VNF_WORTH,
)
from agents.provisioning.packing import OFFER, PACKED, SLACK_MS, WORTH, advised, offers
from agents.provisioning.types import (
    ACTIONS,
    ACTIONS_A_STEP,
    LINK_MBPS,
    RAM_CAPACITY_GB,
    STORAGE_CAPACITY_GB,
    TYPES,
    VNFS,
    FloatArray,
    Observation,
    State,
)
from testbed.compiled import compiled


def empty_observation(batch: int, centres: int) -> Observation:
    """Room for `batch` observations of at most `centres` data centres."""
    return Observation(
        np.zeros((batch, OWN), dtype=np.float32),
        np.zeros((batch, TYPES, UNDERWAY), dtype=np.float32),
        np.zeros((batch, TYPES, PENDING), dtype=np.float32),
        np.zeros((batch, centres, CENTRE), dtype=np.float32),
        np.zeros((batch, centres), dtype=np.bool_),
        np.zeros((batch, ACTIONS), dtype=np.bool_),
    )


@compiled
def observe_all(s: State, out: Observation) -> None:
    """Write the observation of each episode into its row of `out`; zeros where it is over."""
    offered = np.empty((VNFS, OFFER))
    for b in range(len(s.step)):
        out.own[b] = 0.0
        out.underway[b] = 0.0
        out.pending[b] = 0.0
        out.centres[b] = 0.0
        out.present[b] = False
        for position in range(s.centres[b]):  # whoever has a turn is there, whatever its number
            out.present[b, s.order[b, position]] = True
        valid_actions(s, b, out.mask[b])
        if not s.done[b]:
            _observe_own(s, b, out)
            _observe_offers(s, b, out, offered)
            _observe_chains(s, b, out)
            _observe_centres(s, b, out)


@compiled
def _count(n: float) -> float:
    return np.log1p(n) / 6.0


@compiled
def _observe_own(s: State, b: int, out: Observation) -> None:
    d = s.order[b, s.turn[b]]
    own = out.own[b]
    own[CPU_FREE] = s.cpu_free[b, d] / LARGEST_CPU
    own[CAPACITY] = s.cpu[b, d] / LARGEST_CPU
    own[RAM_FREE] = s.ram_free[b, d] / RAM_CAPACITY_GB
    own[STORAGE_FREE] = s.storage_free[b, d] / STORAGE_CAPACITY_GB
    own[DECISIONS_LEFT] = 1.0 - s.actions[b] / ACTIONS_A_STEP
    own[TURNS_LEFT] = (s.centres[b] - 1 - s.turn[b]) / s.centres[b]
    for v in range(VNFS):
        at = HEAD + EACH * v
        own[at + VNF_IDLE] = _count(s.idle[b, d, v])
        own[at + VNF_RUNNING] = _count(s.installed[b, d, v] - s.idle[b, d, v])


@compiled
def _observe_offers(s: State, b: int, out: Observation, offered: FloatArray) -> None:
    offers(s, b, offered)
    best = advised(offered)
    for v in range(VNFS):
        if offered[v, PACKED] == 0.0:
            continue
        at = HEAD + EACH * v
        out.own[b, at + VNF_PACKED] = offered[v, PACKED]
        out.own[b, at + VNF_SLACK] = 1.0 / (1.0 + offered[v, SLACK_MS])
        out.own[b, at + VNF_WORTH] = _count(offered[v, WORTH])
        out.own[b, at + VNF_ADVISED] = v == best


@compiled
def _observe_chains(s: State, b: int, out: Observation) -> None:
    d = s.order[b, s.turn[b]]
    own, underway, pending = out.own[b], out.underway[b], out.pending[b]
    now_ms = s.step[b] * 1.0
    for g in range(s.groups[b]):
        r, stage, v = s.bundle[b, g], s.stage[b, g], next_vnf(s, b, g)
        kind, size = s.kind[b, r], s.size[b, g]
        is_here = s.place[b, g] == d
        left_ms = max(0.0, time_left_ms(s, b, g))
        can = servable(s, b, g, d, now_ms)
        if can > 0:
            at = HEAD + EACH * v
            if own[at + VNF_SERVABLE] == 0.0:  # the first is the most urgent
                own[at + VNF_LEFT] = left_ms / LONGEST_BOUND_MS
            own[at + VNF_SERVABLE] += can
            own[at + VNF_COMPLETED] += can * (stage + 1 == LENGTH_TABLE[kind])
            own[at + VNF_HERE] += can * is_here
        row = pending[kind] if stage == 0 else underway[kind]
        if row[TYPE_CHAINS] == 0.0:
            row[TYPE_LEFT] = left_ms / BOUND_TABLE[kind]
        row[TYPE_CHAINS] += size
        row[TYPE_HERE] += size * is_here
        if stage == 0:
            row[PENDING_RATE] += size * s.rate_mbps[b, r] / LINK_MBPS
            row[PENDING_SERVABLE] += can
        else:
            row[NEEDS_SECOND + stage - 1] += size
        own[ALL_CHAINS] += size
        out.centres[b, s.place[b, g], CENTRE_NEEDED + v] += size
        out.centres[b, s.place[b, g], CENTRE_CHAINS] += size
    _scale(s, b, out)


@compiled
def _scale(s: State, b: int, out: Observation) -> None:
    """Turn the counts into columns."""
    own = out.own[b]
    own[ALL_CHAINS] = _count(own[ALL_CHAINS])
    for v in range(VNFS):
        at = HEAD + EACH * v
        own[at + VNF_FILLED] = min(1.0, own[at + VNF_SERVABLE] * PROCESSING_TABLE[v])
        for counted in (VNF_SERVABLE, VNF_COMPLETED, VNF_HERE):
            own[at + counted] = _count(own[at + counted])
    for kind in range(TYPES):
        underway, pending = out.underway[b, kind], out.pending[b, kind]
        for counted in (TYPE_CHAINS, TYPE_HERE):
            underway[counted] = _count(underway[counted])
            pending[counted] = _count(pending[counted])
        for counted in range(NEEDS_SECOND, UNDERWAY):
            underway[counted] = _count(underway[counted])
        pending[PENDING_SERVABLE] = _count(pending[PENDING_SERVABLE])
        pending[PENDING_RATE] = min(CUT, pending[PENDING_RATE])
    for d in range(out.centres.shape[1]):
        row = out.centres[b, d]
        row[CENTRE_CHAINS] = _count(row[CENTRE_CHAINS])
        for v in range(VNFS):
            row[CENTRE_NEEDED + v] = _count(row[CENTRE_NEEDED + v])


@compiled
def _observe_centres(s: State, b: int, out: Observation) -> None:
    here = s.order[b, s.turn[b]]
    for position in range(s.centres[b]):
        d = s.order[b, position]
        row = out.centres[b, d]
        row[CENTRE_CPU_FREE] = s.cpu_free[b, d] / LARGEST_CPU
        row[CENTRE_CPU] = s.cpu[b, d] / LARGEST_CPU
        row[CENTRE_DELAY] = min(CUT, s.delay_ms[b, here, d] / LONGEST_WAY_MS)
        link_free = max(0.0, s.link_free[b, here, d])  # sums of rates are rounded
        row[CENTRE_LINK] = link_free / LINK_MBPS
        row[CENTRE_HERE] = d == here
        row[CENTRE_TO_COME] = position > s.turn[b]
        for v in range(VNFS):
            row[CENTRE_IDLE + v] = _count(s.idle[b, d, v])
