"""The stamp: what a packet carries through its chain, from the ingress edge to the egress edge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where a packet stands in its flow: `seq` counts from 0 in each `epoch` of its stamper.

    path < 2**24 (its top bits are the shard, see `testbed.scenario.steering`), flow < 2**32,
    bucket < 2**16, epoch < 2**16, seq < 2**64. A flow is named by its base path and `flow`.
    """

    path: int
    flow: int
    bucket: int
    epoch: int
    seq: int
