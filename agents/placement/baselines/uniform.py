"""`random`: servers drawn with equal chances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.placement.baselines.compose import answer
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import BoolArray, Placement

_TASKS = ("place", "backup", "move")


@dataclass(frozen=True, slots=True)
class RandomPolicy:
    """Draws a primary and a backup among the servers that have room, each equally likely.

    Unlike `deft` it looks at capacity. What is drawn depends on the seed and on what is asked,
    not on what was asked before.
    """

    seed: int

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """Two different servers; None where none can host the function."""
        o = observation
        asked = [o.request, o.function_index, _TASKS.index(o.task), *o.members]
        rng = np.random.default_rng([self.seed, *asked])

        def drawn(candidates: BoolArray) -> int:
            return int(rng.choice(np.flatnonzero(candidates)))

        return answer(o, lambda _, nodes: drawn(nodes), lambda _, __, nodes: drawn(nodes), 1.0)
