"""`deft`: placement as DEFT does it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import Placement


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
