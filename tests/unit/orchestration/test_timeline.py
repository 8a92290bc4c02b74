"""The steps of a run that are known before it begins."""

from __future__ import annotations

import dataclasses

from testbed.orchestration.control.timeline import timeline
from tests.support.twin_support import line_plan
from tests.unit.orchestration.test_chain import REQUEST


def steps(arrival_ns: int, end_ns: int) -> list[tuple[int, str]]:
    request = dataclasses.replace(REQUEST, arrival_ns=arrival_ns, end_ns=end_ns)
    plan = line_plan((request,), load_steps=((50, 2.0),))
    found = timeline(dataclasses.replace(plan, duration_ns=100), drain_ns=10)
    return [(step.at_ns, step.what) for step in found]


def test_a_request_comes_and_goes_after_its_packets_have_drained() -> None:
    assert steps(arrival_ns=20, end_ns=70) == [
        (20, "arrival"),
        (50, "load-step"),
        (80, "departure"),
        (110, "end"),
    ]


def test_a_request_of_time_zero_is_there_before_the_clock_starts() -> None:
    assert (0, "arrival") not in steps(arrival_ns=0, end_ns=70)


def test_a_request_that_lasts_to_the_end_goes_with_the_run() -> None:
    assert [what for _, what in steps(arrival_ns=20, end_ns=95)] == ["arrival", "load-step", "end"]


def test_at_the_same_time_the_load_steps_before_a_request_is_placed() -> None:
    assert steps(arrival_ns=50, end_ns=90)[:2] == [(50, "load-step"), (50, "arrival")]
