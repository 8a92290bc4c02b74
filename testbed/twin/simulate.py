"""Runs a plan with given placements on the twin and tells what the packets went through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from testbed.scenario.types import NS_PER_S, FloatArray, RunPlan
from testbed.twin.constants import CostWeights, TwinConstants
from testbed.twin.decided import NewBackup, Placements, carry_out, pack_decided
from testbed.twin.kernel import (
    COST,
    DELIVERED,
    HISTOGRAM_BINS,
    HISTOGRAM_HIGH_S,
    HISTOGRAM_LOW_S,
    IN_BOUND,
    LATENCY_S,
    PACKETS,
    rejection_cost,
)
from testbed.twin.pack import pack_plans
from testbed.twin.state import State, World
from testbed.twin.world import make_world


@dataclass(frozen=True, slots=True)
class RequestResult:
    """What the packets of a request went through; a rejected one sends none."""

    request: int
    accepted: bool
    packets: float
    delivered: float
    in_bound: float
    mean_latency_ns: float
    cost: float

    @property
    def loss(self) -> float:
        """Share of the packets that were lost, 0 if none was sent."""
        return 1.0 - self.delivered / self.packets if self.packets > 0 else 0.0


@dataclass(frozen=True, slots=True)
class TwinResult:
    """A run on the twin. `cost` is what learning minimises (see CostWeights).

    utilisation      demand in units of the server's speed, shape [slots, N]
    wait_ns          mean wait at each server, shape [slots, N]
    overload_s       server-seconds with demand above the overload threshold
    histogram        packets delivered by latency, log-spaced bins
    """

    requests: tuple[RequestResult, ...]
    utilisation: FloatArray
    wait_ns: FloatArray
    overload_s: float
    cost: float
    histogram: FloatArray

    @property
    def packets(self) -> float:
        """Packets sent by accepted requests."""
        return sum(request.packets for request in self.requests)

    @property
    def loss(self) -> float:
        """Share of all packets sent that were lost."""
        delivered = sum(request.delivered for request in self.requests)
        return 1.0 - delivered / self.packets if self.packets > 0 else 0.0

    @property
    def mean_latency_ns(self) -> float:
        """Mean latency of delivered packets, NaN if there is none."""
        delivered = sum(r.delivered for r in self.requests)
        total = sum(r.mean_latency_ns * r.delivered for r in self.requests if r.delivered > 0)
        return total / delivered if delivered > 0 else float("nan")

    def latency_ns(self, quantile: float) -> float:
        """The latency that a share `quantile` of the delivered packets does not exceed."""
        return histogram_quantile_ns(self.histogram, quantile)


def histogram_quantile_ns(histogram: FloatArray, quantile: float) -> float:
    """A quantile of a latency histogram (or of a sum of several); NaN if it is empty."""
    total = float(histogram.sum())
    if total <= 0:
        return float("nan")
    bin_ = int(np.searchsorted(np.cumsum(histogram), quantile * total))
    ratio = (min(bin_, HISTOGRAM_BINS - 1) + 0.5) / HISTOGRAM_BINS
    return float(HISTOGRAM_LOW_S * (HISTOGRAM_HIGH_S / HISTOGRAM_LOW_S) ** ratio * NS_PER_S)


def simulate(
    plan: RunPlan,
    placements: Placements,
    constants: TwinConstants | None = None,
    weights: CostWeights | None = None,
    backups: Sequence[NewBackup] = (),
    moves: Sequence[int | None] = (),
) -> TwinResult:
    """Run `plan` with the placements given by request id, and new `backups` in their order.

    `moves` are the nodes to which primaries go, one for each group that could leave an overloaded
    server, in the order in which the twin names them, until one moves; None: it stays. What is
    beyond them stays.

    Raises ValueError for a request that is placed in part or on a node that does not exist.
    """
    return simulate_batch([plan], [placements], constants, weights, [backups], [moves])[0]


def simulate_batch(
    plans: Sequence[RunPlan],
    placements: Sequence[Placements],
    constants: TwinConstants | None = None,
    weights: CostWeights | None = None,
    backups: Sequence[Sequence[NewBackup]] | None = None,
    moves: Sequence[Sequence[int | None]] | None = None,
) -> list[TwinResult]:
    """Run many plans on one substrate; each result equals that of `simulate`, bit for bit.

    What was decided is carried out as it is: admission control is not asked.
    """
    if len(plans) != len(placements):
        raise ValueError(f"{len(placements)} placements for {len(plans)} plans")
    pool = pack_plans(plans)
    nothing: list[Sequence[Any]] = [() for _ in plans]
    decided = pack_decided(pool, placements, backups or nothing, moves or nothing)
    world, state = make_world(pool, len(plans), constants, weights, recording=True)
    carry_out(world, state, decided)
    return results(world, state)


def results(world: World, state: State) -> list[TwinResult]:
    """What a recorded world's environments went through, all of which are over."""
    out, record = [], world.record
    for b in range(len(state.plan)):
        used = int(state.slot[b])
        count = world.plans.requests[state.plan[b]]
        requests = tuple(_request_result(world, state, b, r) for r in range(count))
        rejected = sum(request.cost for request in requests if not request.accepted)
        out.append(
            TwinResult(
                requests=requests,
                utilisation=record.demand[b, :used],
                wait_ns=record.wait_s[b, :used] * NS_PER_S,
                overload_s=float(record.overload_s[b]),
                cost=float(record.cost[b]) + rejected,
                histogram=record.histogram[b],
            )
        )
    return out


def _request_result(world: World, state: State, b: int, r: int) -> RequestResult:
    row, p = world.record.totals[b, r], state.plan[b]
    delivered = float(row[DELIVERED])
    accepted = bool(state.placed[b, r] > 0)
    mean_s = float(row[LATENCY_S]) / delivered if delivered > 0 else float("nan")
    return RequestResult(
        request=int(world.plans.request_id[p, r]),
        accepted=accepted,
        packets=float(row[PACKETS]),
        delivered=delivered,
        in_bound=float(row[IN_BOUND]),
        mean_latency_ns=mean_s * NS_PER_S,
        cost=float(row[COST]) if accepted else float(rejection_cost(world, p, r)),
    )
