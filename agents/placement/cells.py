"""The cells of an evaluation: a scenario at another load, or on a substrate it was not made for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from testbed.scenario.graph import TopologySpec
from testbed.scenario.model import Scenario
from testbed.scenario.servers import ServersSpec
from testbed.scenario.topohub_graph import is_on_earth
from testbed.scenario.topology import make_topology
from testbed.scenario.traffic import TrafficSpec
from testbed.scenario.types import NS_PER_S, Topology

LEAST_KM = 1e-3
"""Links of a topology without lengths are so long on average, where the own have no length."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One load on one topology.

    `topology` is a graph of topohub, None the scenario's own; `place` is its name in tables.
    """

    load: float
    topology: str | None
    place: str


def cells_of(
    scenario: Scenario, loads: tuple[float, ...], topologies: tuple[str, ...]
) -> tuple[Cell, ...]:
    """Every load on every topology; no topology: the scenario's own."""
    own = scenario.topology.topohub
    named = [None if name == own else name for name in topologies] or [None]
    return tuple(Cell(load, name, name or own or scenario.name) for name in named for load in loads)


def cell_scenario(scenario: Scenario, cell: Cell) -> Scenario:
    """The scenario of a cell. Raises InputError for a topology that cannot be used.

    A load multiplies the requests that are there at first, of which one is left in any case, and
    the arrivals. Another topology keeps chains and traffic; each of its servers gets the capacity
    of one of the scenario's own, drawn by a generator that the topology's name seeds; requests are
    as many more as there is more capacity in all. Where its positions do not tell how long links
    are, they are as long on average as the scenario's own.

    What names nodes, links or requests of the own topology falls away: pairs, links that differ or
    change (a change of all links stays), captures, moves, scales, applications, and the node of a
    fault, which is then drawn for each stream.
    """
    if cell.topology is None:
        return scenario.model_copy(update={"traffic": _at_load(scenario.traffic, cell.load)})
    changes = [change for change in scenario.links.changes if change.between is None]
    links = scenario.links.model_copy(update={"by_link": [], "changes": changes})
    graph = _graph(scenario, cell.topology)
    moved = scenario.model_copy(update={"topology": graph, "links": links})
    topology = make_topology(moved)
    servers = _servers(scenario, cell.topology, topology)
    share = _cores(servers, topology) / _cores(scenario.servers, make_topology(scenario))
    traffic = _at_load(scenario.traffic, cell.load * share)
    return moved.model_copy(
        update={
            "servers": servers,
            "traffic": traffic.model_copy(update={"pairs": None, "applications": []}),
            "faults": [fault.model_copy(update={"node": None}) for fault in scenario.faults],
            "moves": [],
            "scales": [],
            "captures": [],
        }
    )


def _graph(scenario: Scenario, name: str) -> TopologySpec:
    if is_on_earth(name):
        return TopologySpec(topohub=name)
    delays_s = [link.delay_ns / NS_PER_S for link in make_topology(scenario).links]
    mean_km = max(LEAST_KM, float(np.mean(delays_s)) * scenario.links.propagation_km_per_s)
    return TopologySpec(topohub=name, mean_length_km=mean_km)


def _at_load(traffic: TrafficSpec, load: float) -> TrafficSpec:
    initial = max(round(traffic.initial_requests * load), min(1, traffic.initial_requests))
    return traffic.model_copy(
        update={
            "initial_requests": initial,
            "arrivals_per_s": traffic.arrivals_per_s * load,
        }
    )


def _servers(scenario: Scenario, name: str, topology: Topology) -> ServersSpec:
    own = scenario.servers
    nodes = make_topology(scenario).nodes
    specs = [own.by_node.get(node.name, own.default) for node in nodes]
    digest = hashlib.sha256(name.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    drawn = rng.integers(0, len(specs), len(topology.nodes))
    by_node = {
        node.name: specs[int(number)] for node, number in zip(topology.nodes, drawn, strict=True)
    }
    return own.model_copy(update={"by_node": by_node})


def _cores(servers: ServersSpec, topology: Topology) -> float:
    specs = [servers.by_node.get(node.name, servers.default) for node in topology.nodes]
    return sum(spec.cpu_cores for spec in specs)
