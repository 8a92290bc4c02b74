"""Shortest paths: one rule, by which controller, twin, energy and delay matrix go link for link."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.rules import IN_PORT, Network, make_network, segment_rules
from controller.wiring import Wiring
from testbed.scenario.names import server_name, user_name
from testbed.scenario.paths import (
    Graph,
    branches,
    delay_matrix_ns,
    graph_of,
    make_graph,
    path,
    shortest_paths,
)
from testbed.scenario.steering import Segment
from testbed.scenario.types import NS_PER_S, Link, Node, Placement, RunPlan, Server, Topology
from testbed.substrate.layout import make_layout, wiring
from testbed.twin.pack import path_matrices
from testbed.twin.power import PowerModel, energy
from testbed.twin.simulate import simulate
from tests.support.controller_support import wirings
from tests.support.twin_support import PROFILES, make_request


def _floyd_warshall(graph: Graph) -> list[list[tuple[float, float]]]:
    """(delay, links) by another algorithm."""
    size = len(graph.arcs)
    best = [[(math.inf, math.inf)] * size for _ in range(size)]
    for node in range(size):
        best[node][node] = (0, 0)
        for arc in graph.arcs[node]:
            best[node][arc.head] = min(best[node][arc.head], (arc.delay_ns, 1))
    for middle, a, b in itertools.product(range(size), repeat=3):
        (d1, h1), (d2, h2) = best[a][middle], best[middle][b]
        best[a][b] = min(best[a][b], (d1 + d2, h1 + h2))
    return best


@given(wirings())
def test_paths_have_least_delay_then_fewest_links(wiring: Wiring) -> None:
    graph = make_network(wiring).graph
    expected = _floyd_warshall(graph)
    for root, target in itertools.product(range(len(graph.arcs)), repeat=2):
        tree = shortest_paths(graph, root)
        arcs = path(tree, target)
        assert (sum(arc.delay_ns for arc in arcs), len(arcs)) == expected[root][target]
        assert tree.delay_ns[target] == expected[root][target][0]
        assert [arc.tail for arc in arcs] == [root, *(arc.head for arc in arcs)][:-1]


@given(wirings(), st.data())
def test_branches_are_a_tree_of_whole_paths(wiring: Wiring, data: st.DataObject) -> None:
    graph = make_network(wiring).graph
    nodes = st.integers(0, len(graph.arcs) - 1)
    tree = shortest_paths(graph, data.draw(nodes))
    targets = data.draw(st.lists(nodes, min_size=1))
    arcs = branches(tree, targets)
    assert len({arc.head for arc in arcs}) == len(arcs)
    assert tree.root not in {arc.head for arc in arcs}
    assert set(arcs) == {arc for target in targets for arc in path(tree, target)}


def test_equal_paths_go_by_the_lower_node() -> None:
    graph = make_graph(4, [(0, 2, 5), (2, 3, 5), (0, 1, 5), (1, 3, 5)])
    assert [arc.head for arc in path(shortest_paths(graph, 0), 3)] == [1, 3]
    # Whichever of the two is reached first.
    graph = make_graph(4, [(0, 2, 3), (2, 3, 7), (0, 1, 5), (1, 3, 5)])
    assert [arc.head for arc in path(shortest_paths(graph, 0), 3)] == [1, 3]


def test_equal_delays_go_by_fewer_links() -> None:
    graph = make_graph(4, [(0, 1, 0), (1, 2, 0), (2, 3, 5), (0, 3, 5)])
    assert [arc.head for arc in path(shortest_paths(graph, 0), 3)] == [3]


def test_of_parallel_links_the_faster_then_the_first() -> None:
    graph = make_graph(2, [(0, 1, 7), (0, 1, 3), (1, 0, 3)])
    for root in (0, 1):
        (arc,) = path(shortest_paths(graph, root), 1 - root)
        assert (arc.link, arc.delay_ns) == (1, 3)


def test_out_of_reach_is_infinite_and_has_no_path() -> None:
    topology = _topology(3, [(0, 1, 1)])
    assert delay_matrix_ns(topology)[0].tolist() == [0, 1, math.inf]
    with pytest.raises(ValueError, match="node number 2"):
        path(shortest_paths(graph_of(topology), 0), 2)
    assert [matrix[0, 2] for matrix in path_matrices(topology)] == [0, 0]


def _topology(size: int, links: list[tuple[int, int, int]]) -> Topology:
    """Each link has another rate: a way's sending time tells which links it has."""
    return Topology(
        tuple(Node(i, f"n{i}", 0.0, 0.0) for i in range(size)),
        tuple(
            Link(a, b, delay_ns, 10_000_000 + 137_731 * number**2, 250_000)
            for number, (a, b, delay_ns) in enumerate(links)
        ),
        tuple(tuple(1.0 for _ in range(size)) for _ in range(size)),
    )


