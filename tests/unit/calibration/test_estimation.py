"""The fit finds the constants that synthetic runs were made with, and says how sure it is."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from testbed.calibration.estimation import (
    ChainSample,
    fit_latency,
    fit_mean,
    fit_start,
    saturated_service_ns,
    weighted_least_squares,
)
from testbed.scenario.errors import InputError
from testbed.scenario.load import parse_scenario
from testbed.scenario.model import Scenario
from testbed.twin.calibration import Calibration, Estimate, parse_calibration, switch_ports
from testbed.twin.constants import TwinConstants, constants_for
from tests.support.twin_support import line_topology

TRUTH = {
    "edge_ns": 400_000.0,
    "hop_ns": 90_000.0,
    "switch_ns": 120_000.0,
    "port_ns": 4_500.0,
    "commit_pipelined_ns": 300_000.0,
    "commit_deft_ns": 5_800_000.0,
}
JITTER_RATIO = 1.2


def make_samples(
    rng: np.random.Generator, count: int = 90, noise: float = 1.0
) -> list[ChainSample]:
    """Chains of runs in which the formula of the module holds exactly, but for `noise`."""
    samples = []
    for number in range(count):
        mode = ("none", "pipelined", "deft")[number % 3]
        hops, ports = int(rng.integers(2, 7)), int(rng.choice([18, 46]))
        commits = 0 if mode == "none" else hops - 1
        crossings = int(rng.integers(hops, 40))
        crossing_ns = TRUTH["switch_ns"] + TRUTH["port_ns"] * ports
        commit_ns = 0.0 if mode == "none" else TRUTH[f"commit_{mode}_ns"]
        excess = TRUTH["edge_ns"] + hops * TRUTH["hop_ns"]
        excess += crossings * crossing_ns + commits * commit_ns
        variance = crossings * (JITTER_RATIO * crossing_ns) ** 2
        excess += noise * rng.normal() * (variance / 100) ** 0.5
        samples.append(
            ChainSample(mode, hops, crossings, ports, commits, 100, excess, variance)  # type: ignore[arg-type]
        )
    return samples


def test_without_noise_the_fit_is_exact() -> None:
    found = fit_latency(make_samples(np.random.default_rng(1), noise=0.0))
    for name, value in TRUTH.items():
        assert found[name].value == pytest.approx(value, rel=1e-6), name
    assert found["jitter_ratio"].value == pytest.approx(JITTER_RATIO, rel=1e-6)


def test_with_noise_the_truth_lies_within_four_standard_errors() -> None:
    for seed in range(20):
        found = fit_latency(make_samples(np.random.default_rng(seed)))
        for name, value in TRUTH.items():
            assert 0 < found[name].standard_error < TRUTH["commit_deft_ns"]
            assert abs(found[name].value - value) < 4 * found[name].standard_error, (seed, name)


def test_the_standard_error_is_the_spread_of_the_estimates() -> None:
    fits = [fit_latency(make_samples(np.random.default_rng(seed))) for seed in range(200)]
    for name in ("switch_ns", "commit_deft_ns"):
        spread = float(np.std([fit[name].value for fit in fits]))
        stated = float(np.mean([fit[name].standard_error for fit in fits]))
        assert 0.7 < stated / spread < 1.4, name


def test_what_the_runs_do_not_show_is_left_out() -> None:
    plain = [s for s in make_samples(np.random.default_rng(3)) if s.mode == "none"]
    found = fit_latency([s._replace(ports=18) for s in plain])
    assert set(found) == {"edge_ns", "hop_ns", "switch_ns", "jitter_ratio"}


def test_a_constant_is_never_negative() -> None:
    samples = [
        s._replace(excess_ns=s.excess_ns - s.hops * 200_000.0)
        for s in make_samples(np.random.default_rng(4))
    ]
    found = fit_latency(samples)
    assert found["hop_ns"] == Estimate(0.0, 0.0, len(samples))
    assert min(estimate.value for estimate in found.values()) >= 0.0


def test_too_few_runs_are_refused() -> None:
    samples = make_samples(np.random.default_rng(5))
    with pytest.raises(ValueError, match="do not determine"):
        fit_latency(samples[:4])
    with pytest.raises(ValueError, match="at least one"):
        fit_latency([])


def test_least_squares_agrees_with_a_straight_line_by_hand() -> None:
    # y = 1, 2, 2 at x = 0, 1, 2: slope 1/2, intercept 7/6, residuals -1/6, 1/3, -1/6; leverages
    # 5/6, 1/3, 5/6, so that HC3 takes squares 1, 1/4, 1.
    design = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    values, errors = weighted_least_squares(design, np.array([1.0, 2.0, 2.0]), np.ones(3))
    assert values == pytest.approx([7 / 6, 1 / 2])
    assert errors == pytest.approx([(3 / 4) ** 0.5, (1 / 2) ** 0.5])


def test_a_saturated_server_shows_its_service_time() -> None:
    rng = np.random.default_rng(6)
    gaps = np.where(np.arange(500) < 100, 5e6, 2.4e6 + 30_000.0)
    received = np.cumsum(gaps) + rng.normal(0, 1000, 500)
    waited = np.where(np.arange(500) < 100, 0.0, 80e6)
    found = saturated_service_ns(received, waited, 50e6)
    assert abs(found.value - 2.43e6) < 4 * found.standard_error
    assert found.samples == 399
    with pytest.raises(ValueError, match="back to back"):
        saturated_service_ns(received, np.zeros(500), 50e6)


def test_start_times_are_a_base_and_a_share_for_each_instance() -> None:
    instances = [2, 4, 6, 10, 10]
    found = fit_start(instances, [40e6 + 41e6 * count for count in instances])
    assert found["chain_start_ns"].value == pytest.approx(40e6)
    assert found["instance_start_ns"].value == pytest.approx(41e6)


def test_a_mean_has_the_error_of_a_mean() -> None:
    assert fit_mean([]) is None
    found = fit_mean([1.0, 2.0, 3.0, 4.0])
    assert found is not None and (found.value, found.samples) == (2.5, 4)
    assert found.standard_error == pytest.approx((5 / 3) ** 0.5 / 2)


# ------------------------------------------------------------------ the file, and its use


def make_calibration() -> Calibration:
    constants = {name: Estimate(value, 1.0, 30) for name, value in TRUTH.items()}
    constants["jitter_ratio"] = Estimate(JITTER_RATIO, 0.1, 30)
    constants["detection_ns"] = Estimate(-4e6, 1e6, 4)
    constants["backup_start_ns"] = Estimate(380e6, 1e6, 4)
    return Calibration(constants, {"cpu": "x"}, {"date": "today"})


def test_a_calibration_comes_back_from_its_file_as_it_was() -> None:
    calibration = make_calibration()
    assert parse_calibration(json.loads(json.dumps(calibration.to_json()))) == calibration


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"format": 2}, "calibration.format"),
        ({"constants": {"hops": {}}}, "calibration.constants.hops"),
        ({"constants": {"hop_ns": {"value": 1}}}, "calibration.constants.hop_ns"),
        (
            {"constants": {"hop_ns": {"value": "nan", "standard_error": 0, "samples": 1}}},
            "calibration.constants.hop_ns.value",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as error:
        parse_calibration({**make_calibration().to_json(), **change})
    assert error.value.field == field


SCENARIO = """
format: 1
name: three
topology:
  nodes: [{name: a}, {name: b}, {name: c}]
  links: [{a: a, b: b, length_km: 100}, {a: b, b: c, length_km: 100}]
