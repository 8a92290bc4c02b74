"""How an episode goes on: numba over struct of arrays, one episode (a row `b`) at a time.

The model, where paper and table leave a choice:

- A decision concerns the data centre whose turn it is. `wait` ends its turn; the step ends after
  the last turn or after ACTIONS_A_STEP decisions. Priority: the sum of 1 / (time left) of the
  chains that are there, the largest first.
- `allocate v` runs an instance of v there until the end of the step: an installed one that is idle,
  else one that is installed for it. It takes CPU and RAM for that step, and storage as long as it
  is installed. Installing takes no time, as in the paper.
- The instance serves, one after another, the chains that need v next: of those that have come, the
  one with the earliest deadline. A chain is on its way to where it will be served from the moment
  that it was served before, so whoever waits does so at the end of the way. No service begins that
  would not be over within the step. A chain may pass several instances within a step.
- Chains of a bundle that an instance serves in a step go on as a group, when the last is served.
- A chain that changes its data centre needs its rate on the link for that step; so does the way to
  its destination after its last VNF. Delay = propagation + processing + waiting.
- It is dropped as soon as its bound cannot be met any more, even if all that it still needs were
  right where it is.
- Where `wait` is all that is valid, it is taken without asking, but for an episode's first turn.
"""

from __future__ import annotations

import numba
import numpy as np

from agents.provisioning.reward import RewardWeights
from agents.provisioning.types import (
    ACTIONS_A_STEP,
    BOUND_MS,
    CHAINS,
    CPU,
    LENGTHS,
    LINK_MBPS,
    LONGEST,
    PROCESSING_MS,
    RAM_CAPACITY_GB,
    RAM_GB,
    STORAGE_GB,
    VNFS,
    WAIT,
    BoolArray,
    IntArray,
    State,
)

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
CPU_TABLE, RAM_TABLE = np.array(CPU), np.array(RAM_GB)
STORAGE_TABLE, PROCESSING_TABLE = np.array(STORAGE_GB), np.array(PROCESSING_MS)


@numba.njit(cache=True)
def next_vnf(s: State, b: int, g: int) -> int:
    """The VNF that group `g` needs next."""
    return CHAIN_TABLE[s.kind[b, s.bundle[b, g]], s.stage[b, g]]


@numba.njit(cache=True)
def due_ms(s: State, b: int, r: int) -> float:
    """The deadline of bundle `r`."""
    return s.arrival[b, r] + BOUND_TABLE[s.kind[b, r]]


@numba.njit(cache=True)
def time_left_ms(s: State, b: int, g: int) -> float:
    """From now to the deadline of group `g`."""
    return due_ms(s, b, s.bundle[b, g]) - s.step[b]


@numba.njit(cache=True)
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


@numba.njit(cache=True)
def has_room(s: State, b: int, d: int, v: int) -> bool:
    """Whether data centre `d` can run one more instance of `v` in this step."""
    if s.cpu_free[b, d] < CPU_TABLE[v] or s.ram_free[b, d] < RAM_TABLE[v]:
        return False
    return s.idle[b, d, v] > 0 or s.storage_free[b, d] >= STORAGE_TABLE[v]


@numba.njit(cache=True)
def valid_actions(s: State, b: int, mask: BoolArray) -> None:
    """Write into `mask` [ACTIONS] what is valid at the data centre whose turn it is."""
    mask[:] = False
    mask[WAIT] = True
    if s.done[b]:
        return
    d = s.order[b, s.turn[b]]
    missing = 0
    for v in range(VNFS):
        mask[VNFS + v] = s.idle[b, d, v] > 0
        missing += has_room(s, b, d, v)
    if missing == 0:
        return
    for g in range(s.groups[b]):
        v = next_vnf(s, b, g)
        if not mask[v] and has_room(s, b, d, v) and servable(s, b, g, d, s.step[b] * 1.0):
            mask[v] = True
            missing -= 1
            if missing == 0:
                return


@numba.njit(cache=True)
def act(s: State, b: int, action: int, w: RewardWeights, mask: BoolArray) -> float:
    """Take one action and all waits that follow without a choice; the reward of it all.

    `mask` [ACTIONS] is overwritten by what is valid next. Nothing happens to an episode that is
    over.
    """
    if s.done[b]:
        valid_actions(s, b, mask)
        return 0.0
    s.totals.decisions[b] += 1
    reward = _one(s, b, action, w)
    while not s.done[b]:
        valid_actions(s, b, mask)
        if mask[:WAIT].any():
            return reward
        reward += _one(s, b, WAIT, w)
    valid_actions(s, b, mask)
    return reward


@numba.njit(cache=True)
def _one(s: State, b: int, action: int, w: RewardWeights) -> float:
    d = s.order[b, s.turn[b]]
    reward = 0.0
    if action == WAIT:
        s.turn[b] += 1
    elif action < VNFS:
        reward = _allocate(s, b, d, action, w)
    else:
        reward = _uninstall(s, b, d, action - VNFS, w)
    s.actions[b] += 1
    if s.turn[b] >= s.centres[b] or s.actions[b] >= ACTIONS_A_STEP:
        reward += _advance(s, b, w)
    return reward


