"""Workloads: their moments are the distributions', the seed alone decides, the twin is asked.

Seeds are fixed, so nothing here can be red by chance. Bounds are five standard deviations of what
is estimated, worked out from the theory beside each.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest

from testbed.scenario.errors import InputError
from testbed.scenario.load import parse_scenario
from testbed.scenario.model import Scenario
from testbed.scenario.modulation import Path, draw_path, points, product, shifted
from testbed.scenario.plan import make_plan
from testbed.scenario.shapes import Diurnal, FlashCrowd, Flows, Mmpp, OnOff
from testbed.scenario.sizes import FlowSizes, flow_sizes, imix
from testbed.scenario.types import NS_PER_S, Request, RunPlan
from testbed.twin.pack import pack_plans
from traffic.workload import make_workload, write_workload

SCENARIO = """
format: 1
name: loads
topology:
  nodes: [{name: west}, {name: east}]
  links: [{a: west, b: east, length_km: 100}]
servers: {default: {cpu_cores: 1.0}}
chains:
  - {name: one, functions: [fw], rate_pps: 100, l3_bytes: SIZE, delay_bound_s: 0.1}
traffic: {duration_s: 1000, setup_s: 1.0, pairs: [[west, east]], mean_lifetime_s: 5, TRAFFIC}
policies: [deft]
seeds: [1]
"""


def scenario(traffic: str, size: str = "200") -> Scenario:
    return parse_scenario(SCENARIO.replace("SIZE", size).replace("TRAFFIC", traffic))


def whole_life(traffic: str, size: str = "200", **changes: Any) -> tuple[RunPlan, Request]:
    """A plan with one request that sends from 1 s to 1000 s."""
    plan = make_plan(scenario(f"initial_requests: 1, {traffic}", size), 1)
    request = dataclasses.replace(plan.requests[0], end_ns=1000 * NS_PER_S, **changes)
    return plan, request


def windows(times_s: np.ndarray[Any, Any], width_s: float, end_s: float) -> np.ndarray[Any, Any]:
    return np.histogram(times_s, np.arange(0, end_s + width_s / 2, width_s))[0]


def test_on_off_has_its_mean_rate_and_its_silences() -> None:
    shape = OnOff(kind="on-off", on_s=1.0, off_s=3.0)
    rng = np.random.default_rng(1)
    path = draw_path(shape, 40_000.0, rng)
    assert set(path.factors) == {4.0, 0.0}
    stays = np.diff(path.times_s)
    on, off = stays[path.factors[:-1] > 0], stays[path.factors[:-1] == 0]
    # An exponential's standard deviation is its mean.
    assert abs(on.mean() - 1.0) < 5 * 1.0 / len(on) ** 0.5
    assert abs(off.mean() - 3.0) < 5 * 3.0 / len(off) ** 0.5
    drawn = points(path, 10.0, 40_000.0, False, rng)
    inside = np.searchsorted(path.times_s, drawn, side="right") - 1
    assert (path.factors[inside] > 0).all()
    # Var of a share of time on = 2 (on off)^2 / (on + off)^3 / T; times (4 x 10)^2, plus Poisson.
    deviation = (1600 * 2 * 9 / 64 / 40_000 + 10 / 40_000) ** 0.5
    assert abs(len(drawn) / 40_000 - 10.0) < 5 * deviation


def test_mmpp_stays_and_mean() -> None:
    shape = Mmpp(kind="mmpp", factors=[1.0, 4.0, 0.5], mean_s=[4.0, 1.0, 2.0])
    path = draw_path(shape, 50_000.0, np.random.default_rng(2))
    mean = (4 * 1 + 1 * 4 + 2 * 0.5) / 7
    stays = np.diff(path.times_s)
    for factor, mean_s in zip(shape.factors, shape.mean_s, strict=True):
        there = stays[np.isclose(path.factors[:-1], factor / mean)]
        assert abs(there.mean() - mean_s) < 5 * mean_s / len(there) ** 0.5
    weights = np.diff(np.append(path.times_s, 50_000.0))
    # Some 21,000 stays that vary by less than 4 s x 2.2: the mean is within five of 0.03.
    assert abs(float(weights @ path.factors) / 50_000 - 1.0) < 0.15


def test_poisson_is_not_overdispersed_and_mmpp_is() -> None:
    flat = Path(np.zeros(1), np.ones(1))
    rng = np.random.default_rng(3)
    counts = windows(points(flat, 20.0, 5000.0, False, rng), 1.0, 5000.0)
    # Index of dispersion of n Poisson counts: mean 1, variance 2 / (n - 1).
    assert abs(counts.var(ddof=1) / counts.mean() - 1.0) < 5 * (2 / 4999) ** 0.5
    shape = Mmpp(kind="mmpp", factors=[1.0, 9.0], mean_s=[5.0, 5.0])
    counts = windows(points(draw_path(shape, 5000.0, rng), 20.0, 5000.0, False, rng), 1.0, 5000.0)
    # In a window the rate is mostly 4 or 36: dispersion near 1 + 16^2 / 20 = 13.8.
    assert counts.var() / counts.mean() > 5


def test_diurnal_follows_its_sine() -> None:
    shape = Diurnal(kind="diurnal", period_s=100.0, amplitude=0.8, step_s=1.0)
    path = draw_path(shape, 1000.0, np.random.default_rng(0))
    lengths = np.diff(np.append(path.times_s, 1000.0))
    assert float(lengths @ path.factors) / 1000 == pytest.approx(1.0, abs=1e-9)
    assert path.factors.max() == pytest.approx(1.8, abs=1e-3)
    day = windows(points(path, 50.0, 1000.0, True, np.random.default_rng(0)), 25.0, 1000.0)
    quarters = day.reshape(10, 4).sum(axis=0) / 10
    # The mean of a sine over a quarter is 2 / pi.
    high = 50 * 25 * (1 + 0.8 * 2 / np.pi)
    assert np.abs(quarters - [high, high, 2500 - high, 2500 - high]).max() < 2


def test_a_flash_crowd_rises_stays_and_goes() -> None:
    shape = FlashCrowd(kind="flash-crowd", at_s=10, peak=5, rise_s=2, hold_s=3, decay_s=1)
    path = draw_path(shape, 40.0, np.random.default_rng(0))

    def factor(at_s: float) -> float:
        return float(path.factors[np.searchsorted(path.times_s, at_s, side="right") - 1])

    assert [factor(at) for at in (0, 9.9, 12.1, 14.9, 20.1, 39)] == [1, 1, 5, 5, 1, 1]
    assert factor(11.0) == pytest.approx(1 + 4 * (1.125 / 2))
    assert factor(16.0) == pytest.approx(1 + 4 * np.exp(-1.125))


def test_even_points_keep_their_spacing_over_steps_and_skip_silence() -> None:
    path = Path(np.array([0.0, 10.0, 20.0]), np.array([1.0, 0.0, 2.0]))
    drawn = points(path, 5.0, 30.0, True, np.random.default_rng(4))
    assert len(drawn) in (149, 150, 151)
    assert not ((drawn > 10.0) & (drawn < 20.0)).any()
    assert np.allclose(np.diff(drawn[drawn > 20.0]), 0.1)
    later = shifted(path, 12.0)
    assert (later.times_s.tolist(), later.factors.tolist()) == ([0.0, 8.0], [0.0, 2.0])
    both = product([path, Path(np.array([0.0, 15.0]), np.array([3.0, 5.0]))])
    assert both.factors.tolist() == [3.0, 0.0, 0.0, 10.0]


@pytest.mark.parametrize(
    ("name", "mean_bytes", "median_bytes"),
    # Worked out by hand from the tables: sum of share x middle, in packets of 1460 bytes.
    [("web-search", 1_665_831, 70_641), ("data-mining", 7_470_236, 1_460)],
)
def test_flow_sizes_have_the_moments_of_their_tables(
    name: str, mean_bytes: float, median_bytes: float
) -> None:
    sizes = flow_sizes(name)
    assert (np.diff(sizes.shares) >= 0).all() and sizes.shares[-1] == 1
    assert sizes.mean_bytes == pytest.approx(mean_bytes, rel=1e-3)
    assert float(sizes.quantile_bytes(np.array(0.5))) == pytest.approx(median_bytes, rel=1e-3)
    shares = (np.arange(2_000_000) + 0.5) / 2_000_000
    drawn = sizes.quantile_bytes(shares)
    assert drawn.mean() == pytest.approx(sizes.mean_bytes, rel=1e-4)
    packets = np.maximum(1, np.ceil(drawn * 0.001 / 172))
    assert packets.mean() == pytest.approx(sizes.mean_packets(0.001, 172), rel=1e-4)


def test_the_mean_of_whole_packets_is_exact_where_it_is_known() -> None:
    uniform = FlowSizes(np.array([0.0, 400.0]), np.array([0.0, 1.0]))
    assert uniform.mean_bytes == 200
    assert uniform.mean_packets(1.0, 100) == pytest.approx((1 + 2 + 3 + 4) / 4)


def test_flows_give_the_mean_rate_and_whole_flows() -> None:
    plan, request = whole_life("process: cbr", flows=4)
    spec = Flows(kind="flows", sizes="web-search", scale=0.001, flow_pps=50.0)
    made = make_workload(plan, request, spec)
    schedule, numbers = made.schedule, made.flow_numbers
    assert numbers is not None and len(numbers) == len(schedule)
    assert (np.diff(schedule["scheduled_ns"]) >= 0).all()
    assert (numbers % 4 == schedule["flow"]).all()
    for port in range(4):
        seqs = schedule["seq"][schedule["flow"] == port]
        assert seqs.tolist() == list(range(len(seqs)))
    gaps = np.diff(schedule["scheduled_ns"][numbers == numbers[len(numbers) // 2]])
    assert len(gaps) == 0 or np.abs(gaps - 20_000_000).max() <= 1
    # A compound Poisson sum: its variance is flows x the second moment of a flow's packets.
    payload = request.l3_bytes - 28
    shares = (np.arange(200_000) + 0.5) / 200_000
    packets = np.maximum(
        1, np.ceil(flow_sizes("web-search").quantile_bytes(shares) * 0.001 / payload)
    )
    flows = 999 * 100 / packets.mean()
    deviation = (flows * (packets**2).mean()) ** 0.5
    assert abs(len(schedule) - 99_900) < 5 * deviation
    assert abs(len(np.unique(numbers)) - flows) < 5 * flows**0.5


def test_imix_is_seven_to_four_to_one_of_what_fits() -> None:
    assert [size for size, _ in imix()] == [56, 576, 1400]
    plan, request = whole_life("process: cbr", "imix")
    assert request.l3_bytes == round((7 * 56 + 4 * 576 + 1400) / 12)
    sizes = make_workload(plan, request, "cbr").l3_bytes
    assert sizes is not None and set(sizes.tolist()) == {56, 576, 1400}
    for size, share in imix():
        deviation = (share * (1 - share) / len(sizes)) ** 0.5
        assert abs((sizes == size).mean() - share) < 5 * deviation


@pytest.mark.parametrize(
    "process",
    [
        OnOff(kind="on-off", on_s=0.5, off_s=0.5),
        Mmpp(kind="mmpp", factors=[1.0, 3.0], mean_s=[1.0, 1.0]),
        Flows(kind="flows", sizes="data-mining", scale=0.0001),
    ],
)
def test_seed_and_request_alone_decide_what_is_recorded(
    process: OnOff | Mmpp | Flows, tmp_path: FilePath
) -> None:
    plan, request = whole_life("process: cbr", "imix")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        other = dataclasses.replace(plan, requests=(), duration_ns=1) if name == "second" else plan
        write_workload(tmp_path / name, other, request, process)
    first = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    assert {"schedule-0.npy", "sizes-0.npy"} <= first.keys()
    changed = make_workload(dataclasses.replace(plan, seed=2), request, process)
    assert not np.array_equal(changed.schedule, make_workload(plan, request, process).schedule)
    life = changed.schedule["scheduled_ns"]
    assert life.min() >= request.start_ns and life.max() < request.end_ns


@pytest.mark.parametrize(
    ("arrivals", "mean", "deviation"),
    [
        # 998 s of arrivals at 0.25/s from rates that vary: n, and what n varies by.
        ("constant", 249.75, 1.0),
        ("{kind: on-off, on_s: 2, off_s: 2}", 249.75, (249.75 + 0.25 * 999) ** 0.5),
        ("{kind: mmpp, factors: [1, 3], mean_s: [2, 2]}", 249.75, 20.0),
        ("{kind: diurnal, period_s: 111, amplitude: 0.9}", 249.75, 249.75**0.5),
        ("{kind: flash-crowd, at_s: 100, peak: 11, rise_s: 1, hold_s: 9, decay_s: 1}", 276, 17.0),
    ],
)
def test_requests_come_as_asked(arrivals: str, mean: float, deviation: float) -> None:
    plan = make_plan(scenario(f"arrivals_per_s: 0.25, arrivals: {arrivals}"), 3)
    assert abs(len(plan.requests) - mean) < 5 * deviation
    times = np.array([request.arrival_ns for request in plan.requests]) / NS_PER_S
    assert (np.diff(times) >= 0).all() and times[-1] < 999
    if arrivals == "constant":
        assert np.allclose(np.diff(times), 4.0)
    assert plan == make_plan(scenario(f"arrivals_per_s: 0.25, arrivals: {arrivals}"), 3)


def test_a_load_shape_becomes_steps_that_the_twin_has_too() -> None:
    asked = "initial_requests: 1, load_steps: [{at_s: 500, factor: 3}], load: {kind: diurnal, "
    plan = make_plan(scenario(asked + "period_s: 1000, step_s: 10}"), 1)
    factors = dict(plan.load_steps)
    first, last = factors[0], factors[500 * NS_PER_S]
    assert first == pytest.approx(1 + 0.5 * np.sin(2 * np.pi * 0.005))
    assert last == pytest.approx(3 * (1 - 0.5 * np.sin(2 * np.pi * 0.005)))
    arrays = pack_plans([plan])
    assert arrays.step_factor[0, : len(factors)].tolist() == list(factors.values())


def test_the_twin_refuses_what_it_has_no_model_of() -> None:
    bursts = "initial_requests: 1, process: {kind: on-off, on_s: 1, off_s: 1}"
    plan = make_plan(scenario(bursts), 1)
    with pytest.raises(InputError, match=r"traffic\.process on-off"):
        pack_plans([plan])
    pack_plans([make_plan(scenario("initial_requests: 1, process: cbr"), 1)])


@pytest.mark.parametrize(
    ("traffic", "said"),
    [
        ("load: {kind: on-off, on_s: 1, off_s: 1}", "load above 0"),
        ("load: {kind: mmpp, factors: [0, 1], mean_s: [1, 1]}", "load above 0"),
        ("process: {kind: mmpp, factors: [0, 1], mean_s: [1]}", "a list of 2 to 16"),
        ("process: {kind: flows, sizes: mice}", "web-search"),
    ],
)
def test_what_cannot_be_is_refused(traffic: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        scenario(f"initial_requests: 1, {traffic}")