servers: {default: {cpu_cores: 1.0}}
chains: [{name: one, functions: [nat], rate_pps: 10, l3_bytes: 200, delay_bound_s: 0.1}]
traffic: {duration_s: 5, initial_requests: 1}
policies: [deft]
seeds: [1]
"""
PORTS = 10
"""Of three nodes and two links."""


def scenario(**replication: object) -> Scenario:
    parsed = parse_scenario(SCENARIO)
    return parsed.model_copy(
        update={"replication": parsed.replication.model_copy(update=replication)}
    )


def test_ports_are_counted_at_both_ends_of_links_and_for_both_hosts_of_a_node() -> None:
    assert switch_ports(line_topology(3)) == PORTS


def test_without_a_calibration_the_defaults_hold() -> None:
    found = constants_for(scenario())
    for name in ("hop_overhead_ns", "commit_overhead_ns", "link_overhead_ns", "edge_overhead_ns"):
        assert getattr(found, name) == getattr(TwinConstants(), name)


def test_a_calibration_sets_the_hosts_constants() -> None:
    switch_ns = TRUTH["switch_ns"] + PORTS * TRUTH["port_ns"]
    found = constants_for(scenario(without_backup="availability"), make_calibration())
    assert found.link_overhead_ns == pytest.approx(switch_ns)
    assert found.link_jitter_ns == pytest.approx(JITTER_RATIO * switch_ns)
    assert found.hop_overhead_ns == pytest.approx(TRUTH["hop_ns"])
    assert found.edge_overhead_ns == TRUTH["edge_ns"]
    assert found.commit_overhead_ns == pytest.approx(TRUTH["commit_pipelined_ns"])
    assert found.detection_ns == pytest.approx(250e6 - 4e6)


def test_commits_cost_by_mode_and_safety_waits_for_the_new_backup() -> None:
    deft = constants_for(scenario(mode="deft", without_backup="safety"), make_calibration())
    assert deft.commit_overhead_ns == pytest.approx(TRUTH["commit_deft_ns"])
    assert deft.detection_ns == pytest.approx(250e6 - 4e6)
    assert deft.holds and deft.repair_ns == pytest.approx(380e6)
    none = constants_for(scenario(mode="none"), make_calibration())
    assert (none.commit_overhead_ns, none.commit_round_trips) == (0.0, 0.0)


def test_slots_and_queues_stay_what_the_scenario_says() -> None:
    plain = constants_for(scenario(), slot_ns=5e7)
    calibrated = constants_for(scenario(), make_calibration(), slot_ns=5e7)
    for name in ("slot_ns", "queue_ns", "drain_ns", "commit_round_trips", "overload_utilisation"):
        assert getattr(calibrated, name) == getattr(plain, name), name
    assert dataclasses.replace(plain) == plain
