"""Sizes of flows and packets: published distributions, and what of them fits the network."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

TABLE_PACKET_BYTES = 1460
"""The payload of a packet in the tables of flow sizes."""
ETHERNET_BYTES = 18
"""Header and checksum around a packet in a frame."""
MIN_L3_BYTES, MAX_L3_BYTES = 56, 1400
"""What a test packet's header needs, and what the user hosts' interfaces take."""
IMIX_FRAMES = ((64, 7), (594, 4), (1518, 1))
"""Simple IMIX: Ethernet frames with checksum, and how many of each."""


@dataclass(frozen=True, slots=True)
class FlowSizes:
    """A distribution of flow sizes: `shares[i]` of the flows have at most `sizes_bytes[i]`."""

    sizes_bytes: FloatArray
    shares: FloatArray

    def quantile_bytes(self, share: FloatArray) -> FloatArray:
        """The size that each share of the flows does not exceed, linear between the points."""
        return np.interp(share, self.shares, self.sizes_bytes)

    @property
    def mean_bytes(self) -> float:
        """The mean size: the integral of the quantile function, by trapezes exactly."""
        middles = (self.sizes_bytes[1:] + self.sizes_bytes[:-1]) / 2
        return float(np.diff(self.shares) @ middles)

    def mean_packets(self, scale: float, payload_bytes: int) -> float:
        """The mean of the packets that a flow of size times `scale` takes.

        A flow has one packet at least. Exact: between two points of the table sizes are uniform.
        """
        sizes = self.sizes_bytes * scale / payload_bytes
        mean = 0.0
        for low, high, share in zip(sizes[:-1], sizes[1:], np.diff(self.shares), strict=True):
            mean += share * _mean_ceiling(float(low), float(high))
        return mean


def _mean_ceiling(low: float, high: float) -> float:
    """The mean of the ceiling of a uniform number between `low` and `high`, at least 1."""
    if high <= low:
        return max(1.0, float(np.ceil(low)))

    def integral(x: float) -> float:
        """Of max(1, ceiling) from 0 to x."""
        whole = np.floor(x)
        return float(whole * (whole + 1) / 2 + (x - whole) * (whole + 1))

    return (integral(high) - integral(low)) / (high - low)


@functools.cache
def flow_sizes(name: str) -> FlowSizes:
    """The distribution `web-search` or `data-mining`, from its table with its source."""
    text = (resources.files("testbed.scenario") / "data" / f"{name}.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    packets = np.array([float(row["packets"]) for row in rows])
    return FlowSizes(packets * TABLE_PACKET_BYTES, np.array([float(row["share"]) for row in rows]))


def imix() -> tuple[tuple[int, float], ...]:
    """(L3 bytes, share) of simple IMIX on this network.

    A frame of 64 bytes holds a packet of 46, which is raised to what a test packet's header needs;
    one of 1518 holds 1500, which is cut to what the interfaces take.
    """
    total = sum(count for _, count in IMIX_FRAMES)
    return tuple(
        (min(max(frame - ETHERNET_BYTES, MIN_L3_BYTES), MAX_L3_BYTES), count / total)
        for frame, count in IMIX_FRAMES
    )
