"""Computes flow rules from wiring and segments. Pure.

A chain's rules match where a frame comes in as well as its virtual MAC address. A segment's frames
follow a shortest-path tree from its source. While a chain is updated, the old and the new tree lie
over each other, and even then no frame runs in a circle: in a circle of arcs of two shortest-path
trees over undirected links, each tree's arcs cost at most half of it, so the arcs on which a frame
could change trees would cost nothing - and no arc costs nothing (`testbed.scenario.paths`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.wiring import HostEnd, Wiring, WiringError, unicast_mac
from testbed.scenario.errors import RunError
from testbed.scenario.paths import Arc, Graph, Tree, branches, make_graph, shortest_paths
from testbed.scenario.steering import Segment

HOST_PRIORITY = 10
CHAIN_PRIORITY = 100
IN_PORT = 0xFFFFFFF8
"""OFPP_IN_PORT: a switch sends a frame back where it came from through this number alone."""


class SegmentError(RunError):
    """A segment that cannot be installed; the message names the field and its value."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule is for; two rules of a switch never have the same match.

    `in_port` None matches frames from every port.
    """

    switch: str
    priority: int
    in_port: int | None
    eth_dst: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Frames that match leave by every port of `outputs` (ascending, without repetition)."""

    match: Match
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """A wiring with its graph and the shortest-path tree from each switch."""

    wiring: Wiring
    graph: Graph
    trees: tuple[Tree, ...]
    number: Mapping[str, int]
    hosts: Mapping[str, HostEnd]


def make_network(wiring: Wiring) -> Network:
    """Compute all shortest paths once.

    Raises WiringError if a switch cannot be reached from another.
    """
    number = {switch.name: place for place, switch in enumerate(wiring.switches)}
    links = ((number[cable.a], number[cable.b], cable.delay_ns) for cable in wiring.links)
    graph = make_graph(len(number), links)
    trees = tuple(shortest_paths(graph, root) for root in range(len(number)))
    for switch in wiring.switches[1:]:
        if trees[0].last[number[switch.name]] is None:
            raise WiringError("links", switch.name, "links that reach every switch")
    return Network(wiring, graph, trees, number, {host.name: host for host in wiring.hosts})


def host_rules(network: Network) -> list[Rule]:
    """Every host's own MAC address, from every switch: a tree of unicast rules that ends there."""
    rules = []
    for host in network.wiring.hosts:
        tree = network.trees[network.number[host.switch]]
        for switch in network.wiring.switches:
            arc = tree.last[network.number[switch.name]]
            # The tree leads away from the host; links are undirected, so its arcs lead back.
            port = host.port if arc is None else _port(network, arc.head, arc)
            match = Match(switch.name, HOST_PRIORITY, None, host.mac)
            rules.append(Rule(match, (port,)))
    return rules


def chain_rules(network: Network, segments: Sequence[Segment]) -> list[Rule]:
    """The rules of a chain's segments; raises SegmentError on a segment that cannot be."""
    check_segments(network, segments)
    return [rule for segment in segments for rule in segment_rules(network, segment)]


def segment_rules(network: Network, segment: Segment) -> list[Rule]:
    """A tree from the source's port to the port of each target."""
    source = network.hosts[segment.source]
    targets = [network.hosts[name] for name in segment.targets]
    root = network.number[source.switch]
    ends = {network.number[host.switch] for host in targets}
    arcs = branches(network.trees[root], ends)
    entries = {root: source.port} | {arc.head: _port(network, arc.head, arc) for arc in arcs}
    ports: dict[int, set[int]] = {node: set() for node in entries}
    for arc in arcs:
        ports[arc.tail].add(_port(network, arc.tail, arc))
    for host in targets:
        ports[network.number[host.switch]].add(host.port)
    return [
        _rule(network.wiring.switches[node].name, entry, segment.mac, ports[node])
        for node, entry in sorted(entries.items())
    ]


def _port(network: Network, node: int, arc: Arc) -> int:
    """The port of the link of an arc at one of its ends."""
    cable = network.wiring.links[arc.link]
    return cable.a_port if network.number[cable.a] == node else cable.b_port


def _rule(switch: str, in_port: int, mac: str, ports: set[int]) -> Rule:
    outputs = sorted(IN_PORT if port == in_port else port for port in ports)
    return Rule(Match(switch, CHAIN_PRIORITY, in_port, mac), tuple(outputs))


def longest_path_ns(network: Network, segments: Iterable[Segment]) -> float:
    """The propagation delay from a source to its farthest target, over all segments; 0 for none."""
    place = {name: network.number[host.switch] for name, host in network.hosts.items()}
    return max(
        (
            network.trees[place[segment.source]].delay_ns[place[target]]
            for segment in segments
            for target in segment.targets
        ),
        default=0.0,
    )


def check_segments(network: Network, segments: Iterable[Segment]) -> None:
    """Raise SegmentError unless the hosts are known and the MAC addresses free and used once."""
    taken = {host.mac: f"host {host.name}" for host in network.wiring.hosts}
    for number, segment in enumerate(segments):
        field = f"segments.{number}"
        try:
            unicast_mac(segment.mac, f"{field}.mac")
        except WiringError as error:
            raise SegmentError(str(error)) from error
        if segment.mac in taken:
            raise SegmentError(
                f"{field}.mac = {segment.mac!r}: expected a free address, "
                f"this is that of {taken[segment.mac]}"
            )
        taken[segment.mac] = field
        if not segment.targets:
            raise SegmentError(f"{field}.targets = (): expected one host or more")
        for end, name in (("source", segment.source), *(("targets", t) for t in segment.targets)):
            if name not in network.hosts:
                raise SegmentError(f"{field}.{end} = {name!r}: expected a host of the topology")
