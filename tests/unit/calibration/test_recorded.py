"""What is taken from a recorded run: decisions, excess latencies, detections, figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from testbed.calibration.calibration_runs import calibration_runs
from testbed.calibration.recorded import RecordedRun, recorded_backups, recorded_placements
from testbed.calibration.samples import backup_starts_ns, chain_samples, detections_ns, fit
from testbed.calibration.validate import measured, traffic_s
from testbed.records.packets import Scheduled, build_packets
from testbed.records.raw import ARRIVAL_DTYPE, SCHEDULE_DTYPE
from testbed.scenario.model import Scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.types import NS_PER_S, Placement
from testbed.twin.decided import NewBackup

Event = Mapping[str, Any]
MS = 1_000_000
PACKETS = 40
"""The last four of them are lost."""


def calibration_scenario(name: str) -> Scenario:
    return next(r.scenario for r in calibration_runs() if r.scenario.name == name)


def record(scenario: Scenario, excess_ns: int, events: tuple[Event, ...] = ()) -> RecordedRun:
    """A run whose request 0 goes from a to e at 1 ms a link; packets take `excess_ns` beyond that.

    Its function is at node 1, its backup at node 4; all other requests were rejected.
    """
    plan = make_plan(scenario, scenario.seeds[0])
    request = plan.requests[0]
    assert (request.source, request.destination, request.functions) == (0, 4, ("nat",))
    schedule = np.zeros(PACKETS, SCHEDULE_DTYPE)
    schedule["seq"] = np.arange(PACKETS)
    schedule["scheduled_ns"] = request.start_ns + np.arange(PACKETS) * 25 * MS
    transmit_ns = 4 * 200 * 8 * 20  # four links at 50 Mb/s
    commits = scenario.replication.mode != "none"
    taken = 4 * MS + transmit_ns + 600_000 + (6 * MS if commits else 0) + excess_ns
    arrivals = np.zeros(PACKETS, ARRIVAL_DTYPE)
    arrivals["seq"] = schedule["seq"]
    arrivals["received_ns"] = schedule["scheduled_ns"] + taken
    packets = build_packets(
        [Scheduled(0, request.chain, 200, schedule)],
        {0: schedule["scheduled_ns"]},
        arrivals[: PACKETS - 4],
    )
    placed = {r.id: None for r in plan.requests} | {0: (Placement(1, 4),)}
    manifest = {"seed": plan.seed, "valid": True, "origin_ns": 0}
    return RecordedRun(scenario, "deft", manifest, plan, placed, (), packets, events)


@pytest.mark.parametrize(("mode", "crossings"), [("none", 6), ("pipelined", 6 + 2 * 4)])
def test_a_chain_shows_its_excess_and_what_it_crossed(mode: str, crossings: int) -> None:
    run = record(calibration_scenario(f"calibrate-latency-{mode}-5"), 3 * MS)
    (sample,) = chain_samples(run)
    # a-b-c-d-e by way of b: 4 links, and a switch more at b and at e.
    assert (sample.hops, sample.crossings, sample.ports) == (2, crossings, 18)
    assert (sample.commits, sample.packets) == (int(mode != "none"), PACKETS - 4)
    # The queueing that the twin sees at this light load is below 5 us.
    assert sample.excess_ns == pytest.approx(3 * MS, abs=5000)
    assert sample.variance_ns2 == 0.0


def test_lost_packets_count_as_dropped_and_not_as_delivered() -> None:
    run = record(calibration_scenario("calibrate-latency-none-5"), 0)
    found = measured(run)
    assert found.dropped == pytest.approx(4 / PACKETS)
    assert found.delivered_pps == pytest.approx((PACKETS - 4) / traffic_s(run.plan))
    assert found.latency_p50_ns == found.latency_p99_ns == 4 * MS + 4 * 32_000 + 600_000


def test_decisions_are_read_as_placements() -> None:
    events: list[Event] = [
        {"event": "decision", "request": 0, "accepted": True, "placements": [[1, 2], [3]]},
        {"event": "decision", "request": 1, "accepted": False, "placements": []},
        {"event": "decision", "request": 2, "accepted": True, "placements": [[1, 2, 3]]},
        {"event": "decision", "request": 3, "accepted": True, "placements": [[1, 2]]},
        {"event": "deploy-failed", "request": 3, "error": "server 1 is down"},
    ]
    assert recorded_placements(events) == {
        0: (Placement(1, 2), Placement(3, None)),
        1: None,
        2: (Placement(1, 2, (3,)),),
        3: None,
    }


def test_detection_and_a_backups_start_are_read_from_the_timeline() -> None:
    events: tuple[Event, ...] = (
        {"event": "fault", "t_ns": 3 * NS_PER_S, "node": 2},
        {"event": "failure-detected", "t_ns": 3_240 * MS, "group": "r0-h0"},
        {"event": "promoted", "t_ns": 3_245 * MS, "group": "r0-h0"},
        {"event": "reconfigured", "t_ns": 3_241 * MS, "group": "r0-h0", "cause": "failed"},
        {"event": "reconfigured", "t_ns": 3_600 * MS, "group": "r0-h0", "cause": "admit"},
        {"event": "reconfigured", "t_ns": 3_700 * MS, "group": "r9-h0", "cause": "admit"},
    )
    run = record(calibration_scenario("calibrate-latency-pipelined-5"), 0, events)
    assert detections_ns(run) == [(245 - 250) * MS]
    assert backup_starts_ns(run) == [360 * MS]


def test_a_fit_needs_runs_that_show_the_constants() -> None:
    with pytest.raises(ValueError, match="do not determine"):
        fit([("latency", record(calibration_scenario("calibrate-latency-none-5"), MS))])


def test_calibration_runs_can_be_made_and_repeat_with_other_seeds() -> None:
    runs = calibration_runs(2)
    assert {run.purpose for run in runs} == {"latency", "load", "fault"}
    assert len({(run.scenario.name, run.scenario.seeds[0]) for run in runs}) == len(runs)
    for run in runs:
        plan = make_plan(run.scenario, run.scenario.seeds[0])
        # Even if all primaries met on one server it would be lightly loaded: what is fitted to is
        # no queueing.
        demand = sum(
            request.rate_pps * plan.profiles[name].service_ns / NS_PER_S
            for request in plan.requests
            for name in request.functions
        )
        assert run.purpose != "latency" or demand < 0.25


def test_new_backups_are_read_from_the_events() -> None:
    events: list[dict[str, Any]] = [
        {"event": "new-backup", "group": "r3-h1", "member": 2, "node": 4},
        {"event": "no-new-backup", "group": "r3-h2", "error": "none"},
        {"event": "new-backup", "group": "server-2", "member": 1, "node": 4},
        {"event": "new-backup", "group": "r0-h0", "member": 3, "node": 1},
    ]
    assert recorded_backups(events) == (NewBackup(3, 1, 4), NewBackup(0, 0, 1))
