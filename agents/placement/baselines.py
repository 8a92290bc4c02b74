"""The heuristics that a learned placement is compared with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from testbed.scenario.placement import BoolArray, PlacementObservation
from testbed.scenario.types import NS_PER_S, Placement


@dataclass(frozen=True, slots=True)
class DeftPolicy:
    """Places as DEFT does: without looking at load, capacity or path.

    The primary is a stable hash of (request, function) over the servers that are up, the backup
    any other of them, drawn from a generator seeded by (seed, request, function). A primary stays
    where it is.
    """

    seed: int

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """A hashed primary and a random backup; None where no server is up."""
        o = observation
        alive = np.flatnonzero(o.alive)
        if o.task == "move" or len(alive) == 0:
            return None
        drawn = [self.seed, o.request, o.function_index]
        if o.task == "backup":
            primary = o.members[0]
            drawn.append(len(o.members))
        else:
            digest = hashlib.sha256(f"{o.request}:{o.function_index}".encode()).digest()
            primary = int(alive[int.from_bytes(digest[:8], "big") % len(alive)])
        others = np.setdiff1d(alive, [primary, *o.members])
        if len(others) == 0:
            return Placement(primary, None)
        return Placement(primary, int(np.random.default_rng(drawn).choice(others)))


@dataclass(frozen=True, slots=True)
class GreedyDelayPolicy:
    """Takes the server that adds the least delay while it has capacity left.

    Added delay is the detour on the way to the egress plus the service time at the server. A
    server has capacity while the demand on it stays within `fill` of its speed; if none does,
    all that can host the function are candidates. The backup is the nearest other such server.
    """

    fill: float = 0.8

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The least delay now; None where no server can host the function."""
        o = observation
        fits = o.alive & (o.memory_free_bytes >= o.memory_bytes)
        fits[list(o.members)] = False
        if not fits.any():
            return None
        if o.task == "backup":
            primary = o.members[0]
        else:
            service_ns = o.primary_cores / o.rate_pps * NS_PER_S / o.capacity_cores
            added_ns = o.delay_from_previous_ns + o.delay_to_egress_ns + service_ns
            candidates = self._with_capacity(fits, o, o.primary_cores)
            primary = int(np.where(candidates, added_ns, np.inf).argmin())
            fits[primary] = False
        if not fits.any():
            return Placement(primary, None)
        candidates = self._with_capacity(fits, o, o.backup_cores)
        distance_ns = np.where(candidates, o.delay_ns[primary], np.inf)
        return Placement(primary, int(distance_ns.argmin()))

    def _with_capacity(
        self, fits: BoolArray, observation: PlacementObservation, cores: float
    ) -> BoolArray:
        limit = self.fill * observation.capacity_cores
        roomy: BoolArray = fits & (observation.used_cores + cores <= limit)
        return roomy if roomy.any() else fits
