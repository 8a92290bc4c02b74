"""The twin on plans whose outcome can be computed by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from testbed.scenario.types import NS_PER_S, Fault, Placement
from testbed.twin.constants import CostWeights, TwinConstants
from testbed.twin.decided import NewBackup
from testbed.twin.pack import pack_plans, path_matrices
from testbed.twin.simulate import TwinResult, simulate, simulate_batch
from tests.support.twin_support import MS, line_plan, make_request, random_placements, random_plan

QUIET = make_request(rate_pps=0.001)
CONSTANTS = TwinConstants()
HOP_NS = CONSTANTS.hop_overhead_ns
TRANSMIT_NS = 500 * 8 * 10  # 500 bytes at 100 Mb/s


def latency_ns(primary: int, backup: int | None) -> float:
    result = simulate(line_plan((QUIET,)), {0: (Placement(primary, backup),)})
    return result.requests[0].mean_latency_ns


def test_an_idle_chain_takes_path_service_and_overheads() -> None:
    expected = 3 * (5 * MS + TRANSMIT_NS) + 600_000 + 2 * HOP_NS
    assert latency_ns(1, None) == pytest.approx(expected, rel=1e-4)


def test_a_detour_costs_its_way_there_and_back() -> None:
    # Node 3 is the destination and node 0 the source: placing at 3 costs no more than at 1.
    assert latency_ns(3, None) == pytest.approx(latency_ns(1, None), rel=1e-6)
    plan = line_plan((dataclasses.replace(QUIET, destination=1),))
    far = simulate(plan, {0: (Placement(3, None),)}).mean_latency_ns
    near = simulate(plan, {0: (Placement(1, None),)}).mean_latency_ns
    assert far - near == pytest.approx(4 * (5 * MS + TRANSMIT_NS), rel=1e-4)


def test_output_commit_waits_for_the_round_trip_to_the_backup() -> None:
    for backup, links in ((2, 1), (3, 2)):
        extra = latency_ns(1, backup) - latency_ns(1, None)
        assert extra == pytest.approx(2 * links * 5 * MS + CONSTANTS.commit_overhead_ns, rel=1e-4)


def test_two_phase_commit_takes_two_round_trips_and_none_takes_none() -> None:
    found = []
    for trips in (0.0, 1.0, 2.0):
        constants = TwinConstants(commit_round_trips=trips)
        result = simulate(line_plan((QUIET,)), {0: (Placement(1, 2),)}, constants)
        found.append(result.mean_latency_ns)
    assert found[0] == pytest.approx(latency_ns(1, None))
    assert found[2] - found[1] == pytest.approx(10 * MS, rel=1e-4)


def test_a_slow_server_serves_slowly_and_counts_backups_too() -> None:
    plan = line_plan((make_request(),), cores=(1.0, 0.5, 0.25, 1.0))
    result = simulate(plan, {0: (Placement(1, 2),)})
    busy = result.utilisation[50]
    assert busy[1] == pytest.approx(100 * 600e-6 / 0.5)
    assert busy[2] == pytest.approx(100 * 150e-6 / 0.25)
    assert result.utilisation[5].sum() == 0.0  # before the first packet
    assert result.utilisation[95].sum() == 0.0  # after the last


def overloaded() -> TwinResult:
    plan = line_plan((make_request(rate_pps=2500.0),))
    return simulate(plan, {0: (Placement(1, None),)})


def test_beyond_capacity_the_queue_fills_and_the_surplus_is_dropped() -> None:
    result = overloaded()  # demand 1.5
    assert result.requests[0].loss == pytest.approx(1 - 1 / 1.5, abs=0.02)
    assert result.overload_s == pytest.approx(8.0)
    assert result.wait_ns.max() == pytest.approx(CONSTANTS.queue_ns, rel=0.02)
    assert result.latency_ns(0.5) > 100 * MS


def test_what_the_first_function_drops_does_not_reach_the_second() -> None:
    request = make_request(rate_pps=2500.0, functions=("nat", "nat"))
    result = simulate(line_plan((request,)), {0: (Placement(1, None), Placement(2, None))})
    assert result.utilisation[60, 1] == pytest.approx(1.5)
    assert result.utilisation[60, 2] == pytest.approx(1.0, abs=0.01)


def test_a_load_step_multiplies_every_rate() -> None:
    plan = line_plan((make_request(),), load_steps=((5 * NS_PER_S, 2.0),))
    result = simulate(plan, {0: (Placement(1, None),)})
    assert result.utilisation[55, 1] == pytest.approx(2 * result.utilisation[45, 1])
    assert result.packets == pytest.approx(100 * 4 + 200 * 4)


FAULT = (Fault("server-down", 5 * NS_PER_S, 1),)


def test_a_backup_takes_over_unprotected_after_the_detection_and_nothing_is_lost() -> None:
    request = make_request(rate_pps=1.0)
    result = simulate(line_plan((request,), faults=FAULT), {0: (Placement(1, 2),)})
    assert result.loss == 0.0
    assert result.utilisation[60, 1] == 0.0
    assert result.utilisation[60, 2] == pytest.approx(600e-6)
    base = 3 * (5 * MS + TRANSMIT_NS) + 600_000 + 2 * HOP_NS
    commit = 10 * MS + CONSTANTS.commit_overhead_ns
    # Half of the packets commit; 0.15 s of 8 s wait for the failover, 0.075 s on average.
    expected = base + commit / 2 + 0.15 * 75 * MS / 8
    assert result.mean_latency_ns == pytest.approx(expected, rel=1e-3)


def test_a_lost_backup_ends_the_wait_for_commits_once_the_primary_is_told() -> None:
    constants = TwinConstants(replaces=False)
    plan = line_plan((QUIET,), faults=(Fault("server-down", 5 * NS_PER_S, 2),))
    result = simulate(plan, {0: (Placement(1, 2),)}, constants)
    until_told_ns = constants.detection_ns**2 / 2 / (8 * NS_PER_S)  # a mean over 8 s of packets
    expected = (latency_ns(1, 2) + latency_ns(1, None)) / 2 + until_told_ns
    assert result.mean_latency_ns == pytest.approx(expected, rel=1e-4)


def test_without_a_survivor_the_rest_is_lost() -> None:
    result = simulate(line_plan((make_request(),), faults=FAULT), {0: (Placement(1, None),)})
    assert result.loss == pytest.approx(0.5)


def test_with_holds_a_group_without_a_backup_delivers_nothing_and_loads_nobody_after_it() -> None:
    plan = line_plan((make_request(functions=("nat", "fw")),))
    placed = {0: (Placement(1, None), Placement(2, 3))}
    held = simulate(plan, placed, TwinConstants(holds=True))
    assert held.loss == pytest.approx(1.0)
    assert held.utilisation[50].tolist() == pytest.approx([0.0, 100 * 600e-6, 0.0, 0.0])
    assert simulate(plan, placed).loss == 0.0


TWO_FAULTS = (*FAULT, Fault("server-down", 7 * NS_PER_S, 2))


def test_the_second_failover_of_a_group_makes_packets_wait_like_the_first() -> None:
    # A slot ends between each death and its detection.
    request = make_request(rate_pps=1.0)
    again = [NewBackup(0, 0, 3)]
    constants = TwinConstants(commit_round_trips=0.0)
    means_ns = [
        simulate(line_plan((request,), faults=f), {0: (Placement(1, 2),)}, constants, None, again)
        .mean_latency_ns
        for f in ((), FAULT, TWO_FAULTS)
    ]  # fmt: skip
    first, second = np.diff(means_ns)
    assert first == pytest.approx(0.15 * 75 * MS / 8)
    assert second == pytest.approx(first)


def test_a_backup_that_had_not_caught_up_at_a_death_never_takes_over() -> None:
    # The new backup at 3 would join 0.5 s after 5.15 s; the server of the group dies before.
    request = make_request(rate_pps=1.0)
    faults = (*FAULT, Fault("server-down", 5_600 * MS, 2))
    constants = TwinConstants(repair_ns=0.5e9, detection_ns=0.15e9)
    plan = line_plan((request,), faults=faults)
    result = simulate(plan, {0: (Placement(1, 2),)}, constants, None, [NewBackup(0, 0, 3)])
    assert result.requests[0].delivered == pytest.approx(4.6)
    assert result.utilisation[56:, 3].sum() == 0.0


def test_a_death_in_the_middle_of_a_slot_counts_for_all_of_it() -> None:
    request = make_request(rate_pps=1.0)
    for slot in range(20, 80):
        at_ns = slot * 100 * MS + 50 * MS
        plan = line_plan((request,), faults=(Fault("server-down", at_ns, 1),))
        result = simulate(plan, {0: (Placement(1, None),)})
        assert result.requests[0].delivered == pytest.approx(slot / 10 - 1), slot


def test_a_rejected_request_sends_nothing_and_costs_as_if_all_were_lost() -> None:
    weights = CostWeights()
    result = simulate(line_plan((make_request(),)), {0: None})
    assert result.packets == 0.0
    assert result.cost == pytest.approx(weights.loss * 800 / weights.packets)
    assert not result.requests[0].accepted


def test_a_batch_equals_single_runs_bit_for_bit() -> None:
    plans = [random_plan(seed) for seed in range(6)]
    plans = [dataclasses.replace(plan, servers=plans[0].servers) for plan in plans]
    placements = [random_placements(plan, seed) for seed, plan in enumerate(plans)]
    together = simulate_batch(plans, placements)
    for plan, placement, one in zip(plans, placements, together, strict=True):
        alone = simulate(plan, placement)
        np.testing.assert_array_equal(alone.utilisation, one.utilisation)
        np.testing.assert_array_equal(alone.wait_ns, one.wait_ns)
        np.testing.assert_array_equal(alone.histogram, one.histogram)
        assert repr(alone.requests) == repr(one.requests)
        assert (alone.cost, alone.overload_s) == (one.cost, one.overload_s)
    assert len({one.cost for one in together}) == 6


def test_quantiles_lie_around_the_mean_and_cover_all_packets() -> None:
    result = overloaded()
    delivered = sum(request.delivered for request in result.requests)
    assert result.histogram.sum() == pytest.approx(delivered)
    assert result.latency_ns(0.01) < result.mean_latency_ns < result.latency_ns(0.99)


def test_what_cannot_be_run_is_refused() -> None:
    plan = line_plan((make_request(functions=("nat", "fw")),))
    with pytest.raises(ValueError, match="request 0: 1 placements"):
        simulate(plan, {0: (Placement(1, None),)})
    with pytest.raises(ValueError, match="nodes below 4"):
        simulate(plan, {0: (Placement(4, None), Placement(1, 2))})
    with pytest.raises(ValueError, match="substrate"):
        pack_plans([plan, line_plan((), cores=(1.0, 1.0))])


def test_transmission_adds_up_over_the_links_of_the_path() -> None:
    matrix = path_matrices(line_plan(()).topology)[0]
    assert matrix[0].tolist() == pytest.approx([0.0, 80.0, 160.0, 240.0])
