"""Shortest paths: least delay, fewest hops, one tree, the same every time."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.paths import (
    Edge,
    Graph,
    branches,
    delay_matrix_ns,
    make_graph,
    path,
    shortest_paths,
)
from controller.rules import make_network
from controller.wiring import Wiring
from tests.unit.controller_support import wirings


def _graph(size: int, *links: tuple[int, int, int]) -> Graph:
    edges = (Edge(a, 10 + n, b, 50 + n, delay) for n, (a, b, delay) in enumerate(links))
    return make_graph(size, edges)


def _floyd_warshall(graph: Graph) -> list[list[tuple[float, float]]]:
    """(delay, hops) by another algorithm."""
    size = len(graph.edges)
    best = [[(math.inf, math.inf)] * size for _ in range(size)]
    for node in range(size):
        best[node][node] = (0, 0)
        for edge in graph.edges[node]:
            best[node][edge.head] = min(best[node][edge.head], (edge.delay_ns, 1))
    for middle, a, b in itertools.product(range(size), repeat=3):
        (d1, h1), (d2, h2) = best[a][middle], best[middle][b]
        best[a][b] = min(best[a][b], (d1 + d2, h1 + h2))
    return best


@given(wirings())
def test_paths_have_least_delay_then_fewest_hops(wiring: Wiring) -> None:
    graph = make_network(wiring).graph
    expected = _floyd_warshall(graph)
    assert delay_matrix_ns(graph) == [[cost[0] for cost in row] for row in expected]
    for root, target in itertools.product(range(len(graph.edges)), repeat=2):
        edges = path(shortest_paths(graph, root), target)
        assert (sum(edge.delay_ns for edge in edges), len(edges)) == expected[root][target]
        assert [edge.tail for edge in edges] == [root, *(edge.head for edge in edges)][:-1]


@given(wirings(), st.data())
def test_branches_are_a_tree_of_whole_paths(wiring: Wiring, data: st.DataObject) -> None:
    graph = make_network(wiring).graph
    nodes = st.integers(0, len(graph.edges) - 1)
    tree = shortest_paths(graph, data.draw(nodes))
    targets = data.draw(st.lists(nodes, min_size=1))
    edges = branches(tree, targets)
    assert len({edge.head for edge in edges}) == len(edges)
    assert tree.root not in {edge.head for edge in edges}
    assert set(edges) == {edge for target in targets for edge in path(tree, target)}


def test_equal_paths_go_by_the_lower_node() -> None:
    graph = _graph(4, (0, 2, 5), (2, 3, 5), (0, 1, 5), (1, 3, 5))
    assert [edge.head for edge in path(shortest_paths(graph, 0), 3)] == [1, 3]
    # Whichever of the two is reached first.
    graph = _graph(4, (0, 2, 3), (2, 3, 7), (0, 1, 5), (1, 3, 5))
    assert [edge.head for edge in path(shortest_paths(graph, 0), 3)] == [1, 3]


def test_equal_delays_go_by_fewer_hops() -> None:
    graph = _graph(4, (0, 1, 0), (1, 2, 0), (2, 3, 5), (0, 3, 5))
    assert [edge.head for edge in path(shortest_paths(graph, 0), 3)] == [3]


def test_of_parallel_links_the_faster_then_the_lower_port() -> None:
    graph = _graph(2, (0, 1, 7), (0, 1, 3), (0, 1, 3))
    (edge,) = path(shortest_paths(graph, 0), 1)
    assert (edge.delay_ns, edge.out_port) == (3, 11)


def test_out_of_reach_is_infinite_and_has_no_path() -> None:
    graph = _graph(3, (0, 1, 1))
    assert delay_matrix_ns(graph)[0] == [0, 1, math.inf]
    with pytest.raises(ValueError, match="switch number 2"):
        path(shortest_paths(graph, 0), 2)
