"""A policy is a value: an observation goes in, a decision comes out."""

from __future__ import annotations

from typing import Protocol

from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import Placement


class Policy(Protocol):
    """Decides where one function of a chain and its backup run.

    A heuristic and a learned network are the same thing to whoever asks.
    """

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The nodes for the function that is next, or None to reject the request."""
        ...
