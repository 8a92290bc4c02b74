"""Reads the samples for the estimation from recorded calibration runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from testbed.calibration.calibration_runs import LOAD_CORES, LOAD_SERVICE_S, Purpose
from testbed.calibration.estimation import (
    ChainSample,
    fit_latency,
    fit_mean,
    fit_start,
    saturated_service_ns,
)
from testbed.calibration.recorded import RecordedRun
from testbed.scenario.types import NS_PER_S, FloatArray, Placement, Request
from testbed.twin.calibration import COMMIT_ROUND_TRIPS, Estimate, switch_ports
from testbed.twin.constants import constants_for
from testbed.twin.pack import path_matrices
from testbed.twin.simulate import simulate

MIN_PACKETS = 20
"""A chain of fewer says little about its median."""
NORMAL_95 = 1.6449
"""The 95 % quantile of the standard normal distribution."""


def fit(runs: Sequence[tuple[Purpose, RecordedRun]]) -> dict[str, Estimate]:
    """All constants that `runs` determine, by name (`testbed.twin.calibration.CONSTANTS`)."""
    chains = [sample for what, run in runs if what == "latency" for sample in chain_samples(run)]
    found = fit_latency(chains)
    faults = [run for what, run in runs if what == "fault"]
    services = [_service(run) for what, run in runs if what == "load"]
    nominal_ns = LOAD_SERVICE_S * NS_PER_S / LOAD_CORES
    per_core = [(each.value - nominal_ns) * LOAD_CORES for each in services]
    means = {
        "service_ns": fit_mean([max(0.0, value) for value in per_core]),
        "detection_ns": fit_mean([value for run in faults for value in detections_ns(run)]),
        "backup_start_ns": fit_mean([value for run in faults for value in backup_starts_ns(run)]),
    }
    found |= {name: estimate for name, estimate in means.items() if estimate is not None}
    return found | _start([run for _, run in runs])


def chain_samples(run: RecordedRun) -> list[ChainSample]:
    """What each chain of a run at light load took beyond the twin's ideal.

    By quantiles: a host that stands still for a moment spoils means and variances.
    """
    ideal = dataclasses.replace(
        constants_for(run.scenario), hop_overhead_ns=0.0, commit_overhead_ns=0.0
    )
    expected = {each.request: each for each in simulate(run.plan, run.placements, ideal).requests}
    links = path_matrices(run.plan.topology)[1]
    samples = []
    for request in run.plan.requests:
        placed = run.placements.get(request.id)
        _, latency_ns = run.arrived(request.id)
        if placed is None or len(latency_ns) < MIN_PACKETS:
            continue
        mode = run.scenario.replication.mode
        middle_ns, high_ns = np.quantile(latency_ns, [0.5, 0.95])
        crossings, commits = _crossings(request, placed, links, COMMIT_ROUND_TRIPS[mode])
        samples.append(
            ChainSample(
                mode=mode,
                hops=len(placed) + 1,
                crossings=crossings,
                ports=switch_ports(run.plan.topology),
                commits=commits,
                packets=len(latency_ns),
                excess_ns=float(middle_ns) - expected[request.id].mean_latency_ns,
                variance_ns2=float((high_ns - middle_ns) / NORMAL_95) ** 2,
            )
        )
    return samples


def _crossings(
    request: Request, placed: Sequence[Placement], links: FloatArray, round_trips: float
) -> tuple[int, int]:
    """(switches that a packet and its commits cross one after another, commits)."""
    crossings, commits, here = 0.0, 0, request.source
    for placement in placed:
        crossings += links[here, placement.primary] + 1
        here = placement.primary
        if placement.backup is not None and round_trips > 0:
            crossings += 2 * round_trips * (links[here, placement.backup] + 1)
            commits += 1
    return round(crossings + links[here, request.destination] + 1), commits


def detections_ns(run: RecordedRun) -> list[float]:
    """Of each group that lost its primary: from fault to promotion, beyond the time-out."""
    faults = run.named("fault")
    timeout_ns = run.scenario.replication.failure_timeout_s * NS_PER_S
    if not faults:
        return []
    return [event["t_ns"] - faults[0]["t_ns"] - timeout_ns for event in run.named("promoted")]


def backup_starts_ns(run: RecordedRun) -> list[float]:
    """For each group that lost a member: from then to when its new backup had caught up."""
    failed = {event["group"]: event["t_ns"] for event in run.named("failure-detected")}
    return [
        float(event["t_ns"] - failed[event["group"]])
        for event in run.named("reconfigured")
        if event.get("cause") == "admit" and event["group"] in failed
    ]


def _service(run: RecordedRun) -> Estimate:
    (request,) = run.plan.requests
    received_ns, latency_ns = run.arrived(request.id)
    half_full_ns = run.scenario.servers.queue_s * NS_PER_S / 2
    return saturated_service_ns(received_ns, latency_ns - latency_ns.min(), half_full_ns)


def _start(runs: Sequence[RecordedRun]) -> dict[str, Estimate]:
    instances, took_ns = [], []
    for run in runs:
        for event in run.named("chain-ready"):
            if event.get("deploy_ns") is None:
                continue
            placed = run.placements.get(int(event["request"])) or ()
            instances.append(sum(len(placement.nodes) for placement in placed))
            took_ns.append(float(event["deploy_ns"]))
    return fit_start(instances, took_ns) if len(set(instances)) > 1 else {}
