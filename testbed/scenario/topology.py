"""Substrate graphs: from topohub or from the scenario file."""

from __future__ import annotations

import math

from testbed.scenario.errors import InputError
from testbed.scenario.graph import TopologySpec
from testbed.scenario.limits import MAX_DELAY_S
from testbed.scenario.link_plan import apply_overrides, link_of_length
from testbed.scenario.links import LinkSpec
from testbed.scenario.model import Scenario
from testbed.scenario.paths import graph_of, shortest_paths
from testbed.scenario.topohub_graph import equal_demands, from_topohub
from testbed.scenario.types import NS_PER_S, Node, Topology


def make_topology(scenario: Scenario) -> Topology:
    """The scenario's substrate graph; raises InputError if it is unknown or not connected."""
    spec = scenario.topology
    topology = (
        from_topohub(spec.topohub, scenario.links, spec.mean_length_km)
        if spec.topohub is not None
        else _inline(spec, scenario.links)
    )
    _check_delays(topology, scenario.links)
    topology = apply_overrides(topology, scenario.links)
    from_first_ns = shortest_paths(graph_of(topology), 0).delay_ns
    for node, delay_ns in zip(topology.nodes, from_first_ns, strict=True):
        if math.isinf(delay_ns):
            raise InputError("topology", node.name, "every node to be reachable over the links")
    return topology


def _check_delays(topology: Topology, links: LinkSpec) -> None:
    for link in topology.links:
        if link.delay_ns > MAX_DELAY_S * NS_PER_S:
            ends = f"{topology.nodes[link.a].name} to {topology.nodes[link.b].name}"
            raise InputError(
                "links.propagation_km_per_s",
                links.propagation_km_per_s,
                f"a speed at which each link takes at most {MAX_DELAY_S:g} s; from {ends} it is "
                f"{link.delay_ns / NS_PER_S:g} s",
            )


def _inline(spec: TopologySpec, links: LinkSpec) -> Topology:
    nodes, edges = spec.nodes or [], spec.links or []
    names = [node.name for node in nodes]
    if len(set(names)) != len(names):
        raise InputError("topology.nodes", names, "names without repetition")
    for number, edge in enumerate(edges):
        for end in ("a", "b"):
            if getattr(edge, end) not in names:
                field = f"topology.links.{number}.{end}"
                raise InputError(field, getattr(edge, end), f"one of the nodes {names}")
        if edge.a == edge.b:
            raise InputError(f"topology.links.{number}", edge.a, "two different nodes")
    return Topology(
        nodes=tuple(
            Node(number, node.name, node.longitude_deg, node.latitude_deg)
            for number, node in enumerate(nodes)
        ),
        links=tuple(
            link_of_length(names.index(edge.a), names.index(edge.b), edge.length_km, links)
            for edge in edges
        ),
        demand=equal_demands(len(nodes)),
    )
