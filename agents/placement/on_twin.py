"""A policy decides on the twin: what it sees is what the emulation would show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agents.placement.batch import DecisionBatch, ended
from agents.placement.types import TASKS, Observations
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import Placement, Request, RunPlan
from testbed.twin.constants import CostWeights, TwinConstants
from testbed.twin.decided import NewBackup
from testbed.twin.pack import pack_plans
from testbed.twin.simulate import TwinResult, results

Decide = Callable[[PlacementObservation], Placement | None]


@dataclass(frozen=True, slots=True)
class Played:
    """What a policy decided on a plan, and what came of it.

    placements   of each request, with the backups that it got; None if it was rejected
    backups      the new ones that joined, in their order
    moves        the answers to each question about a move, in their order: a node or None
    """

    placements: dict[int, tuple[Placement, ...] | None]
    backups: tuple[NewBackup, ...]
    moves: tuple[int | None, ...]
    result: TwinResult


def play(
    plans: Sequence[RunPlan],
    decides: Sequence[Decide],
    constants: TwinConstants | None = None,
    weights: CostWeights | None = None,
) -> list[Played]:
    """Let `decides[i]` decide all that plan `i` asks for; plans of one substrate."""
    batch = DecisionBatch(
        pack_plans(plans), len(plans), 0, constants, weights, shaped=False, recording=True
    )
    batch.play()
    requests = [sorted(plan.requests, key=lambda r: (r.arrival_ns, r.id)) for plan in plans]
    placed: list[dict[int, list[Placement]]] = [{} for _ in plans]
    backups: list[list[NewBackup]] = [[] for _ in plans]
    moves: list[list[int | None]] = [[] for _ in plans]
    while not ended(batch).all():
        primary, backup = np.full(len(plans), -1), np.full(len(plans), -1)
        seen = batch.observe()
        for b in map(int, np.flatnonzero(~ended(batch))):
            r, f = (int(number) for number in batch.asks.asked[b])
            observation = observation_of(batch, seen, b, requests[b][r])
            choice = decides[b](observation)
            if observation.task == "move":
                goes = choice is not None and batch.would_move(b, choice.primary)
                moves[b].append(choice.primary if choice is not None and goes else None)
            if choice is None:
                continue
            primary[b], backup[b] = choice.primary, -1 if choice.backup is None else choice.backup
            joins = batch.would_join(b, int(backup[b]))
            if observation.task == "place":
                joins = joins and choice.backup != choice.primary
                here = Placement(choice.primary, choice.backup if joins else None)
                placed[b].setdefault(requests[b][r].id, []).append(here)
            elif observation.task == "backup" and joins:
                backups[b].append(NewBackup(requests[b][r].id, f, int(backup[b])))
        batch.step(primary, backup, again=False)
    played = []
    for number, outcome in enumerate(results(batch.world, batch.state)):
        kept = {
            one.request: tuple(placed[number][one.request]) if one.accepted else None
            for one in outcome.requests
        }
        played.append(Played(kept, tuple(backups[number]), tuple(moves[number]), outcome))
    return played


def observation_of(
    batch: DecisionBatch, seen: Observations, b: int, request: Request
) -> PlacementObservation:
    """Row `b` of what a batch shows, as a policy sees it; `request` is what it is about."""
    task = TASKS[batch.asks.task[b]]
    r, f = (int(number) for number in batch.asks.asked[b])
    groups = [_members(batch, b, r, g) for g in range(f)]
    return PlacementObservation(
        task=task,
        members=() if task == "place" else _members(batch, b, r, f).nodes,
        admission=seen.admission,
        backups=batch.pool.backups,
        request=request.id,
        chain=request.chain,
        functions=request.functions,
        function_index=f,
        source=request.source,
        destination=request.destination,
        rate_pps=float(seen.rate_pps[b]),
        primary_cores=float(seen.primary_cores[b]),
        backup_cores=float(seen.backup_cores[b]),
        memory_bytes=int(seen.memory_bytes[b]),
        delay_bound_ns=request.delay_bound_ns,
        delay_left_ns=int(seen.delay_left_ns[b]),
        lifetime_s=float(seen.lifetime_s[b]),
        placed=tuple(groups),
        alive=seen.alive[b].copy(),
        capacity_cores=seen.capacity_cores[b].copy(),
        used_cores=seen.used_cores[b].copy(),
        memory_free_bytes=seen.memory_free_bytes[b].copy(),
        held=seen.held[b].copy(),
        delay_from_previous_ns=seen.delay_from_previous_ns[b].copy(),
        delay_to_egress_ns=seen.delay_to_egress_ns[b].copy(),
        delay_ns=seen.delay_ns,
    )


def _members(batch: DecisionBatch, b: int, r: int, f: int) -> Placement:
    backup = int(batch.state.backup[b, r, f])
    return Placement(int(batch.state.primary[b, r, f]), backup if backup >= 0 else None)