@st.composite
def graphs_of_ties(draw: st.DrawFn) -> Topology:
    """Grids of links of few delays, in any order and direction, some twice; nodes renumbered."""
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    cells = list(itertools.product(range(rows), range(columns)))
    number = dict(zip(cells, draw(st.permutations(range(len(cells)))), strict=True))
    pairs = [
        (number[row, column], number[other])
        for row, column in cells
        for other in ((row + 1, column), (row, column + 1))
        if other in number
    ]
    pairs += draw(st.lists(st.sampled_from(pairs), max_size=3))
    delays = st.sampled_from(draw(st.sampled_from([(2,), (0,), (0, 2), (1, 2), (5, 5, 10)])))
    turned = [pair if draw(st.booleans()) else pair[::-1] for pair in draw(st.permutations(pairs))]
    return _topology(len(cells), [(a, b, draw(delays)) for a, b in turned])


def _crossed(network: Network, segment: Segment) -> dict[str, list[int]]:
    """The links on the way of a frame to each target, as the rules of the switches send it."""
    rules = {rule.match.switch: rule for rule in segment_rules(network, segment)}
    cables = {}
    for number, cable in enumerate(network.wiring.links):
        cables[cable.a, cable.a_port] = number, cable.b, cable.b_port
        cables[cable.b, cable.b_port] = number, cable.a, cable.a_port
    hosts = {(host.switch, host.port): host.name for host in network.wiring.hosts}
    source = network.hosts[segment.source]
    found: dict[str, list[int]] = {}
    frames: list[tuple[str, int, list[int]]] = [(source.switch, source.port, [])]
    while frames:
        switch, entry, links = frames.pop()
        rule = rules[switch]
        assert rule.match.in_port == entry
        for output in rule.outputs:
            port = entry if output == IN_PORT else output
            if (switch, port) in hosts:
                found[hosts[switch, port]] = links
            else:
                link, other, other_port = cables[switch, port]
                frames.append((other, other_port, [*links, link]))
    return found


@given(graphs_of_ties(), st.data())
@settings(deadline=None)
def test_controller_twin_energy_and_delay_matrix_take_the_same_links(
    topology: Topology, data: st.DataObject
) -> None:
    network = make_network(Wiring.from_json(wiring(make_layout(topology, "0a0a0a"))))
    sending, counts = path_matrices(topology)
    delays = delay_matrix_ns(topology)
    nodes = st.integers(0, len(topology.nodes) - 1)
    source, primary, backup = (data.draw(nodes) for _ in range(3))
    members = {server_name(node): node for node in dict.fromkeys((primary, backup))}
    frames = _crossed(network, Segment("02:00:00:00:00:01", user_name(source), tuple(members)))
    assert set(frames) == set(members)
    for name, links in frames.items():
        there = members[name]
        taken = [topology.links[number] for number in links]
        assert delays[source, there] == sum(link.delay_ns for link in taken)
        assert counts[source, there] == len(taken)
        assert sending[source, there] == sum(8.0 * NS_PER_S / link.rate_bps for link in taken)
    # A chain that ends at its primary: its packets cross no other links than to the members.
    crossed = {number for links in frames.values() for number in links}
    joules = _link_joules(topology, source, primary, backup)
    assert {int(number) for number in np.flatnonzero(joules)} == crossed
    assert len({joules[number] for number in crossed}) <= 1  # on no link a packet counts twice


def _link_joules(topology: Topology, source: int, primary: int, backup: int) -> list[float]:
    plan = RunPlan(
        seed=0,
        duration_ns=2 * NS_PER_S,
        topology=topology,
        servers=tuple(Server(node.index, 1.0, 1_000_000_000) for node in topology.nodes),
        profiles=dict(PROFILES),  # type: ignore[arg-type]
        requests=(make_request(source=source, destination=primary, end_ns=2 * NS_PER_S),),
        load_steps=(),
        faults=(),
    )
    placed = {0: (Placement(primary, backup if backup != primary else None),)}
    found = energy(plan, simulate(plan, placed), placed, PowerModel())
    return [float(joules) for joules in found.links_joules]
