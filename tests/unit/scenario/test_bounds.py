"""Every number of a scenario has bounds, and what follows from them is bounded too."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.scenario.errors import InputError
from testbed.scenario.limits import (
    LEAST_RATE_BPS,
    MAX_PACKETS,
    MAX_STEPS,
    MAX_UNITS,
    MOST_RATE_BPS,
)
from testbed.scenario.load import parse_scenario
from testbed.scenario.model import Scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.trace import MAX_TIME_MS, load_trace
from testbed.scenario.types import RunPlan

TINY = """
format: 1
name: tiny
topology:
  nodes: [{name: a}, {name: b}]
  links: [{a: a, b: b, length_km: 100}]
links: {LINKS}
servers: {default: {cpu_cores: 0.5}}
chains: [{name: one, functions: [fw], rate_pps: RATE, l3_bytes: 200, delay_bound_s: 0.05}]
traffic: {duration_s: 30, TRAFFIC}
policies: [deft]
seeds: [1]
"""


def plan_of(
    traffic: str = "initial_requests: 1", *, links: str = "rate_bps: 50e6", rate: str = "50"
) -> RunPlan:
    text = TINY.replace("LINKS", links).replace("RATE", rate).replace("TRAFFIC", traffic)
    scenario = parse_scenario(text)
    return make_plan(scenario, scenario.seeds[0])


def error_of(*arguments: str, **parts: str) -> InputError:
    with pytest.raises(InputError) as caught:
        plan_of(*arguments, **parts)
    return caught.value


def numbers(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts of a JSON schema that are of numbers."""
    if isinstance(node, list):
        for number, each in enumerate(node):
            yield from numbers(each, f"{where}.{number}")
    if not isinstance(node, dict):
        return
    if node.get("type") in ("integer", "number"):
        yield where, node
    for key, each in node.items():
        yield from numbers(each, f"{where}.{key}")


def test_every_number_has_a_least_and_a_greatest_value() -> None:
    found = dict(numbers(Scenario.model_json_schema()))
    assert len(found) > 80
    for where, node in found.items():
        if "const" in node or "enum" in node:
            continue
        least = node.get("minimum", node.get("exclusiveMinimum"))
        most = node.get("maximum", node.get("exclusiveMaximum"))
        assert least is not None and most is not None, where
        assert math.isfinite(least) and math.isfinite(most), where


def test_every_list_has_a_greatest_length() -> None:
    def lists(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(node, list):
            for each in node:
                yield from lists(each, where)
        elif isinstance(node, dict):
            if node.get("type") == "array":
                yield where, node
            for key, each in node.items():
                yield from lists(each, f"{where}.{key}")

    # Policies are without repetition.
    found = lists(Scenario.model_json_schema(), "")
    assert {where for where, node in found if "maxItems" not in node} == {
        f".$defs.{spec}.properties.policies" for spec in ("PlacementSpec", "ProvisioningSpec")
    }


@pytest.mark.parametrize(
    ("traffic", "field"),
    [
        ("duration_s: 1e300", "traffic.duration_s"),
        ("initial_requests: 1000000000000", "traffic.initial_requests"),
        ("arrivals_per_s: 1e300", "traffic.arrivals_per_s"),
        ("mean_lifetime_s: 1e-300, initial_requests: 1", "traffic.mean_lifetime_s"),
        ("setup_s: 1e-12, initial_requests: 1", "traffic.setup_s"),
        ("drain_s: 1e300, initial_requests: 1", "traffic.drain_s"),
        ("load_steps: [{at_s: 1, factor: 1e300}]", "traffic.load_steps.0.factor"),
        ("process: {kind: mmpp, factors: [0, 1e308], mean_s: [1, 1]}", "traffic.process.factors.1"),
        ("process: {kind: mmpp, factors: [0, 1e-300], mean_s: [1, 1]}", "traffic.process"),
        ("process: {kind: flows, sizes: web-search, scale: 1e300}", "traffic.process.scale"),
        ("process: {kind: flows, sizes: web-search, flow_pps: 1e300}", "traffic.process.flow_pps"),
        ("load: {kind: flash-crowd, at_s: 1, peak: 1e300}", "traffic.load.peak"),
        ("load: {kind: diurnal, period_s: 1, amplitude: .nan}", "traffic.load.amplitude"),
    ],
)  # fmt: skip
def test_a_number_out_of_its_bounds_is_refused_by_its_key(traffic: str, field: str) -> None:
    text = TINY.replace("duration_s: 30, ", "") if "duration_s" in traffic else TINY
    with pytest.raises(InputError) as caught:
        parse_scenario(
            text.replace("LINKS", "rate_bps: 1e6").replace("RATE", "5").replace("TRAFFIC", traffic)
        )
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("links", "field"),
    [
        ("rate_bps: 0.4", "links.rate_bps"),
        ("rate_bps: 1e300", "links.rate_bps"),
        ("queue_bytes: 1000000000000000000000", "links.queue_bytes"),
        ("jitter_s: 1e9", "links.jitter_s"),
        ("propagation_km_per_s: 1e-300", "links.propagation_km_per_s"),
        ("propagation_km_per_s: 1", "links.propagation_km_per_s"),
        ("by_link: [{between: [a, b], rate_bps: 0.4}]", "links.by_link.0.rate_bps"),
        ("by_link: [{between: [a, b], delay_s: 1e9}]", "links.by_link.0.delay_s"),
        ("changes: [{at_s: 1, rate_bps: 0.4}]", "links.changes.0.rate_bps"),
        ("burst_loss: {to_bad: 0.1, to_good: .nan}", "links.burst_loss.to_good"),
        ("burst_loss: {to_bad: 1e-300, to_good: 0.5}", "links.burst_loss.to_bad"),
        ("loss: 1e-300", "links.loss"),
        ("changes: [{at_s: 1, duplicate: 1e-10}]", "links.changes.0.duplicate"),
    ],
)
def test_a_link_that_cannot_be_is_refused(links: str, field: str) -> None:
    assert error_of(links=links).field == field


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        ("load: {kind: diurnal, period_s: 1, step_s: 1e-3}", "traffic.load.step_s"),
        ("load: {kind: flash-crowd, at_s: 1, peak: 2, step_s: 1e-3}", "traffic.load.step_s"),
        ("load: {kind: mmpp, factors: [1, 2], mean_s: [1e-3, 1e-3]}", "traffic.load.mean_s"),
        ("process: {kind: on-off, on_s: 1e-3, off_s: 1e-3}", "traffic.process.on_s"),
        ("process: {kind: mmpp, factors: [1, 2], mean_s: [1e-3, 1e-3]}", "traffic.process.mean_s"),
        ("arrivals: {kind: on-off, on_s: 1e-3, off_s: 1e-3}", "traffic.arrivals.on_s"),
        ("arrivals: {kind: diurnal, period_s: 1, step_s: 1e-3}", "traffic.arrivals.step_s"),
    ],
)
def test_a_rate_that_varies_has_a_bound_on_its_steps(shape: str, field: str) -> None:
    error = error_of(f"initial_requests: 1, {shape}")
    assert (error.field, error.value) == (field, 1e-3)
    assert "30000 steps" in error.expected and f"{MAX_STEPS} at most" in error.expected
    plan_of(f"initial_requests: 1, {shape.replace('1e-3', '3e-3')}")


