"""`greedy-delay`: the least delay while there is capacity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.placement.baselines.compose import HEADROOM, answer
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import NS_PER_S, BoolArray, Placement


@dataclass(frozen=True, slots=True)
class GreedyDelayPolicy:
    """Takes the server that adds the least delay while it has capacity left.

    Added delay is the detour on the way to the egress plus the service time at the server. A
    server has capacity while the demand on it stays within `fill` of its speed; if none does,
    within its speed; if none does, all that can host the function are candidates. The backup is
    the nearest other such server.
    """

    fill: float = HEADROOM

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The least delay now; None where no server can host the function."""
        return answer(observation, _least_delay, _nearest, self.fill)


def _least_delay(seen: PlacementObservation, candidates: BoolArray) -> int:
    service_ns = seen.primary_cores / seen.rate_pps * NS_PER_S / seen.capacity_cores
    added_ns = seen.delay_from_previous_ns + seen.delay_to_egress_ns + service_ns
    return int(np.where(candidates, added_ns, np.inf).argmin())


def _nearest(seen: PlacementObservation, primary: int, candidates: BoolArray) -> int:
    return int(np.where(candidates, seen.delay_ns[primary], np.inf).argmin())
