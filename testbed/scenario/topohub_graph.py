"""Graphs of topohub as substrate graphs, with names and demands where topohub has none."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import topohub

from testbed.scenario.base import GRAPH_PATTERN, PATTERN_WORDS
from testbed.scenario.errors import InputError
from testbed.scenario.limits import MAX_LINKS, MAX_NODES
from testbed.scenario.link_plan import link_of_length
from testbed.scenario.links import LinkSpec
from testbed.scenario.types import Node, Topology


def from_topohub(name: str, spec: LinkSpec, mean_length_km: float | None = None) -> Topology:
    """A graph of topohub by its name; raises InputError if there is none.

    Its links are as long as topohub says, or `mean_length_km` on average, in the same proportions.
    Some of SNDlib's positions are points in a plane of no known unit: there the mean is needed.
    A node without a name is called node- and its number in the graph; a name that several nodes
    have is numbered for each of them (London-1, London-2), so that no name stands for two. Without
    demands all pairs of nodes are alike.
    """
    graph = _graph(name)
    for what, most in (("nodes", MAX_NODES), ("edges", MAX_LINKS)):
        if len(graph[what]) > most:
            words = f"a graph of at most {MAX_NODES} nodes and {MAX_LINKS} links"
            shown = f"{name}, of {len(graph['nodes'])} nodes and {len(graph['edges'])} links"
            raise InputError("topology.topohub", shown, words)
    nodes = sorted(graph["nodes"], key=lambda node: int(node["id"]))
    index = {node["id"]: number for number, node in enumerate(nodes)}
    ends = [(index[edge["source"]], index[edge["target"]]) for edge in graph["edges"]]
    lengths_km = _lengths_km(name, graph, mean_length_km)
    return Topology(
        nodes=tuple(
            Node(number, called, float(node["pos"][0]), float(node["pos"][1]))
            for number, (called, node) in enumerate(zip(_names(nodes), nodes, strict=True))
        ),
        links=tuple(
            link_of_length(a, b, length_km, spec)
            for (a, b), length_km in zip(ends, lengths_km, strict=True)
        ),
        demand=_demands(graph, index),
    )


def remarks(name: str) -> tuple[str, ...]:
    """What a person should know of a graph of topohub: names that deftbed made, no demands."""
    graph = _graph(name)
    own = [_own_name(node) for node in graph["nodes"]]
    found = []
    if "" in own:
        found.append(f"nodes of {name} without a name are called node- and their number there")
    twice = sorted({called for called in own if called and own.count(called) > 1})
    if twice:
        several = ", ".join(twice)
        found.append(
            f"names that several nodes of {name} have ({several}) are numbered: {twice[0]}-1, ..."
        )
    if not graph["graph"].get("demands"):
        found.append(f"{name} says nothing of demands: all pairs of nodes are asked for alike")
    return tuple(found)


def equal_demands(nodes: int) -> tuple[tuple[float, ...], ...]:
    """A demand matrix that says the same of each pair of different nodes."""
    return tuple(tuple(float(i != j) for j in range(nodes)) for i in range(nodes))


def _demands(graph: dict[str, Any], index: dict[Any, int]) -> tuple[tuple[float, ...], ...]:
    given = graph["graph"].get("demands")
    if not given:
        return equal_demands(len(index))
    demand = np.zeros((len(index), len(index)))
    for source, row in given.items():
        for destination, value in row.items():
            demand[index[source], index[destination]] = float(value)
    return tuple(tuple(row) for row in demand.tolist())


def _own_name(node: dict[str, Any]) -> str:
    """The name that topohub has for a node, empty if none; what a file's name cannot hold is -."""
    return re.sub(r"[/\x00-\x1f]", "-", str(node.get("name", "")).strip())


def _names(nodes: list[dict[str, Any]]) -> list[str]:
    """A name for each node, all different: a name that several have is numbered for each."""
    own = [_own_name(node) or f"node-{node['id']}" for node in nodes]
    taken, names = set(own), []
    for name in own:
        if own.count(name) > 1:
            name = next(new for n in itertools.count(1) if (new := f"{name}-{n}") not in taken)
            taken.add(name)
        names.append(name)
    return names


def is_on_earth(name: str) -> bool:
    """Whether a graph of topohub has positions that are degrees; raises InputError for no graph."""
    positions = [node["pos"] for node in _graph(name)["nodes"]]
    return all(abs(longitude) <= 180 and abs(latitude) <= 90 for longitude, latitude in positions)


def _graph(name: str) -> dict[str, Any]:
    expected = PATTERN_WORDS[GRAPH_PATTERN]
    if not re.fullmatch(GRAPH_PATTERN, name):  # topohub would look for any path
        raise InputError("topology.topohub", name, expected)
    try:
        graph: dict[str, Any] = topohub.get(name)
    except (KeyError, ValueError, OSError) as error:
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
