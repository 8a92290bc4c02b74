"""Shortest paths by delay over a graph of switches. Pure.

A path's cost is the pair (delay, hops), compared in that order: it is positive on every link even
where a delay is 0, which is what makes two trees together free of loops (see `controller.rules`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edge:
    """One direction of a link: out of port `out_port` of `tail`, into port `in_port` of `head`."""

    tail: int
    out_port: int
    head: int
    in_port: int
    delay_ns: int


@dataclass(frozen=True, slots=True)
class Graph:
    """Switches 0 .. n-1; `edges[i]` leave switch i, best first: delay, neighbour, port."""

    edges: tuple[tuple[Edge, ...], ...]


def make_graph(size: int, edges: Iterable[Edge]) -> Graph:
    """The graph of `size` switches with undirected links, each given in one direction."""
    leaving: list[list[Edge]] = [[] for _ in range(size)]
    for edge in edges:
        leaving[edge.tail].append(edge)
        leaving[edge.head].append(
            Edge(edge.head, edge.in_port, edge.tail, edge.out_port, edge.delay_ns)
        )

    def rank(edge: Edge) -> tuple[int, int, int]:
        return edge.delay_ns, edge.head, edge.out_port

    return Graph(tuple(tuple(sorted(each, key=rank)) for each in leaving))


@dataclass(frozen=True, slots=True)
class Tree:
    """The shortest paths from `root`: the last edge towards each switch, and its delay.

    `last[i]` is None for the root and for a switch out of reach, whose `delay_ns[i]` is infinite.
    """

    root: int
    last: tuple[Edge | None, ...]
    delay_ns: tuple[float, ...]


def shortest_paths(graph: Graph, root: int) -> Tree:
    """Dijkstra from `root`; among equal delays fewer hops, then the lower node number wins."""
    size = len(graph.edges)
    last: list[Edge | None] = [None] * size
    done = [False] * size
    cost: list[tuple[float, int]] = [(math.inf, 0)] * size
    cost[root] = (0, 0)
    queue: list[tuple[float, int, int]] = [(0, 0, root)]
    while queue:
        delay_ns, hops, node = heapq.heappop(queue)
        if done[node]:
            continue
        done[node] = True
        for edge in graph.edges[node]:
            candidate = (delay_ns + edge.delay_ns, hops + 1)
            if candidate < cost[edge.head] or _wins_tie(candidate, cost, edge, last):
                cost[edge.head], last[edge.head] = candidate, edge
                heapq.heappush(queue, (*candidate, edge.head))
    return Tree(root, tuple(last), tuple(delay for delay, _ in cost))


def _wins_tie(
    candidate: tuple[float, int],
    cost: Sequence[tuple[float, int]],
    edge: Edge,
    last: Sequence[Edge | None],
) -> bool:
    chosen = last[edge.head]
    return chosen is not None and candidate == cost[edge.head] and edge.tail < chosen.tail


def delay_matrix_ns(graph: Graph) -> list[list[float]]:
    """Least path delays [from][to]; infinite where there is no path."""
    return [list(shortest_paths(graph, root).delay_ns) for root in range(len(graph.edges))]


def path(tree: Tree, target: int) -> list[Edge]:
    """The edges from the root to `target`; empty for the root. Raises ValueError out of reach."""
    if math.isinf(tree.delay_ns[target]):
        raise ValueError(f"switch number {target} cannot be reached from {tree.root}")
    edges = []
    while (edge := tree.last[target]) is not None:
        edges.append(edge)
        target = edge.tail
    return edges[::-1]


def branches(tree: Tree, targets: Iterable[int]) -> list[Edge]:
    """The edges of the tree that lead to any of `targets`, each once, sorted by their head.

    They are a union of paths of one tree: every switch is entered by one edge at most.
    """
    edges = {edge.head: edge for target in targets for edge in path(tree, target)}
    return [edges[head] for head in sorted(edges)]
