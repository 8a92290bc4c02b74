"""The heuristics that learned policies are compared with, and a random one."""

from __future__ import annotations

import numpy as np

from agents.provisioning.batch import Actor, ProvisioningBatch
from agents.provisioning.chains import next_vnf, servable
from agents.provisioning.dynamics import has_room
from agents.provisioning.packing import OFFER, advised, best_here, offers
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


def packing_heuristic(batch: ProvisioningBatch) -> IntArray:
    """Allocates full instances alone, and those nearest to the end of their chains first.

    It lets chains wait that are best served here until they fill an instance, or until one has no
    time to spare (`advised` in packing.py). It uninstalls what is idle before it ends a turn.
    """
    actions = np.empty(len(batch.done), dtype=np.int64)
    _pack(batch.state, actions)
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
def _pack(s: State, actions: IntArray) -> None:
    offered = np.empty((VNFS, OFFER))
    for b in range(len(actions)):
        actions[b] = WAIT
        if not s.done[b]:
            offers(s, b, offered)
            actions[b] = advised(offered)


@compiled
def _decide_one(s: State, b: int) -> int:
    here = s.order[b, s.turn[b]]
    now_ms = s.step[b] * 1.0
    for g in range(s.groups[b]):
        v = next_vnf(s, b, g)
        if has_room(s, b, here, v) and servable(s, b, g, here, now_ms) and best_here(s, b, g, v):
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