def test_more_packets_than_a_run_may_have_are_refused_with_their_number() -> None:
    # 28 s or so of one request, 29 s at most.
    error = error_of(rate="1e6")
    assert error.field == "traffic"
    assert int(str(error.value).split()[0]) == pytest.approx(29e6, rel=0.01)
    assert f"at most {MAX_PACKETS}" in error.expected
    assert error_of(rate="1e300").field == "chains.0.rate_pps"
    plan_of(rate="300e3")
    stepped = error_of("initial_requests: 1, load_steps: [{at_s: 15, factor: 4}]", rate="300e3")
    assert int(str(stepped.value).split()[0]) == pytest.approx(300e3 * (14 + 60), rel=0.01)
    assert error_of("initial_requests: 40", rate="10e3").field == "traffic"


@pytest.mark.parametrize(
    ("process", "field"),
    [
        ("{kind: flows, sizes: web-search, flow_pps: 1e6}", "traffic.process.flow_pps"),
        ("{kind: on-off, on_s: 1e-3, off_s: 500e3}", "traffic.process"),
        ("{kind: mmpp, factors: [0, 1], mean_s: [500e3, 1e-3]}", "traffic.process"),
    ],
)
def test_packets_that_come_at_once_are_bounded_too(process: str, field: str) -> None:
    assert error_of(f"initial_requests: 1, process: {process}").field == field


def test_more_requests_than_a_run_may_have_are_refused_before_they_are_drawn() -> None:
    error = error_of("arrivals_per_s: 1e6")
    assert error.field == "traffic.arrivals_per_s"
    assert "29000000 requests" in error.expected and f"{MAX_UNITS} at most" in error.expected
    crowd = "{kind: flash-crowd, at_s: 1, peak: 1e6, hold_s: 20}"
    assert error_of(f"arrivals_per_s: 5, arrivals: {crowd}").field == "traffic.arrivals_per_s"
    assert "shards of all requests" in str(error_of("arrivals_per_s: 30").value)


def test_pairs_that_have_but_one_node_are_named() -> None:
    error = error_of("initial_requests: 1, pairs: [[a, a], [b, b]]")
    assert error.field == "traffic.pairs"
    assert "no pair is left" in error.expected and "a to a; b to b" in error.expected
    plan_of("initial_requests: 1, pairs: [[a, a], [a, b]]")
    requests = plan_of("initial_requests: 9, pairs: [[a, a], [b, a]]").requests
    assert {request.source for request in requests} == {1}


def test_pairs_too_far_for_a_chain_are_named_with_how_far_they_are() -> None:
    error = error_of(links="by_link: [{between: [a, b], delay_s: 0.03}]")
    assert error.field == "chains.0.delay_bound_s"
    assert "no pair is left (a to b, 0.03 s; b to a, 0.03 s)" in error.expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{MAX_TIME_MS + 1}\n", "milliseconds"),
        ("9" * 5000, "milliseconds"),
        ("1" + "0" * 19 + "\n", "milliseconds"),
        ("1" * 5000 + "x", "a whole number of milliseconds"),
        ("5000\n", "a mean rate from 10000"),
        ("\xff", "a whole number"),
    ],
)
def test_a_trace_beyond_what_a_link_can_do_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=said) as caught:
        load_trace(str(path))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("path", ["/dev/zero", "/", "/nowhere", "a\0b"])
def test_a_trace_that_is_no_file_of_its_size_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="trace = "):
        load_trace(path)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["1", "0", "7", "\n", "\n", "\r", "-", " ", "9" * 19, "\xff", "\x85", "x"]),
        max_size=30,
    )
)
def test_any_text_is_a_trace_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-trace"
    path.write_text("".join(words), encoding="latin-1")
    try:
        trace = load_trace(str(path))
    except InputError:
        return
    assert LEAST_RATE_BPS <= trace.mean_bps <= MOST_RATE_BPS
