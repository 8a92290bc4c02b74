"""Networks for benchmarks: built as a run builds them, with rules instead of a controller."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testbed.scenario.types import Link, Node, Topology
from testbed.substrate.bare_network import bare_network
from testbed.substrate.commands import run
from testbed.substrate.emulated_network import Network
from testbed.substrate.probe import choose, probe


@dataclass(slots=True)
class Times:
    """How long it took to build and to remove a network."""

    build_s: float = 0.0
    remove_s: float = field(default=0.0)


def row(nodes: int, delay_ns: int = 1_000_000, rate_bps: int = 100_000_000) -> Topology:
    """Nodes in a row."""
    return Topology(
        nodes=tuple(Node(i, f"n{i}", 0.0, 0.0) for i in range(nodes)),
        links=tuple(Link(i, i + 1, delay_ns, rate_bps, 250_000) for i in range(nodes - 1)),
        demand=(),
    )


@contextmanager
def network_of(topology: Topology, folder: Path, times: Times | None = None) -> Iterator[Network]:
    """The network of a topology on this host's back ends; it goes with the context."""
    times = Times() if times is None else times
    begin_s = time.monotonic()
    with bare_network(topology, choose(probe()), folder) as network:
        times.build_s = time.monotonic() - begin_s
        yield network
        begin_s = time.monotonic()
    times.remove_s = time.monotonic() - begin_s


def lead(network: Network, path: Sequence[int], mac: str, port: int) -> None:
    """Rules that take frames to `mac` along the nodes of `path`, and out of `port` at its end."""
    for here, there in zip(path, [*path[1:], None], strict=True):
        out = port if there is None else _port(network, here, there)
        bridge = network.layout.bridges[here]
        rule = f"dl_dst={mac},actions=output:{out}"
        run(["ovs-ofctl", "-O", "OpenFlow13", "add-flow", bridge, rule])


def _port(network: Network, here: int, there: int) -> int:
    for plan in network.layout.links:
        if (plan.link.a, plan.link.b) == (here, there):
            return plan.a_port
        if (plan.link.b, plan.link.a) == (here, there):
            return plan.b_port
    raise ValueError(f"nodes {here} and {there} have no link")


def longest_path(topology: Topology) -> list[int]:
    """The longest of all paths with the fewest hops."""
    paths = [_farthest(topology, node.index) for node in topology.nodes]
    return max(paths, key=len)


def _farthest(topology: Topology, source: int) -> list[int]:
    near: dict[int, list[int]] = {node.index: [] for node in topology.nodes}
    for link in topology.links:
        near[link.a].append(link.b)
        near[link.b].append(link.a)
    found = {source: [source]}
    queue = deque([source])
    path = [source]
    while queue:
        here = queue.popleft()
        path = found[here]
        for there in near[here]:
            if there not in found:
                found[there] = [*path, there]
                queue.append(there)
    return path