@numba.njit(cache=True)
def _uninstall(s: State, b: int, d: int, v: int, w: RewardWeights) -> float:
    if s.idle[b, d, v] == 0:
        s.totals.invalid[b] += 1
        return w.invalid
    s.idle[b, d, v] -= 1
    s.installed[b, d, v] -= 1
    s.storage_free[b, d] += STORAGE_TABLE[v]
    if s.idle[b, d, v] > 0:
        return 0.0
    for g in range(s.groups[b]):
        if next_vnf(s, b, g) == v and servable(s, b, g, d, s.step[b] * 1.0):
            return w.uninstalled_needed
    return 0.0


@numba.njit(cache=True)
def _allocate(s: State, b: int, d: int, v: int, w: RewardWeights) -> float:
    if not has_room(s, b, d, v):
        s.totals.invalid[b] += 1
        return w.invalid
    waiting = np.empty(s.groups[b], dtype=np.int64)
    count = 0
    for g in range(s.groups[b]):
        if next_vnf(s, b, g) == v and servable(s, b, g, d, s.step[b] * 1.0):
            waiting[count] = g
            count += 1
    if count == 0:
        s.totals.invalid[b] += 1
        return w.invalid
    if s.idle[b, d, v] > 0:
        s.idle[b, d, v] -= 1
    else:
        s.installed[b, d, v] += 1
        s.storage_free[b, d] -= STORAGE_TABLE[v]
    s.cpu_free[b, d] -= CPU_TABLE[v]
    s.ram_free[b, d] -= RAM_TABLE[v]
    s.totals.cpu_ms[b] += CPU_TABLE[v]
    s.totals.ram_gb_ms[b] += RAM_TABLE[v]
    return w.satisfied * _serve(s, b, d, v, waiting[:count])


@numba.njit(cache=True)
def _serve(s: State, b: int, d: int, v: int, waiting: IntArray) -> int:
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
        _sort_in(s, b, alive)
    if satisfied > 0:
        _forget_finished(s, b)
    return satisfied


@numba.njit(cache=True)
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


@numba.njit(cache=True)
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


@numba.njit(cache=True)
def _copy(s: State, b: int, source: int, target: int) -> None:
    s.bundle[b, target] = s.bundle[b, source]
    s.size[b, target] = s.size[b, source]
    s.stage[b, target] = s.stage[b, source]
    s.place[b, target] = s.place[b, source]
    s.ready_ms[b, target] = s.ready_ms[b, source]


@numba.njit(cache=True)
def _sort_in(s: State, b: int, alive: int) -> None:
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


@numba.njit(cache=True)
def _forget_finished(s: State, b: int) -> None:
    kept = 0
    for g in range(s.groups[b]):
        if s.stage[b, g] < LENGTH_TABLE[s.kind[b, s.bundle[b, g]]]:
            _copy(s, b, g, kept)
            kept += 1
    s.groups[b] = kept


@numba.njit(cache=True)
def _advance(s: State, b: int, w: RewardWeights) -> float:
    """End the step; the reward of what it ends with."""
    stored = 0.0
    for d in range(s.centres[b]):
        for v in range(VNFS):
            stored += s.installed[b, d, v] * STORAGE_TABLE[v]
    s.totals.storage_gb_ms[b] += stored
    s.step[b] += 1
    dropped = _drop(s, b)
    begin_step(s, b)
    return dropped * w.dropped + stored * w.storage_gb_ms


@numba.njit(cache=True)
def _drop(s: State, b: int) -> int:
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


@numba.njit(cache=True)
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


@numba.njit(cache=True)
def begin_step(s: State, b: int) -> None:
    """Requests arrive, data centres are free, and the order of turns is made."""
    alive = s.groups[b]
    while s.arrived[b] < s.bundles[b] and s.arrival[b, s.arrived[b]] <= s.step[b]:
        _enter(s, b, s.arrived[b], alive)
        s.arrived[b] += 1
        alive += 1
    _sort_in(s, b, alive)
    s.done[b] = alive == 0 and s.arrived[b] == s.bundles[b]
    s.turn[b] = 0
    s.actions[b] = 0
    count = s.centres[b]
    s.link_free[b, :, :] = LINK_MBPS
    urgency = np.zeros(count)
    for g in range(s.groups[b]):
        urgency[s.place[b, g]] += s.size[b, g] / max(time_left_ms(s, b, g), 1.0)
    for d in range(count):
        s.cpu_free[b, d] = s.cpu[b, d]
        s.ram_free[b, d] = RAM_CAPACITY_GB
        for v in range(VNFS):
            s.idle[b, d, v] = s.installed[b, d, v]
        at = d  # insertion sort: equal ones stay in order of number
        while at > 0 and urgency[s.order[b, at - 1]] < urgency[d]:
            s.order[b, at] = s.order[b, at - 1]
            at -= 1
        s.order[b, at] = d


@numba.njit(cache=True)
def _enter(s: State, b: int, r: int, g: int) -> None:
    """Make bundle `r` group `g`."""
    s.bundle[b, g] = r
    s.size[b, g] = s.requests[b, r]
    s.stage[b, g] = 0
    s.place[b, g] = s.source[b, r]
    s.ready_ms[b, g] = s.arrival[b, r]


@numba.njit(cache=True)
def act_all(
    s: State, actions: IntArray, w: RewardWeights, masks: BoolArray, rewards: np.ndarray
) -> None:
    """`act` in every episode: actions [B], masks [B, ACTIONS], rewards [B]."""
    for b in range(len(actions)):
        rewards[b] = act(s, b, actions[b], w, masks[b])

