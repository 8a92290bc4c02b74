"""How long a policy takes to decide."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from testbed.decisions.placement import PlacementObservation
from testbed.decisions.policy import Policy
from testbed.statistics.quantiles import quantile_of

WARM_UP = 20
"""Decisions before those that count: first calls allocate and load what is compiled."""


class DecisionTimes(NamedTuple):
    """Wall-clock time from an observation to the decision, in microseconds."""

    p50_us: float
    p99_us: float


def decision_times(policy: Policy, observations: Sequence[PlacementObservation]) -> DecisionTimes:
    """Let `policy` decide each observation once, one after another, after a few to warm up.

    Raises ValueError if there is none.
    """
    if not observations:
        raise ValueError("observations = []: expected at least one")
    for number in range(WARM_UP):
        policy.decide(observations[number % len(observations)])
    taken_ns = np.empty(len(observations), np.int64)
    for number, observation in enumerate(observations):
        begin_ns = time.perf_counter_ns()
        policy.decide(observation)
        taken_ns[number] = time.perf_counter_ns() - begin_ns
    p50_ns, p99_ns = (quantile_of(taken_ns, share) for share in (0.5, 0.99))
    return DecisionTimes(p50_ns / 1e3, p99_ns / 1e3)
