"""Draws the data centres and the requests of an episode.

Where the paper is silent: data centres lie uniformly in a square, every pair has a link of its own
whose delay is the light's way in fibre, and each bundle goes from one data centre to another (or
the same), both drawn uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.provisioning.types import (
    ARRIVAL_EVERY,
    BUNDLE,
    RATE_MBPS,
    TYPES,
    FloatArray,
    Stream,
)
from testbed.scenario.errors import InputError

FIBRE_KM_PER_MS = 200.0


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    """What streams are drawn from; integers are drawn uniformly from [least, most]."""

    centres: tuple[int, int] = (2, 8)
    cpu: tuple[int, int] = (12, 120)
    side_km: float = 400.0
    """Of the square: 1 ms of propagation on average, 2.8 ms at most."""
    arrival_steps: int = 100
    """Bundles arrive before this step; the episode goes on until the last chain's fate is known."""
    load: tuple[float, float] = (1.0, 1.0)
    """Factor on the sizes of the bundles; a stream has one, drawn uniformly from [least, most]."""

    def __post_init__(self) -> None:
        """InputError for ranges out of which nothing can be drawn."""
        for field, (least, most) in (("centres", self.centres), ("cpu", self.cpu)):
            if not 1 <= least <= most:
                raise InputError(field, [least, most], "[least, most] with 1 <= least <= most")
        if self.arrival_steps < 1:
            raise InputError("arrival_steps", self.arrival_steps, "at least 1")
        if not 0.0 < self.load[0] <= self.load[1] < np.inf:
            raise InputError("load", list(self.load), "[least, most] with 0 < least <= most")

    @property
    def bundles(self) -> int:
        """Bundles of a stream."""
        return -(-self.arrival_steps // ARRIVAL_EVERY) * TYPES


def draw_stream(config: GeneratorConfig, seed: tuple[int, ...]) -> Stream:
    """The stream of a seed; the same seed gives the same stream."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(config.centres[0], config.centres[1] + 1))
    cpu = rng.integers(config.cpu[0], config.cpu[1] + 1, count).astype(np.float64)
    delay_ms = _delays(rng.uniform(0.0, config.side_km, (count, 2)))
    sets = config.bundles // TYPES
    least, most = np.array(BUNDLE).T
    sizes = rng.integers(least, most + 1, (sets, TYPES)) * rng.uniform(*config.load)
    ends = rng.integers(0, count, (2, config.bundles))
    kind = np.tile(np.arange(TYPES), sets)
    slow, fast = np.array(RATE_MBPS).T
    return Stream(
        cpu=cpu,
        delay_ms=delay_ms,
        kind=kind,
        requests=np.maximum(1, np.rint(sizes).astype(np.int64)).ravel(),
        source=ends[0],
        destination=ends[1],
        rate_mbps=rng.uniform(slow[kind], fast[kind]),
        arrival=np.repeat(np.arange(sets) * ARRIVAL_EVERY, TYPES),
    )


def _delays(at_km: FloatArray) -> FloatArray:
    apart_km: FloatArray = np.linalg.norm(at_km[:, None] - at_km[None], axis=-1)
    return apart_km / FIBRE_KM_PER_MS
