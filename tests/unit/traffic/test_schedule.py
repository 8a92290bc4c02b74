"""Schedules: exact rates, and the same packets whatever else is in the plan."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.scenario.types import NS_PER_S, Request, RunPlan, Topology
from traffic.schedule import Process, packet_schedule


def request(**changes: object) -> Request:
    base = Request(
        id=3,
        chain="voip",
        functions=("nat", "fw"),
        source=0,
        destination=1,
        arrival_ns=0,
        start_ns=1 * NS_PER_S,
        end_ns=11 * NS_PER_S,
        rate_pps=100.0,
        l3_bytes=200,
        delay_bound_ns=100_000_000,
        flows=2,
        shards=1,
        first_unit=3,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def plan(seed: int = 1, steps: tuple[tuple[int, float], ...] = ()) -> RunPlan:
    return RunPlan(
        seed=seed,
        duration_ns=20 * NS_PER_S,
        topology=Topology((), (), ()),
        servers=(),
        profiles={},
        requests=(),
        load_steps=steps,
        faults=(),
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    number=st.integers(0, 511),
    flows=st.integers(1, 8),
    rate=st.floats(0.1, 500),
    start_ns=st.integers(0, 5 * NS_PER_S),
    life_ns=st.integers(0, 10 * NS_PER_S),
    process=st.sampled_from(["cbr", "poisson"]),
)
def test_times_are_in_the_life_and_sequences_whole(
    seed: int,
    number: int,
    flows: int,
    rate: float,
    start_ns: int,
    life_ns: int,
    process: Process,
) -> None:
    asked = request(
        id=number, flows=flows, rate_pps=rate, start_ns=start_ns, end_ns=start_ns + life_ns
    )
    schedule = packet_schedule(plan(seed, ((3 * NS_PER_S, 2.5),)), asked, process)
    times = schedule["scheduled_ns"]
    assert (np.diff(times) >= 0).all()
    assert ((times >= start_ns) & (times < start_ns + max(life_ns, 1))).all()
    assert (schedule["flow"] < flows).all()
    for flow in range(flows):
        seqs = schedule["seq"][schedule["flow"] == flow]
        assert seqs.tolist() == list(range(len(seqs)))


def test_cbr_keeps_its_rate_and_changes_it_at_the_very_step() -> None:
    step_ns = 6 * NS_PER_S
    schedule = packet_schedule(plan(steps=((step_ns, 4.0),)), request(), "cbr")
    for flow in (0, 1):
        times = schedule["scheduled_ns"][schedule["flow"] == flow]
        gaps = np.diff(times)
        before, after = gaps[times[1:] < step_ns], gaps[times[:-1] >= step_ns]
        assert np.abs(before - 20_000_000).max() <= 1
        assert np.abs(after - 5_000_000).max() <= 1
        # The gap over the step has one packet's worth of rate in its two parts.
        last = times[times < step_ns][-1]
        first = times[times >= step_ns][0]
        assert (step_ns - last) / 20e6 + (first - step_ns) / 5e6 == pytest.approx(1, abs=1e-6)


def test_cbr_flows_have_phases_of_their_own() -> None:
    schedule = packet_schedule(plan(), request(flows=8), "cbr")
    firsts = [schedule["scheduled_ns"][schedule["flow"] == flow][0] for flow in range(8)]
    assert len(set(firsts)) == 8


def test_poisson_has_the_rate_of_every_step_and_exponential_gaps() -> None:
    steps = ((6 * NS_PER_S, 3.0),)
    counts = np.zeros(2)
    gaps = []
    for number in range(40):
        schedule = packet_schedule(plan(steps=steps), request(id=number, flows=1), "poisson")
        times = schedule["scheduled_ns"]
        counts += [(times < steps[0][0]).sum(), (times >= steps[0][0]).sum()]
        gaps.append(np.diff(times[times < steps[0][0]]))
    # Means 40 x 500 and 40 x 1500; five standard deviations.
    assert abs(counts[0] - 20_000) < 5 * 20_000**0.5
    assert abs(counts[1] - 60_000) < 5 * 60_000**0.5
    whole = np.concatenate(gaps)
    assert whole.std() / whole.mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("process", ["cbr", "poisson"])
def test_only_seed_and_request_decide(process: Process) -> None:
    first = packet_schedule(plan(7), request(), process)
    other_plan = dataclasses.replace(plan(7), requests=(request(), request(id=4)), duration_ns=1)
    assert np.array_equal(first, packet_schedule(other_plan, request(), process))
    assert not np.array_equal(first, packet_schedule(plan(8), request(), process))
    assert not np.array_equal(first, packet_schedule(plan(7), request(id=4), process))


def test_an_unknown_process_is_refused() -> None:
    with pytest.raises(ValueError, match="process = 'bursty': expected 'cbr' or 'poisson'"):
        packet_schedule(plan(), request(), "bursty")  # type: ignore[arg-type]
