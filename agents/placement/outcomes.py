"""Runs policies on plans of the twin and sums up what the packets went through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.placement.on_twin import play
from testbed.decisions.policy import Policy
from testbed.scenario.types import RunPlan
from testbed.twin.constants import CostWeights, TwinConstants
from testbed.twin.simulate import TwinResult, histogram_quantile_ns


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A policy on many plans: `reward` and `overload_s` are means a plan.

    Latencies are those of all delivered packets together; loss is the share of packets sent;
    `lost` are packets; goodput is packets delivered within their delay bound a second of run.
    `acceptance` is the share of requests that were accepted.
    """

    plans: int
    reward: float
    latency_mean_ns: float
    latency_p50_ns: float
    latency_p99_ns: float
    loss: float
    overload_s: float
    goodput_pps: float
    rejected: int
    acceptance: float
    lost: float


def evaluate(
    policy: Policy,
    plans: Sequence[RunPlan],
    constants: TwinConstants,
    weights: CostWeights | None = None,
) -> Evaluation:
    """Let `policy` decide every plan on the twin, one after another: a policy may remember."""
    results = [play([plan], [policy.decide], constants, weights)[0].result for plan in plans]
    return summarise(plans, results)


def summarise(plans: Sequence[RunPlan], results: Sequence[TwinResult]) -> Evaluation:
    """The results of one policy on `plans` in one line."""
    requests = [request for result in results for request in result.requests]
    sent = sum(request.packets for request in requests)
    delivered = sum(request.delivered for request in requests)
    histogram = np.sum([result.histogram for result in results], axis=0)
    seconds = sum(plan.duration_ns for plan in plans) / 1e9
    total_ns = sum(r.mean_latency_ns * r.delivered for r in requests if r.delivered > 0)
    return Evaluation(
        plans=len(plans),
        reward=-float(np.mean([result.cost for result in results])),
        latency_mean_ns=total_ns / delivered if delivered > 0 else float("nan"),
        latency_p50_ns=histogram_quantile_ns(histogram, 0.5),
        latency_p99_ns=histogram_quantile_ns(histogram, 0.99),
        loss=1.0 - delivered / sent if sent > 0 else 0.0,
        overload_s=float(np.mean([result.overload_s for result in results])),
        goodput_pps=sum(request.in_bound for request in requests) / seconds,
        rejected=sum(not request.accepted for request in requests),
        acceptance=sum(r.accepted for r in requests) / len(requests) if requests else 1.0,
        lost=sent - delivered,
    )
