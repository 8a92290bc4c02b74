"""Substrate graphs: from topohub or from the scenario file."""

from __future__ import annotations

import heapq
import math
from typing import Any

import numpy as np
import topohub

from testbed.scenario.errors import InputError
from testbed.scenario.graph import TopologySpec
from testbed.scenario.limits import MAX_DELAY_S, MAX_LINKS, MAX_NODES
from testbed.scenario.link_plan import apply_overrides, first_link
from testbed.scenario.links import LinkSpec
from testbed.scenario.model import Scenario
from testbed.scenario.placement import FloatArray
from testbed.scenario.types import NS_PER_S, Link, Node, Topology


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
    unreachable = np.argwhere(np.isinf(delay_matrix_ns(topology)[0]))
    if len(unreachable):
        name = topology.nodes[int(unreachable[0][0])].name
        raise InputError("topology", name, "every node to be reachable over the links")
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


def delay_matrix_ns(topology: Topology) -> FloatArray:
    """Least path delays between nodes, shape [N, N]; infinite where there is no path."""
    neighbours: list[list[tuple[int, int]]] = [[] for _ in topology.nodes]
    for link in topology.links:
        neighbours[link.a].append((link.b, link.delay_ns))
        neighbours[link.b].append((link.a, link.delay_ns))
    return np.array([_distances(neighbours, node.index) for node in topology.nodes])


def _distances(neighbours: list[list[tuple[int, int]]], source: int) -> list[float]:
    best = [float("inf")] * len(neighbours)
    queue = [(0.0, source)]
    while queue:
        distance, node = heapq.heappop(queue)
        if best[node] <= distance:
            continue
        best[node] = distance
        for other, delay_ns in neighbours[node]:
            heapq.heappush(queue, (distance + delay_ns, other))
    return best


def _link(a: int, b: int, length_km: float, spec: LinkSpec) -> Link:
    return first_link(a, b, round(length_km / spec.propagation_km_per_s * NS_PER_S), spec)


def from_topohub(name: str, spec: LinkSpec, mean_length_km: float | None = None) -> Topology:
    """A graph of topohub by its name; raises InputError if there is none.

    Its links are as long as topohub says, or `mean_length_km` on average, in the same proportions.
    Some of SNDlib's positions are points in a plane of no known unit: there the mean is needed.
    """
    graph = _graph(name)
    for what, most in (("nodes", MAX_NODES), ("edges", MAX_LINKS)):
        if len(graph[what]) > most:
            words = f"a graph of at most {MAX_NODES} nodes and {MAX_LINKS} links"
            shown = f"{name}, of {len(graph['nodes'])} nodes and {len(graph['edges'])} links"
            raise InputError("topology.topohub", shown, words)
    nodes = sorted(graph["nodes"], key=lambda node: int(node["id"]))
    index = {node["id"]: number for number, node in enumerate(nodes)}
    demand = np.zeros((len(nodes), len(nodes)))
    for source, row in graph["graph"].get("demands", {}).items():
        for destination, value in row.items():
            demand[index[source], index[destination]] = float(value)
    ends = [(index[edge["source"]], index[edge["target"]]) for edge in graph["edges"]]
    lengths_km = _lengths_km(name, graph, mean_length_km)
    return Topology(
        nodes=tuple(
            Node(number, str(node["name"]), float(node["pos"][0]), float(node["pos"][1]))
            for number, node in enumerate(nodes)
        ),
        links=tuple(
            _link(a, b, length_km, spec) for (a, b), length_km in zip(ends, lengths_km, strict=True)
        ),
        demand=tuple(tuple(row) for row in demand.tolist()),
    )


def is_on_earth(name: str) -> bool:
    """Whether a graph of topohub has positions that are degrees; raises InputError for no graph."""
    positions = [node["pos"] for node in _graph(name)["nodes"]]
    return all(abs(longitude) <= 180 and abs(latitude) <= 90 for longitude, latitude in positions)


def _graph(name: str) -> dict[str, Any]:
    try:
        graph: dict[str, Any] = topohub.get(name)
    except (KeyError, ValueError, OSError) as error:
        expected = "a graph of topohub, e.g. sndlib/abilene"
        raise InputError("topology.topohub", name, expected) from error
    return graph


def _lengths_km(name: str, graph: dict[str, Any], mean_km: float | None) -> list[float]:
    if is_on_earth(name):
        lengths = [float(edge["dist"]) for edge in graph["edges"]]
    elif mean_km is None:
        expected = f"a mean length of links: the positions of {name} are no degrees on the Earth"
        raise InputError("topology.mean_length_km", None, expected)
    else:
        place = {node["id"]: node["pos"] for node in graph["nodes"]}
        lengths = [math.dist(place[e["source"]], place[e["target"]]) for e in graph["edges"]]
    share = 1.0 if mean_km is None else mean_km * len(lengths) / sum(lengths)
    return [length * share for length in lengths]


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
    size = len(nodes)
    return Topology(
        nodes=tuple(
            Node(number, node.name, node.longitude_deg, node.latitude_deg)
            for number, node in enumerate(nodes)
        ),
        links=tuple(
            _link(names.index(edge.a), names.index(edge.b), edge.length_km, links) for edge in edges
        ),
        demand=tuple(tuple(0.0 if i == j else 1.0 for j in range(size)) for i in range(size)),
    )
