"""Chains that are deployed late lose what is sent before."""

from __future__ import annotations

import pytest

from testbed.scenario.types import NS_PER_S, Placement
from testbed.twin.calibration import Calibration, Estimate
from testbed.twin.starts import begin_when_ready, packets_between, ready_ns
from tests.support.twin_support import line_plan, make_request

MS = 1_000_000
CALIBRATION = Calibration(
    {
        "chain_start_ns": Estimate(100.0 * MS, 0.0, 1),
        "instance_start_ns": Estimate(200.0 * MS, 0.0, 1),
    },
    {},
    {},
)


def later(number: int, at_s: float) -> object:
    at_ns = round(at_s * NS_PER_S)
    return make_request(
        number, arrival_ns=at_ns, start_ns=at_ns + 500 * MS, end_ns=at_ns + 3000 * MS
    )


def test_a_chain_of_time_0_is_ready_and_a_later_one_takes_its_instances_time() -> None:
    plan = line_plan((make_request(0), later(1, 2.0)))  # type: ignore[arg-type]
    placements = {0: (Placement(1, 2),), 1: (Placement(1, 2),)}
    assert ready_ns(plan, placements, CALIBRATION) == {0: 0, 1: 2500 * MS}
    assert ready_ns(plan, placements, None) == {0: 0, 1: 2000 * MS}


def test_chains_are_deployed_one_after_another_and_rejected_ones_not_at_all() -> None:
    plan = line_plan((later(0, 1.0), later(1, 1.0), later(2, 1.0)))  # type: ignore[arg-type]
    placements = {0: (Placement(1, 2),), 1: None, 2: (Placement(1, None),)}
    assert ready_ns(plan, placements, CALIBRATION) == {0: 1500 * MS, 2: 1800 * MS}


def test_what_is_sent_before_is_lost() -> None:
    plan = line_plan((make_request(),), load_steps=((2 * NS_PER_S, 3.0),))
    placements = {0: (Placement(1, None),)}
    begun, served, lost = begin_when_ready(plan, placements, {0: 3 * NS_PER_S})
    assert begun.requests[0].start_ns == 3 * NS_PER_S
    assert served == placements
    assert lost == pytest.approx(100 * 1 + 300 * 1)  # from 1 s on, three times as much from 2 s on


def test_a_chain_in_time_loses_nothing_and_one_that_is_never_ready_all() -> None:
    plan = line_plan((make_request(),))
    placements = {0: (Placement(1, None),)}
    begun, _, lost = begin_when_ready(plan, placements, {0: 500 * MS})
    assert (begun, lost) == (plan, 0.0)
    _, served, lost = begin_when_ready(plan, placements, {0: 9 * NS_PER_S})
    assert served == {0: None} and lost == pytest.approx(800.0)


def test_packets_follow_the_load_steps() -> None:
    plan = line_plan((make_request(),), load_steps=((4 * NS_PER_S, 2.0),))
    request = plan.requests[0]
    assert packets_between(plan, request, 3 * NS_PER_S, 5 * NS_PER_S) == pytest.approx(300.0)
    assert packets_between(plan, request, 5 * NS_PER_S, 5 * NS_PER_S) == 0.0
