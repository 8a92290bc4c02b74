"""Runs a plan with given placements on the twin and tells what the packets went through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from testbed.scenario.types import NS_PER_S, FloatArray, Placement, RunPlan
from testbed.twin.constants import CostWeights, TwinConstants
from testbed.twin.decisions import DecisionBatch, ended
from testbed.twin.kernel import (
    COST,
    DELIVERED,
    HISTOGRAM_BINS,
    HISTOGRAM_HIGH_S,
    HISTOGRAM_LOW_S,
    IN_BOUND,
    LATENCY_S,
    PACKETS,
)
from testbed.twin.pack import PlanArrays, pack_plans
from testbed.twin.state import MOVE, PLACE

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


@dataclass(frozen=True, slots=True)
class NewBackup:
    """A backup that a group got after it had lost a member."""

    request: int
    function: int
    node: int


def simulate(
    plan: RunPlan,
    placements: Placements,
    constants: TwinConstants | None = None,
    weights: CostWeights | None = None,
    backups: Sequence[NewBackup] = (),
    moves: Sequence[int | None] = (),
) -> TwinResult:
    """Run `plan` with the placements given by request id, and new `backups` in their order.

    `moves` answer the questions about overloaded servers (see `Played`); what is beyond them stays.

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

    What was decided is carried out as it is: admission control is not asked again.
    """
    if len(plans) != len(placements):
        raise ValueError(f"{len(placements)} placements for {len(plans)} plans")
    pool = pack_plans(plans)._replace(admission=False)
    for b in range(len(plans)):
        _check(pool, b, placements[b])
    later = [_by_group(of_plan) for of_plan in backups or [()] * len(plans)]
    answers = [iter(of_plan) for of_plan in moves or [()] * len(plans)]
    batch = recorded(pool, constants, weights)
    while not ended(batch).all():
        primary, backup = np.full(len(plans), -1), np.full(len(plans), -1)
        for b in map(int, np.flatnonzero(~ended(batch))):
            r, f = batch.state.asked[b]
            request = int(pool.request_id[b, r])
            if batch.state.task[b] == PLACE:
                placed = placements[b].get(request)
                if placed is not None:
                    primary[b], backup[b] = placed[f].primary, _or_none(placed[f].backup)
            elif batch.state.task[b] == MOVE:
                primary[b] = _or_none(next(answers[b], None))
            else:
                nodes = later[b].get((request, int(f)), [])
                backup[b] = nodes.pop(0) if nodes else -1
        batch.step(primary, backup, again=False)
    return results(batch)


def recorded(
    pool: PlanArrays, constants: TwinConstants | None = None, weights: CostWeights | None = None
) -> DecisionBatch:
    """An environment for each plan of the pool, in their order, that records what happens."""
    count = len(pool.requests)
    batch = DecisionBatch(
        pool, count, 0, constants, weights, shaped=False, quantiles=_normal_quantiles()
    )
    batch.forget()
    batch.reset(np.arange(count))
    return batch


def results(batch: DecisionBatch) -> list[TwinResult]:
    """What a batch of `recorded` went through, an environment that has ended each."""
    out, record, pool = [], batch.record, batch.pool
    for b in range(batch.environments):
        used = int(batch.state.slot[b])
        requests = tuple(_request_result(batch, b, r) for r in range(pool.requests[b]))
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


def _normal_quantiles() -> FloatArray:
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / _QUANTILES) for i in range(_QUANTILES)])


def _or_none(node: int | None) -> int:
    return -1 if node is None else node


def _by_group(backups: Sequence[NewBackup]) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    for one in backups:
        found.setdefault((one.request, one.function), []).append(one.node)
    return found


def _check(pool: PlanArrays, p: int, placements: Placements) -> None:
    nodes = len(pool.capacity_cores)
    for r in range(pool.requests[p]):
        request, functions = int(pool.request_id[p, r]), pool.functions[p, r]
        chosen = placements.get(request)
        if chosen is None:
            continue
        if len(chosen) != functions:
            raise ValueError(f"request {request}: {len(chosen)} placements, expected {functions}")
        for placement in chosen:
            if not (0 <= placement.primary < nodes and -1 <= _or_none(placement.backup) < nodes):
                raise ValueError(f"request {request}: {placement}: expected nodes below {nodes}")


def _request_result(batch: DecisionBatch, b: int, r: int) -> RequestResult:
    row = batch.record.totals[b, r]
    delivered = float(row[DELIVERED])
    accepted = bool(batch.state.placed[b, r] > 0)
    mean_s = float(row[LATENCY_S]) / delivered if delivered > 0 else float("nan")
    return RequestResult(
        request=int(batch.pool.request_id[b, r]),
        accepted=accepted,
        packets=float(row[PACKETS]),
        delivered=delivered,
        in_bound=float(row[IN_BOUND]),
        mean_latency_ns=mean_s * NS_PER_S,
        cost=float(row[COST]) if accepted else batch.rejection_cost(b, r),
    )
