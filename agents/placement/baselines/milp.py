"""`milp`: every arriving chain where it is best in the present state, by an exact solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from agents.placement.baselines.chain_cost import ChainVariables, StaticCost, Stretch, add_chain
from agents.placement.baselines.compose import answer
from agents.placement.baselines.program import IntArray, Program
from testbed.decisions.placement import PlacementObservation, refusal
from testbed.scenario.types import (
    NS_PER_S,
    BoolArray,
    FloatArray,
    FunctionName,
    FunctionProfile,
    Placement,
)


@dataclass(slots=True)
class MilpPolicy:
    """Places a whole chain at its arrival, primaries and backups jointly, at the least cost.

    The cost is the twin's without its queues (`StaticCost`), subject to memory and capacity; a
    request whose chain and backups do not fit is rejected. Without admission control demand may
    exceed the capacity, which costs what the lost packets do. The functions after the first get
    what was solved for them; if the state is another by then, the rest of the chain is solved
    again. A new backup or the move of a primary is a single choice: the node of the least cost.

    `profiles` say what the functions to come will need.
    """

    profiles: Mapping[FunctionName, FunctionProfile]
    static: StaticCost = field(default_factory=StaticCost)
    _solved: tuple[int, tuple[Placement, ...]] = (-1, ())
    """The last request and the placements of its chain."""

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The placement of the next function in the cheapest one of the chain."""
        o = observation
        if o.task != "place":
            return answer(o, self._cheapest_primary, self._cheapest_backup, 1.0)
        index = o.function_index
        request, placements = self._solved
        known = 0 < index < len(placements) and request == o.request
        if not known or o.placed != placements[:index] or _impossible(o, placements[index]):
            placements = (*o.placed, *self._solve(o))
            self._solved = o.request, placements
        return placements[index] if index < len(placements) else None

    def _solve(self, seen: PlacementObservation) -> tuple[Placement, ...]:
        """Placements of this function and those after it; nothing if there is no place."""
        functions = [self.profiles[name] for name in seen.functions[seen.function_index :]]
        here = seen.placed[-1].primary if seen.placed else seen.source
        work = seen.rate_pps / NS_PER_S
        stretch = Stretch(
            self.static.of_delay(seen.rate_pps, seen.delay_bound_ns),
            here,
            seen.destination,
            np.array([each.service_ns for each in functions], dtype=np.float64),
            np.array([each.service_ns * work for each in functions]),
            np.array([each.backup_service_ns * work for each in functions]),
            np.array([each.memory_bytes for each in functions], dtype=np.float64),
        )
        least = stretch.memory_bytes.min()
        allowed: BoolArray = seen.alive & (seen.memory_free_bytes >= least)
        if not allowed.any() or (seen.admission and allowed.sum() <= seen.backups):
            return ()
        program = Program()
        chain = add_chain(
            program, stretch, allowed, seen.capacity_cores, seen.delay_ns, self.static, 1.0,
            backups=seen.backups,
        )  # fmt: skip
        _limit(program, chain, stretch, seen, self.static)
        found = program.solve().values
        return () if found is None else read_chain(chain, found)

    def _cheapest_primary(self, seen: PlacementObservation, candidates: BoolArray) -> int:
        price = self.static.of_delay(seen.rate_pps, seen.delay_bound_ns)
        service_ns = seen.primary_cores / seen.rate_pps * NS_PER_S / seen.capacity_cores
        path_ns = seen.delay_from_previous_ns + seen.delay_to_egress_ns + service_ns
        trips_ns = 2.0 * self.static.constants.commit_round_trips * seen.delay_ns
        path_ns = path_ns + trips_ns[list(seen.members[1:2])].sum(axis=0)
        cost = price * path_ns + self._crowding(seen, seen.primary_cores)
        return int(np.where(candidates, cost, np.inf).argmin())

    def _cheapest_backup(
        self, seen: PlacementObservation, primary: int, candidates: BoolArray
    ) -> int:
        price = self.static.of_delay(seen.rate_pps, seen.delay_bound_ns)
        trip_ns = 2.0 * self.static.constants.commit_round_trips * seen.delay_ns[primary]
        cost = price * trip_ns + self._crowding(seen, seen.backup_cores)
        return int(np.where(candidates, cost, np.inf).argmin())

    def _crowding(self, seen: PlacementObservation, cores: float) -> FloatArray:
        """What `cores` more would cost on each node by the head-room that they take, [N]."""
        weights = self.static.weights
        before = np.maximum(seen.used_cores / seen.capacity_cores - weights.headroom_from, 0.0)
        after = (seen.used_cores + cores) / seen.capacity_cores - weights.headroom_from
        crowding: FloatArray = weights.headroom * (np.maximum(after, 0.0) - before)
        return crowding


def read_chain(chain: ChainVariables, values: FloatArray) -> tuple[Placement, ...]:
    """The placements that the values of a chain's variables stand for."""
    primaries = values[chain.primary].argmax(axis=1)
    backups = values[chain.backup].argmax(axis=1)
    if len(backups) == 0:
        return tuple(Placement(int(node), None) for node in primaries)
    others = [tuple(map(int, np.flatnonzero(row > 0.5))) for row in values[chain.others]]
    others = others or [()] * len(primaries)
    members = zip(primaries, backups, others, strict=True)
    return tuple(Placement(int(a), int(b), more) for a, b, more in members)


def _impossible(seen: PlacementObservation, choice: Placement) -> bool:
    nodes = list(choice.nodes)
    down = not seen.alive[nodes].all()
    short = (seen.memory_free_bytes[nodes] < seen.memory_bytes).any()
    return bool(down or short or refusal(seen, choice) is not None)


def _limit(
    program: Program,
    chain: ChainVariables,
    stretch: Stretch,
    seen: PlacementObservation,
    static: StaticCost,
) -> None:
    """Memory, capacity and head-room of every node."""
    nodes, weights = len(seen.capacity_cores), static.weights
    members, cores, memory = demands(chain, stretch)
    program.rows(members, memory, -np.inf, np.maximum(seen.memory_free_bytes, 0.0))
    packet_cores = stretch.service_ns.mean() / NS_PER_S
    limit = 0.0 if seen.admission else np.inf
    excess = program.variables((nodes, 1), weights.loss / packet_cores, limit)
    room = np.maximum(seen.capacity_cores - seen.used_cores, 0.0)
    program.rows(np.hstack([members, excess]), [*cores, -1.0], -np.inf, room)
    price = weights.headroom / seen.capacity_cores[:, None]
    crowding = program.variables((nodes, 1), price, np.inf)
    below = weights.headroom_from * seen.capacity_cores - seen.used_cores
    program.rows(np.hstack([members, crowding]), [*cores, -1.0], -np.inf, below)


def demands(chain: ChainVariables, stretch: Stretch) -> tuple[IntArray, FloatArray, FloatArray]:
    """The chain's primaries and backups by node [N, K], and the cores and memory of each [K]."""
    kinds = (len(chain.backup) > 0) + (len(chain.others) > 0)
    members = np.concatenate([chain.primary, chain.backup, chain.others]).T
    cores = [stretch.primary_cores] + [stretch.backup_cores] * kinds
    memory = [stretch.memory_bytes] * (1 + kinds)
    return members, np.concatenate(cores), np.concatenate(memory)
