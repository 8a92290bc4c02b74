"""The priority heuristic that the learned policy is compared with, and a random one."""

from __future__ import annotations

import numpy as np

from agents.provisioning.batch import Actor, ProvisioningBatch
from agents.provisioning.chains import next_vnf, servable
from agents.provisioning.kernel import has_room
from agents.provisioning.types import VNFS, WAIT, IntArray, State
from testbed.compiled import compiled


def priority_heuristic(batch: ProvisioningBatch) -> IntArray:
    """For each episode: allocate what the most urgent chain needs that is best served here.

    Chains are gone through by deadline. A chain is best served at the data centre that adds least
    propagation (to it, and from it to the destination) among those whose turn it is or is still to
    come and that can run its next VNF; of equal ones, at one that has an idle instance. Waits when
    there is no such chain. Never uninstalls.
    """
    actions = np.empty(len(batch.done), dtype=np.int64)
    _decide(batch.state, actions)
    return actions


def lean_heuristic(batch: ProvisioningBatch) -> IntArray:
    """As `priority_heuristic`, but it uninstalls what is idle before it ends a turn.

    It shows what storage costs a policy that pays nothing for installing again.
    """
    actions = priority_heuristic(batch)
    _uninstall_idle(batch.state, actions)
    return actions


def random_actions(rng: np.random.Generator) -> Actor:
    """A valid action, drawn uniformly."""

    def actor(batch: ProvisioningBatch) -> IntArray:
        mask = batch.observe().mask
        drawn = rng.random(mask.shape)
        chosen: IntArray = np.where(mask, drawn, -1.0).argmax(axis=1)
        return chosen

    return actor


@compiled
def _decide(s: State, actions: IntArray) -> None:
    for b in range(len(actions)):
        actions[b] = WAIT if s.done[b] else _decide_one(s, b)


@compiled
def _decide_one(s: State, b: int) -> int:
    here = s.order[b, s.turn[b]]
    now_ms = s.step[b] * 1.0
    for g in range(s.groups[b]):
        v = next_vnf(s, b, g)
        if has_room(s, b, here, v) and servable(s, b, g, here, now_ms) and _best_here(s, b, g, v):
            return v
    return WAIT


@compiled
def _uninstall_idle(s: State, actions: IntArray) -> None:
    for b in range(len(actions)):
        if s.done[b] or actions[b] != WAIT:
            continue
        here = s.order[b, s.turn[b]]
        for v in range(VNFS):
            if s.idle[b, here, v] > 0:
                actions[b] = VNFS + v
                break


@compiled
def _best_here(s: State, b: int, g: int, v: int) -> bool:
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
