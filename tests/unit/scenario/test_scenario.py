"""A scenario file is checked before anything is built, and the error names what is wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario, parse_scenario
from testbed.scenario.model import decided_by
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.plan import make_plan, plan_digest
from testbed.scenario.schema import schema_text
from testbed.scenario.topology import make_topology
from tests.support.places import SCENARIOS


def smoke() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((SCENARIOS / "smoke.yaml").read_text())
    data["links"]["rate_bps"] = 50_000_000
    return data


def error_of(data: dict[str, Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        make_plan(parse_scenario(yaml.safe_dump(data)), 1)
    return caught.value


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.name)
def test_published_scenarios_are_valid(path: Path) -> None:
    scenario = load_scenario(path)
    for seed in scenario.seeds:
        assert make_plan(scenario, seed).requests


def test_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    data = smoke()
    data["links"]["rate_mbps"] = 5
    error = error_of(data)
    assert error.field == "links.rate_mbps"
    assert "did you mean rate_bps?" in error.expected


def test_negative_rate_names_field_value_and_unit() -> None:
    data = smoke()
    data["links"]["rate_bps"] = -5
    error = error_of(data)
    assert (error.field, error.value) == ("links.rate_bps", -5)
    assert "from 10000 to" in error.expected and "bits per second" in error.expected


def test_a_value_with_a_unit_in_it_is_refused() -> None:
    data = smoke()
    data["links"]["rate_bps"] = "50 Mb/s"
    error = error_of(data)
    assert (error.field, error.value) == ("links.rate_bps", "50 Mb/s")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d["servers"].update(by_node={"moon": {"cpu_cores": 1.0}}), "servers.by_node"),
        (lambda d: d["faults"][0].update(node="moon"), "faults.0.node"),
        (lambda d: d["traffic"].update(pairs=[["west", "moon"]]), "traffic.pairs"),
        (lambda d: d["topology"]["links"][0].update(b="moon"), "topology.links.0.b"),
    ],
)
def test_a_node_that_the_topology_lacks(change: Any, field: str) -> None:
    data = smoke()
    change(data)
    error = error_of(data)
    assert error.field.startswith(field)
    assert error.value == "moon" or "moon" in error.field


def test_a_chain_that_cannot_be_placed() -> None:
    data = smoke()
    data["chains"][0]["delay_bound_s"] = 0.001
    error = error_of(data)
    assert error.field == "chains.0.delay_bound_s"
    assert "cannot be placed" in error.expected


def test_a_topology_in_two_parts_is_refused() -> None:
    data = smoke()
    data["topology"]["links"] = [{"a": "west", "b": "north", "length_km": 1}]
    assert error_of(data).field == "topology"


def test_the_number_of_backups_is_checked() -> None:
    data = smoke()
    nodes = len(data["topology"]["nodes"])
    for backups, field, text in (
        (4, "replication.backups", "a whole number from 0 to 3"),
        (-1, "replication.backups", "a whole number from 0 to 3"),
        (nodes, "replication.backups", f"fewer than the {nodes} nodes"),
        (0, "replication", "availability if backups is 0"),
    ):
        data["replication"] = {"backups": backups}
        error = error_of(data)
        assert error.field == field and text in error.expected
    data["replication"] = {"backups": nodes, "mode": "none"}
    assert parse_scenario(yaml.safe_dump(data)).replication.backups_wanted == 0


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="given twice"):
        parse_scenario("format: 1\nformat: 1\n")


def test_numbers_with_an_exponent_are_numbers() -> None:
    text = (SCENARIOS / "smoke.yaml").read_text()
    assert "50e6" in text
    assert parse_scenario(text).links.rate_bps == 50e6


def test_a_plan_depends_on_scenario_and_seed_alone() -> None:
    scenario = load_scenario(SCENARIOS / "abilene.yaml")
    assert plan_digest(make_plan(scenario, 1)) == plan_digest(make_plan(scenario, 1))
    assert plan_digest(make_plan(scenario, 1)) != plan_digest(make_plan(scenario, 2))
    other = decided_by(scenario, ["ppo"], scenario.seeds)
    assert plan_digest(make_plan(other, 1)) == plan_digest(make_plan(scenario, 1))


def test_abilene_is_sndlibs_with_delays_from_lengths() -> None:
    topology = make_topology(load_scenario(SCENARIOS / "abilene.yaml"))
    assert (len(topology.nodes), len(topology.links)) == (12, 15)
    link = next(link for link in topology.links if (link.a, link.b) == (0, 1))
    assert link.delay_ns == round(132.4 / 200_000 * 1e9)
    delays = delay_matrix_ns(topology)
    assert (delays == delays.T).all() and delays.max() < 40e6


def test_requests_start_within_the_run_and_can_meet_their_bound() -> None:
    scenario = load_scenario(SCENARIOS / "abilene.yaml")
    for seed in range(20):
        plan = make_plan(scenario, seed)
        delays = delay_matrix_ns(plan.topology)
        for request in plan.requests:
            assert request.arrival_ns < request.start_ns < request.end_ns <= plan.duration_ns
            assert delays[request.source, request.destination] <= request.delay_bound_ns / 2


def test_the_published_schema_is_the_models() -> None:
    assert (SCENARIOS / "schema.json").read_text() == schema_text(), (
        "write it anew: .venv/bin/python -m testbed.scenario.schema > scenarios/schema.json"
    )


def sharded(**changes: Any) -> dict[str, Any]:
    data = smoke()
    data["chains"][0]["shards"] = 4
    return {**data, **changes}


def test_requests_have_the_shards_of_their_chain_one_after_another() -> None:
    data = sharded()
    data["traffic"]["initial_requests"] = 3
    requests = make_plan(parse_scenario(yaml.safe_dump(data)), 1).requests
    assert [(request.shards, request.first_unit) for request in requests] == [
        (4, 0),
        (4, 4),
        (4, 8),
    ]


def test_more_shards_than_there_are_ports_for_are_refused() -> None:
    data = sharded()
    data["traffic"]["initial_requests"] = 128
    make_plan(parse_scenario(yaml.safe_dump(data)), 1)
    data["traffic"]["initial_requests"] = 129
    error = error_of(data)
    assert (error.field, error.value) == ("traffic", "516 shards of all requests")
    assert "at most 512" in error.expected


ORDER = {"at_s": 2, "request": 0, "function": 1}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scales": [{**ORDER, "instances": 5}]}, "scales.0.instances"),
        ({"scales": [{**ORDER, "function": 2, "instances": 1}]}, "scales.0.function"),
        ({"scales": [{**ORDER, "instances": 0}]}, "scales.0.instances"),
        ({"moves": [{**ORDER, "to": "west", "shard": 4}]}, "moves.0.shard"),
        ({"moves": [{**ORDER, "to": "west", "function": 2}]}, "moves.0.function"),
        ({"moves": [{**ORDER, "to": "nowhere"}]}, "moves.0.to"),
        ({"scales": [{**ORDER, "at_s": 6, "instances": 1}]}, "scales.0.at_s"),
        ({"scaling": {"high": 0.4, "low": 0.4}}, "scaling"),
    ],
)
def test_moves_and_scales_that_cannot_be_are_named(change: dict[str, Any], field: str) -> None:
    assert error_of(sharded(**change)).field == field


def test_moves_and_scales_come_in_the_order_of_time() -> None:
    scales = [{**ORDER, "instances": 2, "at_s": 3}, {**ORDER, "instances": 4}]
    data = sharded(scales=scales, moves=[{**ORDER, "to": "west"}])
    plan = make_plan(parse_scenario(yaml.safe_dump(data)), 1)
    assert [scale.instances for scale in plan.scales] == [4, 2]
    assert [move.shard for move in plan.moves] == [None]


def test_a_topology_has_at_most_128_nodes() -> None:
    data = smoke()
    del data["traffic"]["pairs"]
    data["servers"].pop("by_node")
    data["faults"] = []
    data["topology"] = {"topohub": "sndlib/ta2", "mean_length_km": 100}
    plan = make_plan(parse_scenario(yaml.safe_dump(data)), 1)
    assert len(plan.servers) == 65
    data["topology"] = {"topohub": "sndlib/brain"}
    error = error_of(data)
    assert error.field == "topology.topohub"
    assert "sndlib/brain, of 161 nodes" in str(error.value)


def on_topology(**topology: object) -> dict[str, Any]:
    data = smoke()
    del data["traffic"]["pairs"]
    data["servers"].pop("by_node")
    data["faults"] = []
    data["topology"] = topology
    return data


def lengths_km(**topology: object) -> list[float]:
    data = on_topology(**topology)
    data["links"]["propagation_km_per_s"] = 200_000
    scenario = parse_scenario(yaml.safe_dump(data))
    return [link.delay_ns / 5_000 for link in make_topology(scenario).links]


def test_positions_that_are_no_degrees_do_not_tell_how_long_links_are() -> None:
    error = error_of(on_topology(topohub="sndlib/atlanta"))
    assert error.field == "topology.mean_length_km"
    assert "the positions of sndlib/atlanta are no degrees" in str(error)
    found = lengths_km(topohub="sndlib/atlanta", mean_length_km=80)
    assert np.mean(found) == pytest.approx(80, rel=1e-5)
    # The first link is from (283, 248) to (339, 151), the last from (216, 59) to (97, 218).
    first, last = math.hypot(56, 97), math.hypot(119, 159)
    assert found[0] / found[-1] == pytest.approx(first / last, rel=1e-4)


def test_a_mean_length_keeps_the_proportions_of_real_ones() -> None:
    real = np.array(lengths_km(topohub="sndlib/abilene"))
    found = np.array(lengths_km(topohub="sndlib/abilene", mean_length_km=100))
    np.testing.assert_allclose(found, real * 100 / real.mean(), rtol=1e-4)


def test_inline_links_say_themselves_how_long_they_are() -> None:
    data = smoke()
    data["topology"]["mean_length_km"] = 100
    assert "no mean_length_km" in str(error_of(data))


@pytest.mark.parametrize(
    ("captures", "expected"),
    [
        ([{"user": "nowhere"}], "captures.0 = 'nowhere': expected one of the nodes"),
        ([{"server": "west"}, {"server": "west"}], "no port twice"),
        ([{"link": ["west", "west"]}], "captures.0.link"),
        ([{"link": ["west", "east"], "user": "west"}], "one of link, server and user"),
    ],
)
def test_captures_of_ports_that_are_not_there_are_refused(
    captures: list[dict[str, Any]], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        make_plan(parse_scenario(yaml.safe_dump({**smoke(), "captures": captures})), 1)
