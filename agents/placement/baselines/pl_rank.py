"""`pl-rank`: node ranking by resources and proximity, the strong heuristic of the literature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.placement.baselines.compose import answer
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import BoolArray, FloatArray, Placement

NEAREST_NS = 1e6
"""Distances below this make no difference: it stands in for 0 where ranks are divided by them."""


@dataclass(frozen=True, slots=True)
class PlRankPolicy:
    """Ranks servers by resources over their distance to what the chain has already.

    Node proximity sensing of Fan et al. (Efficient Virtual Network Embedding of Cloud-Based Data
    Center Networks into Optical Networks, IEEE TPDS 32(11), 2021), as Virne implements it: rank =
    resources / sum of distances to the nodes that were chosen before, where resources are the
    Network Resource Metric of Zhang et al. (IEEE IoT Journal 5(5), 2018): free CPU x free rate of
    the adjacent links. Here the ends of a chain are given, so they count as chosen; distances are
    path delays, not hops; links are never what is scarce, so closeness (Freeman, 1978) takes the
    place of their free rate. A backup is ranked by its distance to its primary.
    """

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The highest ranks among the servers with room."""
        return answer(observation, _primary, _backup)


def _primary(seen: PlacementObservation, candidates: BoolArray) -> int:
    chosen = [seen.source, seen.destination, *(placed.primary for placed in seen.placed)]
    return _highest(seen, seen.primary_cores, chosen, candidates)


def _backup(seen: PlacementObservation, primary: int, candidates: BoolArray) -> int:
    return _highest(seen, seen.backup_cores, [primary], candidates)


def _highest(
    seen: PlacementObservation, cores: float, chosen: Sequence[int], candidates: BoolArray
) -> int:
    distance_ns = seen.delay_ns[:, chosen].sum(axis=1)
    free = np.maximum(seen.capacity_cores - seen.used_cores - cores, 0.0)
    # Where nobody has room left, the least overfull comes first, far behind those that have.
    short = np.minimum(seen.capacity_cores - seen.used_cores - cores, 0.0)
    rank = free * _closeness(seen.delay_ns) / np.maximum(distance_ns, NEAREST_NS)
    return int(np.where(candidates, np.where(free > 0.0, rank, short), -np.inf).argmax())


def _closeness(delay_ns: FloatArray) -> FloatArray:
    closeness: FloatArray = 1.0 / np.maximum(delay_ns.mean(axis=1), NEAREST_NS)
    return closeness
