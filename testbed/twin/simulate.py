"""Runs a plan with given placements on the twin and tells what the packets went through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numba
import numpy as np

from testbed.scenario.placement import FloatArray
from testbed.scenario.types import NS_PER_S, Placement, RunPlan
from testbed.twin.constants import CostWeights, Rates, TwinConstants, make_rates
from testbed.twin.kernel import (
    COST,
    DELIVERED,
    HISTOGRAM_BINS,
    HISTOGRAM_HIGH_S,
    HISTOGRAM_LOW_S,
    IN_BOUND,
    LATENCY_S,
    PACKETS,
    TOTALS,
    rejection_cost,
    run_slots,
    slots_of,
)
from testbed.twin.pack import IntArray, PlanArrays, pack_plans

Placements = Mapping[int, Sequence[Placement] | None]
"""By request id: a placement for each function, or None (or no entry) for a rejected request."""

_QUANTILES = 40
"""How many latencies stand for the packets of a request in a slot."""


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
) -> TwinResult:
    """Run `plan` with the placements given by request id.

    Raises ValueError for a request that is placed in part or on a node that does not exist.
    """
    return simulate_batch([plan], [placements], constants, weights)[0]


def simulate_batch(
    plans: Sequence[RunPlan],
    placements: Sequence[Placements],
    constants: TwinConstants | None = None,
    weights: CostWeights | None = None,
) -> list[TwinResult]:
    """Run many plans on one substrate; each result equals that of `simulate`, bit for bit."""
    if len(plans) != len(placements):
        raise ValueError(f"{len(placements)} placements for {len(plans)} plans")
    constants = constants or TwinConstants()
    rates = make_rates(constants, weights or CostWeights())
    arrays = pack_plans(plans)
    batch, most = arrays.functions.shape
    depth = arrays.service_ns.shape[2]
    nodes = len(arrays.capacity_cores)
    primary = np.full((batch, most, depth), -1, dtype=np.int64)
    backup = primary.copy()
    placed = np.zeros((batch, most), dtype=np.int64)
    for b in range(batch):
        _enter(arrays, b, placements[b], placed[b], primary[b], backup[b])
    slots = max(slots_of(arrays, b, rates) for b in range(batch))
    wait, loss = np.zeros((batch, slots, nodes)), np.zeros((batch, slots, nodes))
    demand = np.zeros((batch, slots, nodes))
    costs, totals = np.zeros((batch, slots)), np.zeros((batch, most, TOTALS))
    histogram = np.zeros((batch, HISTOGRAM_BINS))
    overload_s = np.zeros(batch)
    _run_all(
        arrays, placed, primary, backup, rates, wait, loss, costs, demand, totals,
        _normal_quantiles(), histogram, overload_s,
    )  # fmt: skip
    results = []
    for b in range(batch):
        used = slots_of(arrays, b, rates)
        requests = tuple(
            _request_result(arrays, b, r, placed, totals, rates) for r in range(arrays.requests[b])
        )
        results.append(
            TwinResult(
                requests=requests,
                utilisation=demand[b, :used],
                wait_ns=wait[b, :used] * NS_PER_S,
                overload_s=float(overload_s[b]),
                cost=float(costs[b, :used].sum())
                + sum(request.cost for request in requests if not request.accepted),
                histogram=histogram[b],
            )
        )
    return results


@numba.njit(cache=True)
def _run_all(
    plans: PlanArrays,
    placed: IntArray,
    primary: IntArray,
    backup: IntArray,
    rates: Rates,
    wait: FloatArray,
    loss: FloatArray,
    costs: FloatArray,
    demand: FloatArray,
    totals: FloatArray,
    normal: FloatArray,
    histogram: FloatArray,
    overload_s: FloatArray,
) -> None:
    for b in range(placed.shape[0]):
        overload_s[b] = run_slots(
            plans, b, 0, placed[b], primary[b], backup[b], rates, wait[b], loss[b], costs[b],
            True, demand[b], totals[b], normal, histogram[b],
        )  # fmt: skip


def _normal_quantiles() -> FloatArray:
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / _QUANTILES) for i in range(_QUANTILES)])


def _enter(
    arrays: PlanArrays,
    p: int,
    placements: Placements,
    placed: IntArray,
    primary: IntArray,
    backup: IntArray,
) -> None:
    nodes = len(arrays.capacity_cores)
    for r in range(arrays.requests[p]):
        request = int(arrays.request_id[p, r])
        chosen = placements.get(request)
        if chosen is None:
            continue
        if len(chosen) != arrays.functions[p, r]:
            raise ValueError(
                f"request {request}: {len(chosen)} placements, expected {arrays.functions[p, r]}"
            )
        for f, placement in enumerate(chosen):
            other = -1 if placement.backup is None else placement.backup
            if not (0 <= placement.primary < nodes and -1 <= other < nodes):
                raise ValueError(f"request {request}: {placement}: expected nodes below {nodes}")
            primary[r, f], backup[r, f] = placement.primary, other
        placed[r] = len(chosen)


def _request_result(
    arrays: PlanArrays, p: int, r: int, placed: IntArray, totals: FloatArray, rates: Rates
) -> RequestResult:
    row = totals[p, r]
    delivered = float(row[DELIVERED])
    accepted = bool(placed[p, r] > 0)
    return RequestResult(
        request=int(arrays.request_id[p, r]),
        accepted=accepted,
        packets=float(row[PACKETS]),
        delivered=delivered,
        in_bound=float(row[IN_BOUND]),
        mean_latency_ns=float(row[LATENCY_S]) / delivered * NS_PER_S
        if delivered > 0
        else float("nan"),
        cost=float(row[COST]) if accepted else float(rejection_cost(arrays, p, r, rates)),
    )
