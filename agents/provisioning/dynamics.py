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

import numpy as np

from agents.provisioning.chains import drop, enter, next_vnf, servable, serve, sort_in, time_left_ms
from agents.provisioning.reward import RewardWeights
from agents.provisioning.types import (
    ACTIONS_A_STEP,
    CPU,
    LINK_MBPS,
    RAM_CAPACITY_GB,
    RAM_GB,
    STORAGE_GB,
    VNFS,
    WAIT,
    BoolArray,
    IntArray,
    State,
)
from testbed.compiled import compiled

CPU_TABLE, RAM_TABLE, STORAGE_TABLE = np.array(CPU), np.array(RAM_GB), np.array(STORAGE_GB)


@compiled
def has_room(s: State, b: int, d: int, v: int) -> bool:
    """Whether data centre `d` can run one more instance of `v` in this step."""
    if s.cpu_free[b, d] < CPU_TABLE[v] or s.ram_free[b, d] < RAM_TABLE[v]:
        return False
    return s.idle[b, d, v] > 0 or s.storage_free[b, d] >= STORAGE_TABLE[v]


@compiled
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


@compiled
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


@compiled
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


@compiled
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


@compiled
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
    return w.satisfied * serve(s, b, d, v, waiting[:count])


@compiled
def _advance(s: State, b: int, w: RewardWeights) -> float:
    """End the step; the reward of what it ends with."""
    stored = 0.0
    for d in range(s.centres[b]):
        for v in range(VNFS):
            stored += s.installed[b, d, v] * STORAGE_TABLE[v]
    s.totals.storage_gb_ms[b] += stored
    s.step[b] += 1
    dropped = drop(s, b)
    begin_step(s, b)
    return dropped * w.dropped + stored * w.storage_gb_ms


@compiled
def begin_step(s: State, b: int) -> None:
    """Requests arrive, data centres are free, and the order of turns is made."""
    alive = s.groups[b]
    while s.arrived[b] < s.bundles[b] and s.arrival[b, s.arrived[b]] <= s.step[b]:
        enter(s, b, s.arrived[b], alive)
        s.arrived[b] += 1
        alive += 1
    sort_in(s, b, alive)
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


@compiled
def act_all(
    s: State, actions: IntArray, w: RewardWeights, masks: BoolArray, rewards: np.ndarray
) -> None:
    """`act` in every episode: actions [B], masks [B, ACTIONS], rewards [B]."""
    for b in range(len(actions)):
        rewards[b] = act(s, b, actions[b], w, masks[b])
