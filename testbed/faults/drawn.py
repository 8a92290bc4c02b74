"""A policy that draws: chains of a campaign lie where the seed puts them."""

from __future__ import annotations

import numpy as np

from testbed.scenario.placement import PlacementObservation
from testbed.scenario.types import Placement


class DrawnPlacement:
    """Puts a primary and its backup on two different servers that live, each equally likely."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """See `agents.common.policy.Policy`; None if fewer than two servers live."""
        o = observation
        free = np.setdiff1d(np.flatnonzero(o.alive), o.members)
        if o.task == "backup":
            return Placement(o.members[0], int(self._rng.choice(free))) if len(free) else None
        if len(free) < 2:
            return None
        primary, backup = self._rng.choice(free, size=2, replace=False)
        return Placement(int(primary), int(backup))
