"""Power and energy of a run on the twin, after LEAF (Wiesner and Thamsen, ICFEC 2021).

A server takes static + (max - static) x utilisation, in W, until it dies; a link takes J/bit x
bit/s. What the twin does not say is not counted: on links the log entries and acknowledgements
between primary and backup, and that paths change when a backup takes over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from testbed.scenario.paths import branches, graph_of, shortest_paths
from testbed.scenario.types import NS_PER_S, FloatArray, Placement, Request, RunPlan
from testbed.twin.constants import DEFAULT_SLOT_NS
from testbed.twin.decided import Placements
from testbed.twin.simulate import TwinResult


@dataclass(frozen=True, slots=True)
class PowerModel:
    """What servers and links take; the defaults are of LEAF's smart-city example.

    static_w               an idle server that is up (a fog node there)
    max_w                  a server at its capacity or above
    link_joules_per_bit    each link of a path, either direction (WAN, upwards, there)
    slot_ns                length of the slots of the result
    """

    static_w: float = 100.0
    max_w: float = 240.0
    link_joules_per_bit: float = 6_658e-9
    slot_ns: float = DEFAULT_SLOT_NS


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy over a run in J: of each server, shape [N], and of each link, shape [L]."""

    servers_joules: FloatArray
    links_joules: FloatArray

    @property
    def total_joules(self) -> float:
        """Of all servers and links."""
        return float(self.servers_joules.sum() + self.links_joules.sum())


def energy(plan: RunPlan, result: TwinResult, placements: Placements, model: PowerModel) -> Energy:
    """The energy of a run of `plan` with `placements` that gave `result`.

    Raises ValueError if the result has other slots than the model says.
    """
    slots = math.ceil(plan.duration_ns / model.slot_ns)
    if len(result.utilisation) != slots:
        found = len(result.utilisation)
        raise ValueError(f"slot_ns = {model.slot_ns}: {found} slots in the result, not {slots}")
    busy = model.static_w + (model.max_w - model.static_w) * np.minimum(result.utilisation, 1.0)
    servers_joules = (busy * _up_s(plan, slots, model.slot_ns)).sum(axis=0)
    links_joules = _link_bits(plan, result, placements) * model.link_joules_per_bit
    return Energy(servers_joules, links_joules)


def _up_s(plan: RunPlan, slots: int, slot_ns: float) -> FloatArray:
    """For how long each server is up in each slot, shape [slots, N]."""
    until_ns = np.full(len(plan.servers), float(plan.duration_ns))
    for fault in plan.faults:
        until_ns[fault.node] = min(until_ns[fault.node], fault.at_ns)
    begins_ns = np.arange(slots)[:, None] * slot_ns
    up_s: FloatArray = np.clip(until_ns - begins_ns, 0.0, slot_ns) / NS_PER_S
    return up_s


def _link_bits(plan: RunPlan, result: TwinResult, placements: Placements) -> FloatArray:
    """L3 bits over each link, shape [L].

    Each packet that was sent counts on all of its path; what is dropped on the way is counted to
    the end.
    """
    graph = graph_of(plan.topology)
    trees = [shortest_paths(graph, node.index) for node in plan.topology.nodes]
    packets = {one.request: one.packets for one in result.requests}
    bits = np.zeros(len(plan.topology.links))
    for request in plan.requests:
        chosen = placements.get(request.id)
        if chosen is not None:
            for node, targets in _legs(request, tuple(chosen), plan.backups):
                crossed = [arc.link for arc in branches(trees[node], targets)]
                bits[crossed] += packets[request.id] * request.l3_bytes * 8.0
    return bits


def _legs(
    request: Request, chosen: tuple[Placement, ...], backups: int
) -> list[tuple[int, tuple[int, ...]]]:
    """From where to which nodes the packets of a request go, with so many backups of each."""
    here, legs = request.source, list[tuple[int, tuple[int, ...]]]()
    for placement in chosen:
        legs.append((here, placement.nodes[: 1 + backups]))
        here = placement.primary
    return [*legs, (here, (request.destination,))]
