"""Every graph of topohub is a topology with a name for each node, or is refused with a reason."""

from __future__ import annotations

import collections
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import topohub
import yaml

from testbed.cli.main import main
from testbed.scenario.errors import InputError
from testbed.scenario.limits import MAX_NODES
from testbed.scenario.links import LinkSpec
from testbed.scenario.load import parse_scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.remarks import remarks
from testbed.scenario.topohub_graph import _names, from_topohub
from testbed.scenario.types import RunPlan

DATA = Path(topohub.__file__).parent / "data"
GRAPHS = sorted(str(path.relative_to(DATA).with_suffix("")) for path in DATA.rglob("*.json"))
SCENARIO: dict[str, Any] = {
    "format": 1,
    "name": "graph",
    "servers": {"default": {"cpu_cores": 0.5}},
    "chains": [
        {"name": "one", "functions": ["fw"], "rate_pps": 50, "l3_bytes": 200, "delay_bound_s": 10}
    ],
    "traffic": {"duration_s": 3, "initial_requests": 1},
    "policies": ["deft"],
    "seeds": [1],
}


def plan_of(graph: str, **changes: Any) -> RunPlan:
    data = {**SCENARIO, "topology": {"topohub": graph}, **changes}
    return make_plan(parse_scenario(yaml.safe_dump(data)), 1)


def test_every_graph_is_a_topology_or_refused_with_a_reason() -> None:
    assert len(GRAPHS) == 707
    refused: collections.Counter[str] = collections.Counter()
    for graph in GRAPHS:
        try:
            topology = from_topohub(graph, LinkSpec())
        except InputError as error:
            refused[error.field] += 1
            if error.field == "topology.topohub":
                assert re.search(r"of \d+ nodes and \d+ links", str(error))
                continue
            topology = from_topohub(graph, LinkSpec(), 100.0)
        names = [node.name for node in topology.nodes]
        assert len(set(names)) == len(names) and all(names)
        assert not re.search(r"[/\0]", "".join(names))
        assert np.sum(topology.demand) > 0
    # More than 128 nodes; positions that are no degrees, 11 of SNDlib's and the drawn graphs.
    assert refused == {"topology.topohub": 183, "topology.mean_length_km": 221}


@pytest.mark.parametrize("graph", GRAPHS[::50])
def test_a_graph_is_planned(graph: str) -> None:
    if len(topohub.get(graph)["nodes"]) <= MAX_NODES:
        data = {"topohub": graph, "mean_length_km": 100}
        assert len(plan_of(graph, topology=data).requests) == 1


def test_nodes_that_share_a_name_are_numbered_and_the_name_alone_is_refused() -> None:
    graph = "topozoo/BtEurope"
    plan = plan_of(graph, faults=[{"kind": "server-down", "at_s": 2, "node": "London-2"}])
    names = [node.name for node in plan.topology.nodes]
    assert {"London-1", "London-2"} < set(names) and "London" not in names
    assert plan.faults[0].node == names.index("London-2")
    for changes, field in (
        ({"faults": [{"kind": "server-down", "at_s": 2, "node": "London"}]}, "faults.0.node"),
        ({"captures": [{"server": "London"}]}, "captures.0"),
        ({"links": {"by_link": [{"between": ["London", "Paris"]}]}}, "links.by_link.0.between"),
        ({"traffic": {**SCENARIO["traffic"], "pairs": [["London", "Paris"]]}}, "traffic.pairs.0"),
        ({"servers": {**SCENARIO["servers"], "by_node": {"London": {"cpu_cores": 1}}}},
         "servers.by_node.London"),
        ({"moves": [{"at_s": 2, "request": 0, "function": 0, "to": "London"}]}, "moves.0.to"),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            plan_of(graph, **changes)
        assert caught.value.field == field
        assert "London-1" in caught.value.expected and "London-2" in caught.value.expected


def test_made_names_are_of_nobody_else() -> None:
    nodes = [{"id": number, "name": name} for number, name in enumerate(["A", "A-1", "A", "B/C"])]
    nodes += [{"id": 4}, {"id": 5, "name": "node-4"}, {"id": 6, "name": " "}]
    assert _names(nodes) == ["A-2", "A-1", "A-3", "B-C", "node-4-1", "node-4-2", "node-6"]


@pytest.mark.parametrize("graph", ["../../x", "sndlib/../sndlib/abilene", "nowhere/x", "abilene"])
def test_what_is_no_graph_of_topohub_is_refused(graph: str) -> None:
    with pytest.raises(InputError, match=r"topology\.topohub = .*: expected a graph of topohub"):
        plan_of(graph)


def test_check_says_what_is_made_of_a_graph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump({**SCENARIO, "topology": {"topohub": "topozoo/BtEurope"}}))
    with pytest.raises(SystemExit) as end:
        main(["check", str(path)])
    assert end.value.code == 0
    said = capsys.readouterr().err
    assert "says nothing of demands: all pairs of nodes are asked for alike" in said
    assert "names that several nodes of topozoo/BtEurope have (London) are numbered" in said


def test_orders_for_requests_that_no_seed_has_are_remarked() -> None:
    order = {"at_s": 2, "request": 1, "function": 0}
    data = {**SCENARIO, "topology": {"topohub": "sndlib/abilene"}}
    data["moves"] = [{**order, "to": "CHINng"}, {**order, "request": 0, "to": "CHINng"}]
    scenario = parse_scenario(yaml.safe_dump(data))
    plan = make_plan(scenario, 1)
    (said,) = remarks(scenario, [plan])
    assert said.startswith("moves.0 is never carried out: no seed has request 1")
    more = dataclasses.replace(plan, requests=plan.requests * 2)
    assert remarks(scenario, [plan, more]) == ()
