"""`milp-hindsight`: what could be had by who knows all requests of a plan beforehand. A bound.

One programme for the whole plan, so it is for small cases: it grows with requests x functions x
nodes^2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from agents.placement.baselines.chain_cost import ChainVariables, StaticCost, Stretch, add_chain
from agents.placement.baselines.compose import answer
from agents.placement.baselines.milp import demands, read_chain
from agents.placement.baselines.program import IntArray, Program
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.errors import RunError
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.types import (
    NS_PER_S,
    BoolArray,
    FloatArray,
    Placement,
    Request,
    RunPlan,
    load_factor,
)

LIMIT_S = 120.0
"""For each of the two searches: for how many requests, and for how little cost."""
GAP = 1e-3
"""The static cost is at most this share above the least."""


@dataclass(frozen=True, slots=True)
class Hindsight:
    """The plan's best placements, found with all its requests, load steps and faults known.

    `accepted_bound`: no policy accepts more requests of the plan under admission control (all of
    them without), as long as primaries stay where they are: who moves them away from overloaded
    servers may. `placements` accept so many if `optimal`, and cost the least static cost
    (`StaticCost`) that this allows; the search stopped at its time limit if not.
    """

    placements: Mapping[int, tuple[Placement, ...] | None]
    accepted_bound: int
    optimal: bool


@dataclass(frozen=True, slots=True)
class HindsightPolicy:
    """Answers with the placements of a `Hindsight`; a new backup goes to the nearest server."""

    known: Hindsight

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """What was found for this function of this request; a primary stays where it is."""
        o = observation
        if o.task == "backup":
            return answer(o, _unasked, _nearest, 1.0)
        placements = self.known.placements.get(o.request)
        return None if o.task == "move" or placements is None else placements[o.function_index]


class _Chain(NamedTuple):
    request: Request
    stretch: Stretch
    accepted: IntArray
    variables: ChainVariables
    uses: IntArray | None
    """[N]: 1 where the chain has an instance; None where nothing depends on it."""


def solve_hindsight(
    plan: RunPlan,
    drain_ns: int,
    static: StaticCost | None = None,
    limit_s: float | None = LIMIT_S,
) -> Hindsight:
    """Accept as many requests as can be, at the least static cost that allows over their lives.

    The book is the ledger's: a request is in it from its arrival until `drain_ns` after its end,
    with as many backups of each function as the plan says. Once a server's death is detected
    (`static.constants.detection_ns` later) its backups count as primaries; until then it takes what
    others do. With admission control a request needs all of its backups, and may use a server only
    if the demand there, itself included, is within the capacity at that moment (later load steps
    may exceed it, as they may for every policy). Memory is kept to always. Replacements of lost
    backups are not foreseen. Raises RunError if the time limit passes before any placement is
    found.
    """
    static = static or StaticCost()
    program = Program()
    requests = sorted(plan.requests, key=lambda each: (each.arrival_ns, each.id))
    chains = _add_chains(program, plan, requests, static)
    for number, chain in enumerate(chains):
        present = [
            each
            for each in chains[: number + 1]
            if each.request.end_ns + drain_ns > chain.request.arrival_ns
        ]
        _limit_arrival(program, plan, chain, present, static)
    whether = np.array([chain.accepted for chain in chains])
    bound, optimal = len(chains), True
    if plan.admission:
        most = program.solve(limit_s, 0.9 / len(chains), most_of=whether)
        bound, optimal = int(np.floor(-most.bound + 1e-6)), most.optimal
        program.rows(whether, 1.0, np.round(-most.objective), np.inf)
    _add_crowding(program, plan, chains, static)
    cheapest = program.solve(limit_s, GAP)
    if cheapest.values is None:
        raise RunError(f"no placement of plan {plan.seed} was found within {limit_s} s")
    placements = {
        chain.request.id: read_chain(chain.variables, cheapest.values)
        if cheapest.values[chain.accepted] > 0.5
        else None
        for chain in chains
    }
    return Hindsight(placements, bound, optimal and cheapest.optimal)


def _add_chains(
    program: Program, plan: RunPlan, requests: Sequence[Request], static: StaticCost
) -> list[_Chain]:
    delay_ns = delay_matrix_ns(plan.topology)
    capacity = np.array([server.cpu_cores for server in plan.servers])
    chains = []
    for request in requests:
        stretch = _stretch(plan, request, static)
        known, dead = _known_dead(plan, request.arrival_ns, static), _dead(plan, request.arrival_ns)
        allowed, seconds = ~known, _traffic_s(plan, request)
        loss_cost = static.weights.loss * request.rate_pps * seconds
        lost: FloatArray = np.where(dead, loss_cost, 0.0)
        can = not plan.admission or allowed.sum() > plan.backups
        accepted = program.variables((1,), 0.0, float(can), integer=True)
        if not plan.admission:
            program.rows(accepted, 1.0, 1.0, 1.0)
        variables = add_chain(
            program, stretch, allowed, capacity, delay_ns, static, seconds, accepted,
            plan.backups, lost,
        )  # fmt: skip
        uses = _add_uses(program, plan, request, variables) if plan.admission else None
        chains.append(_Chain(request, stretch, accepted[0], variables, uses))
    return chains


def _stretch(plan: RunPlan, request: Request, static: StaticCost) -> Stretch:
    """The whole chain of a request, at its rate before any load step."""
    profiles = [plan.profiles[name] for name in request.functions]
    work = request.rate_pps / NS_PER_S
    return Stretch(
        static.of_delay(request.rate_pps, request.delay_bound_ns),
        request.source,
        request.destination,
        np.array([each.service_ns for each in profiles], dtype=np.float64),
        np.array([each.service_ns * work for each in profiles]),
        np.array([each.backup_service_ns * work for each in profiles]),
        np.array([each.memory_bytes for each in profiles], dtype=np.float64),
    )


def _add_uses(
    program: Program, plan: RunPlan, request: Request, variables: ChainVariables
) -> IntArray | None:
    """Whether a chain has an instance at a node; only where capacity could be exceeded before."""
    if _only_filled_by_arrivals(plan, request.arrival_ns):
        return None
    nodes = len(plan.servers)
    uses = program.variables((nodes,), 0.0, 1.0)
    for member in (*variables.primary, *variables.backup, *variables.others):
        program.rows(np.stack([member, uses], axis=1), [1.0, -1.0], -np.inf, 0.0)
    return uses


def _only_filled_by_arrivals(plan: RunPlan, at_ns: int) -> bool:
    """Whether demand on a server has so far grown by arrivals alone: no rise in load, no death."""
    factors = [1.0] + [factor for start_ns, factor in plan.load_steps if start_ns <= at_ns]
    rises = any(after > before for before, after in pairwise(factors))
    return not rises and not any(fault.at_ns <= at_ns for fault in plan.faults)


def _limit_arrival(
    program: Program,
    plan: RunPlan,
    arriving: _Chain,
    present: Sequence[_Chain],
    static: StaticCost,
) -> None:
    """Memory, and with admission control capacity, of every node when a request arrives."""
    at_ns = arriving.request.arrival_ns
    dead = _known_dead(plan, at_ns, static)
    members, cores, memory = _load(dead, present)
    server_bytes = np.array([server.memory_bytes for server in plan.servers], dtype=np.float64)
    program.rows(members, memory, -np.inf, np.where(dead, np.inf, server_bytes))
    if not plan.admission:
        return
    capacity = np.array([server.cpu_cores for server in plan.servers])
    cores = cores * load_factor(plan, at_ns)
    if arriving.uses is None:
        program.rows(members, cores, -np.inf, np.where(dead, np.inf, capacity))
        return
    # A server that is over its capacity already is no obstacle to who does not use it.
    most = float(cores.clip(min=0.0).sum())
    for node in np.flatnonzero(~dead):
        row = np.concatenate([members[node], arriving.uses[node : node + 1]])
        program.rows(row, [*cores, most], -np.inf, capacity[node] + most)


def _load(dead: BoolArray, present: Sequence[_Chain]) -> tuple[IntArray, FloatArray, FloatArray]:
    """All instances that a node may have [N, K], and the cores and memory of each [K].

    The first backups of primaries on `dead` servers [N] work as primaries: each pair of the two
    adds what a primary costs more.
    """
    died = np.flatnonzero(dead)
    tables, cores, memory = [], [], []
    for chain in present:
        members, each_cores, each_memory = demands(chain.variables, chain.stretch)
        tables.append(members)
        cores.append(each_cores)
        memory.append(each_memory)
        more = chain.stretch.primary_cores - chain.stretch.backup_cores
        for node in died if len(chain.variables.pair) else ():
            tables.append(chain.variables.pair[:, node, :].T)
            cores.append(more)
            memory.append(np.zeros(len(more)))
    return np.hstack(tables), np.concatenate(cores), np.concatenate(memory)


def _add_crowding(
    program: Program, plan: RunPlan, chains: Sequence[_Chain], static: StaticCost
) -> None:
    """Cost of demand above the head-room and above the capacity, between any two changes."""
    capacity = np.array([server.cpu_cores for server in plan.servers])
    nodes, weights = len(capacity), static.weights
    for from_ns, to_ns in _segments(plan):
        present = [c for c in chains if c.request.start_ns <= from_ns and c.request.end_ns >= to_ns]
        if not present:
            continue
        seconds = (to_ns - from_ns) / NS_PER_S
        dead = _dead(plan, from_ns)
        members, cores, _ = _load(dead, present)
        cores = cores * load_factor(plan, from_ns)
        services = np.concatenate([chain.stretch.service_ns for chain in present])
        excess_cost = weights.loss / (services.mean() / NS_PER_S) * seconds
        for cost, limit in (
            (weights.headroom * seconds / capacity, weights.headroom_from * capacity),
            (np.full(nodes, excess_cost), capacity),
        ):
            above = program.variables((nodes, 1), cost[:, None], np.inf)
            rows = np.hstack([members, above])
            program.rows(rows, [*cores, -1.0], -np.inf, np.where(dead, np.inf, limit))


def _segments(plan: RunPlan) -> list[tuple[int, int]]:
    """From one change of the traffic or the servers to the next."""
    times = {time for each in plan.requests for time in (each.start_ns, each.end_ns)}
    times |= {start_ns for start_ns, _ in plan.load_steps} | {fault.at_ns for fault in plan.faults}
    ordered = sorted(time for time in times if 0 <= time <= plan.duration_ns)
    return list(pairwise(ordered))


def _traffic_s(plan: RunPlan, request: Request) -> float:
    """For how long a request sends, counting each second by the load factor."""
    times = [request.start_ns, request.end_ns]
    times += [at for at, _ in plan.load_steps if request.start_ns < at < request.end_ns]
    ordered = sorted(times)
    return sum(
        (after - before) * load_factor(plan, before) / NS_PER_S
        for before, after in pairwise(ordered)
    )


def _dead(plan: RunPlan, at_ns: int) -> BoolArray:
    dead = np.zeros(len(plan.servers), dtype=np.bool_)
    dead[[fault.node for fault in plan.faults if fault.at_ns <= at_ns]] = True
    return dead


def _known_dead(plan: RunPlan, at_ns: int, static: StaticCost) -> BoolArray:
    """The servers whose death is detected by a time."""
    return _dead(plan, at_ns - round(static.constants.detection_ns))


def _unasked(seen: PlacementObservation, candidates: BoolArray) -> int:
    raise AssertionError("a new backup needs no new primary")


def _nearest(seen: PlacementObservation, primary: int, candidates: BoolArray) -> int:
    return int(np.where(candidates, seen.delay_ns[primary], np.inf).argmin())
