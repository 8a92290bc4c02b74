"""The one rule by which packets find their way over a graph of switches. Pure.

The controller lays its rules by it, the twin counts delays and sending times by it, energy counts
its links, and the delay matrix that policies see is made by it. From a root the path to a node is

1. one of least delay;
2. of those, one of fewest links;
3. of those, the one whose last link comes from the node of the lower number;
4. of parallel links from there, the one that is listed first.

All paths of a root make a tree: each begins with the path of the node before its end. A link costs
the pair (delay, 1), so none costs nothing, also where a delay is 0: that is what makes two trees
together free of loops (see `controller.rules`). The ways from a to b and from b to a have the same
delay and as many links; where there are ties they may be of different links.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.scenario.types import Topology


class Arc(NamedTuple):
    """One direction of a link, which is told by its number in the list of links.

    Arcs that reach a node at the same cost are preferred in the order of their fields.
    """

    tail: int
    link: int
    head: int
    delay_ns: int


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes 0 .. n-1; `arcs[i]` leave node i."""

    arcs: tuple[tuple[Arc, ...], ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """The paths from `root`: the last arc towards each node, and the delay of the path.

    `last[i]` is None for the root and for a node out of reach, whose `delay_ns[i]` is infinite.
    """

    root: int
    last: tuple[Arc | None, ...]
    delay_ns: tuple[float, ...]


def make_graph(size: int, links: Iterable[tuple[int, int, int]]) -> Graph:
    """The graph of `size` nodes with undirected links (a, b, delay in ns), numbered from 0."""
    leaving: list[list[Arc]] = [[] for _ in range(size)]
    for number, (a, b, delay_ns) in enumerate(links):
        leaving[a].append(Arc(a, number, b, delay_ns))
        leaving[b].append(Arc(b, number, a, delay_ns))
    return Graph(tuple(tuple(arcs) for arcs in leaving))


def graph_of(topology: Topology) -> Graph:
    """The graph of a substrate."""
    links = ((link.a, link.b, link.delay_ns) for link in topology.links)
    return make_graph(len(topology.nodes), links)


def shortest_paths(graph: Graph, root: int) -> Tree:
    """The paths from `root` to all nodes, by Dijkstra's algorithm.

    Each arc costs more than nothing, so all arcs that reach a node at its least cost are on the
    queue when the first of them leaves it: that is the one that the rule prefers.
    """
    last: list[Arc | None] = [None] * len(graph.arcs)
    delay_ns = [math.inf] * len(graph.arcs)
    queue = [(0, 0, Arc(-1, -1, root, 0))]
    while queue:
        so_far_ns, links, arc = heapq.heappop(queue)
        node = arc.head
        if delay_ns[node] < math.inf:
            continue
        delay_ns[node] = so_far_ns
        last[node] = arc if node != root else None
        for further in graph.arcs[node]:
            if delay_ns[further.head] == math.inf:
                heapq.heappush(queue, (so_far_ns + further.delay_ns, links + 1, further))
    return Tree(root, tuple(last), tuple(delay_ns))


def path(tree: Tree, target: int) -> list[Arc]:
    """The arcs from the root to `target`; empty for the root. Raises ValueError out of reach."""
    if math.isinf(tree.delay_ns[target]):
        raise ValueError(f"node number {target} cannot be reached from {tree.root}")
    arcs = []
    while (arc := tree.last[target]) is not None:
        arcs.append(arc)
        target = arc.tail
    return arcs[::-1]


def branches(tree: Tree, targets: Iterable[int]) -> list[Arc]:
    """The arcs of the tree that lead to any of `targets`, each once, sorted by their head.

    They are a union of paths of one tree: every node is entered by one arc at most.
    """
    arcs = {arc.head: arc for target in targets for arc in path(tree, target)}
    return [arcs[head] for head in sorted(arcs)]


def delay_matrix_ns(topology: Topology) -> NDArray[np.float64]:
    """Path delays between nodes, shape [N, N]; infinite where there is no path."""
    graph = graph_of(topology)
    delays = [shortest_paths(graph, node.index).delay_ns for node in topology.nodes]
    return np.array(delays, dtype=np.float64)
