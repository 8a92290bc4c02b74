"""`round-robin`, `first-fit` and `best-fit`: servers in turn, in order, or by their load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.placement.baselines.compose import answer
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import BoolArray, Placement


@dataclass(slots=True)
class RoundRobinPolicy:
    """Each instance goes to the next server with room after the one that had the last."""

    next_node: int = 0

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The next two servers in turn."""
        return answer(
            observation, lambda _, nodes: self._take(nodes), lambda _, __, nodes: self._take(nodes)
        )

    def _take(self, candidates: BoolArray) -> int:
        nodes = np.flatnonzero(candidates)
        later = nodes[nodes >= self.next_node]
        node = int(later[0] if len(later) else nodes[0])
        self.next_node = (node + 1) % len(candidates)
        return node


@dataclass(frozen=True, slots=True)
class FirstFitPolicy:
    """Takes the first server, in the order of their numbers, that has room."""

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The first two servers with room."""
        return answer(
            observation,
            lambda _, nodes: int(nodes.argmax()),
            lambda _, __, nodes: int(nodes.argmax()),
        )


@dataclass(frozen=True, slots=True)
class BestFitPolicy:
    """Takes the server that would have the least utilisation with the function on it."""

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The two least loaded servers."""
        return answer(
            observation,
            lambda seen, nodes: _least_loaded(seen, seen.primary_cores, nodes),
            lambda seen, _, nodes: _least_loaded(seen, seen.backup_cores, nodes),
        )


def _least_loaded(seen: PlacementObservation, cores: float, candidates: BoolArray) -> int:
    load = (seen.used_cores + cores) / seen.capacity_cores
    return int(np.where(candidates, load, np.inf).argmin())
