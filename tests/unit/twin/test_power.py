"""Energy of runs that can be computed by hand."""

from __future__ import annotations

import dataclasses

import pytest

from agents.placement.on_twin import play
from testbed.scenario.types import NS_PER_S, Fault, Link, Placement, ReplicationMode
from testbed.twin.constants import TwinConstants
from testbed.twin.power import PowerModel, energy
from testbed.twin.simulate import simulate
from tests.support.twin_support import MS, line_plan, make_request

MODEL = PowerModel(static_w=100.0, max_w=240.0, link_joules_per_bit=1e-6)
PLACED = {0: (Placement(1, None),)}


def test_an_idle_server_takes_its_static_power() -> None:
    plan = line_plan(())
    found = energy(plan, simulate(plan, {}), {}, MODEL)
    assert found.servers_joules.tolist() == pytest.approx([1000.0] * 4)
    assert found.links_joules.tolist() == [0.0] * 3
    assert found.total_joules == pytest.approx(4000.0)


def test_a_busy_server_takes_more_by_its_utilisation_and_links_by_the_bit() -> None:
    plan = line_plan((make_request(),))  # 8 s of 100 packets/s, 500 bytes, 0.06 of a core
    found = energy(plan, simulate(plan, PLACED), PLACED, MODEL)
    assert found.servers_joules[1] == pytest.approx(1000.0 + 8 * 140 * 0.06)
    assert found.servers_joules[[0, 2, 3]].tolist() == pytest.approx([1000.0] * 3)
    assert found.links_joules.tolist() == pytest.approx([800 * 500 * 8 * 1e-6] * 3)


def test_a_server_takes_no_more_than_its_maximum() -> None:
    plan = line_plan((make_request(rate_pps=5000.0),))  # a demand of 3
    found = energy(plan, simulate(plan, PLACED), PLACED, MODEL)
    assert found.servers_joules[1] == pytest.approx(2 * 100 + 8 * 240)


def test_a_dead_server_takes_nothing() -> None:
    plan = line_plan((), faults=(Fault("server-down", 2_530 * MS, 2),))
    found = energy(plan, simulate(plan, {}), {}, MODEL)
    assert found.servers_joules.tolist() == pytest.approx([1000.0, 1000.0, 253.0, 1000.0])


def test_a_detour_costs_its_links_and_a_copy_for_a_backup_those_beyond_where_it_is_made() -> None:
    placed = {0: (Placement(3, 2),)}
    plan = line_plan((make_request(destination=1),))
    found = energy(plan, simulate(plan, placed), placed, MODEL)
    once = 800 * 500 * 8 * 1e-6
    # To 3 by 2, where the copy leaves, and back to 1.
    assert found.links_joules.tolist() == pytest.approx([once, 2 * once, 2 * once])
    placed = {0: (Placement(1, 3),)}
    found = energy(plan, simulate(plan, placed), placed, MODEL)
    assert found.links_joules.tolist() == pytest.approx([once, once, once])


@pytest.mark.parametrize(
    ("delay_ms", "joules"), [(14, [0.0, 0.0, 0.0, 3.2]), (16, [3.2, 3.2, 3.2, 0.0])]
)
def test_packets_take_the_path_of_least_delay(delay_ms: int, joules: list[float]) -> None:
    plan = line_plan((make_request(),))  # 15 ms along the line
    direct = Link(0, 3, delay_ms * MS, 100_000_000, 250_000)
    links = (*plan.topology.links, direct)
    plan = dataclasses.replace(plan, topology=dataclasses.replace(plan.topology, links=links))
    placed = {0: (Placement(0, None),)}
    found = energy(plan, simulate(plan, placed), placed, MODEL)
    assert found.links_joules.tolist() == pytest.approx(joules)


@pytest.mark.parametrize(("mode", "links"), [("none", 2), ("pipelined", 3)])
def test_what_a_policy_played_costs_no_backups_that_never_were(
    mode: ReplicationMode, links: int
) -> None:
    plan = line_plan((make_request(destination=2),))
    plan = dataclasses.replace(plan, mode=mode, backups=0 if mode == "none" else 1)
    (played,) = play([plan], [lambda _: Placement(2, 3)])
    found = energy(plan, played.result, played.placements, MODEL)
    assert found.links_joules.tolist() == pytest.approx([3.2] * links + [0.0] * (3 - links))


def test_a_rejected_request_costs_no_energy() -> None:
    plan = line_plan((make_request(),))
    found = energy(plan, simulate(plan, {0: None}), {0: None}, MODEL)
    assert found.total_joules == pytest.approx(4000.0)


def test_the_last_slot_ends_with_the_run_and_slots_of_another_length_are_refused() -> None:
    plan = dataclasses.replace(line_plan(()), duration_ns=NS_PER_S + 1)
    constants = TwinConstants(slot_ns=0.3 * NS_PER_S)
    result = simulate(plan, {}, constants)
    model = dataclasses.replace(MODEL, slot_ns=constants.slot_ns)
    assert energy(plan, result, {}, model).servers_joules[0] == pytest.approx(100.0)
    with pytest.raises(ValueError, match="4 slots in the result, not 11"):
        energy(plan, result, {}, MODEL)
