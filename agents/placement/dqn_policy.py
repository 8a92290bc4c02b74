"""The DQN of agents/provisioning as a placement policy: each living server is a data centre.

What a decision looks like to the network (units of the observation, then the network's):

- Server: the fastest has 120 CPU, the others in proportion, at least 12; its free CPU is the share
  that is not used. RAM is all free where the function fits into the server's memory.
- Chain: the type of the paper's that has this function next and most nearly as many functions
  before and behind it (a load balancer counts as a NAT). Times are scaled so that the request's
  delay bound is that type's; the time left is what is left after the way to the server.
- Rate: as many chains as keep the CPU busy for a millisecond that the request needs, and no fewer
  than fill an instance: a request stays, so there are no others for which it could wait. The links
  carry them all at once.
- The way there is over: a request is not served within a millisecond of being asked for.

The network is asked once for each server as if its turn came first, the others following by added
delay. A server is a candidate if the function fits (memory; CPU, or no server has enough and there
is no admission control), and *willing* if allocating is worth more to the network than waiting.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from agents.provisioning.batch import empty_state
from agents.provisioning.network import pack
from agents.provisioning.observe import empty_observation, observe_all
from agents.provisioning.types import (
    ACTIONS_A_STEP,
    BOUND_MS,
    CHAINS,
    CPU,
    LENGTHS,
    LINK_MBPS,
    PROCESSING_MS,
    RAM_CAPACITY_GB,
    RATE_MBPS,
    STORAGE_CAPACITY_GB,
    TYPES,
    VNF_NAMES,
    WAIT,
    IntArray,
    Observation,
    State,
)
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import BoolArray, Placement

_STAND_IN = {"lb": "nat"}
"""Functions that the paper does not have, by the one that is most like them."""
_MOST_CPU, _LEAST_CPU = 120.0, 12.0


class DqnPolicy:
    """Primary on the first willing server in order of priority, backup on the next one.

    Priority is least added delay: from where the packets come, to the server and on to the egress.
    Where no server is willing, a request is rejected and a primary stays where it is; a backup goes
    to the first candidate, willing or not, for what losing protection costs is nothing that the
    network was trained to weigh.
    """

    def __init__(self, network: nn.Module) -> None:
        """`network`: rows of `pack` to the value of each action, such as a QNetwork."""
        self._network = network.eval()

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The network's choice; None where it takes none."""
        o = observation
        if o.task == "backup":
            chosen = self._backup(o, o.members[0])
            return None if chosen is None else Placement(o.members[0], chosen)
        willing = [node for node, gain in self._asked(o, o.primary_cores) if gain >= 0.0]
        if not willing:
            return None
        return Placement(willing[0], self._backup(o, willing[0]))

    def _backup(self, o: PlacementObservation, primary: int) -> int | None:
        asked = [pair for pair in self._asked(o, o.backup_cores) if pair[0] != primary]
        willing = [node for node, gain in asked if gain >= 0.0]
        return willing[0] if willing else asked[0][0] if asked else None

    @torch.no_grad()
    def _asked(self, o: PlacementObservation, cores: float) -> list[tuple[int, float]]:
        """(server, what allocating there is worth above waiting) of candidates, by priority."""
        nodes = np.flatnonzero(candidates(o, cores))
        if len(nodes) == 0:
            return []
        added_ns = o.delay_from_previous_ns + o.delay_to_egress_ns
        nodes = nodes[np.argsort(added_ns[nodes], kind="stable")]
        kind, stage = chain_type(o)
        values = self._network(torch.from_numpy(pack(shown(o, nodes, cores, kind, stage))))
        gain = values[:, CHAINS[kind][stage]] - values[:, WAIT]
        return [(int(node), float(g)) for node, g in zip(nodes, gain, strict=True)]


def candidates(o: PlacementObservation, cores: float) -> BoolArray:
    """The servers [N] that may be asked: alive, no member, and with room as said above."""
    fits: BoolArray = o.alive & (o.memory_free_bytes >= o.memory_bytes)
    fits[list(o.members)] = False
    roomy: BoolArray = fits & (o.used_cores + cores <= o.capacity_cores)
    return roomy if o.admission or roomy.any() else fits


def chain_type(o: PlacementObservation) -> tuple[int, int]:
    """(type, stage) of the paper's chains that is most like the function to place."""
    name = o.functions[o.function_index]
    vnf = VNF_NAMES.index(_STAND_IN.get(name, name))
    found = [
        (
            abs(stage - o.function_index) + abs(LENGTHS[kind] - stage - 1 - o.functions_left),
            kind,
            stage,
        )
        for kind in range(TYPES)
        for stage in range(LENGTHS[kind])
        if CHAINS[kind][stage] == vnf
    ]
    _, kind, stage = min(found)
    return kind, stage


def shown(
    o: PlacementObservation, nodes: IntArray, cores: float, kind: int, stage: int
) -> Observation:
    """One observation for each of `nodes`, as the data centre whose turn it is."""
    state = _state(o, nodes, cores, kind, stage)
    seen = empty_observation(len(nodes), len(o.alive))
    observe_all(state, seen)
    return seen


def _state(o: PlacementObservation, nodes: IntArray, cores: float, kind: int, stage: int) -> State:
    """The simulator's state [len(nodes)] with this one request in it, nothing else under way."""
    alive = np.flatnonzero(o.alive)
    s = empty_state(len(nodes), len(o.alive), 1)
    per_core = _MOST_CPU / o.capacity_cores.max()
    cpu = np.maximum(o.capacity_cores * per_core, _LEAST_CPU)
    free = np.clip(1.0 - o.used_cores / o.capacity_cores, 0.0, 1.0)
    scale = BOUND_MS[kind] / o.delay_bound_ns
    vnf = CHAINS[kind][stage]
    s.centres[:], s.bundles[:], s.arrived[:], s.groups[:] = len(alive), 1, 1, 1
    s.cpu[:], s.cpu_free[:], s.ram_free[:] = cpu, cpu * free, RAM_CAPACITY_GB
    s.storage_free[:], s.link_free[:] = STORAGE_CAPACITY_GB, LINK_MBPS
    s.delay_ms[:] = o.delay_ns * scale
    s.kind[:], s.actions[:] = kind, 0
    s.source[:], s.destination[:] = o.source, o.destination
    busy_ms = cores * per_core / (CPU[vnf] * PROCESSING_MS[vnf])
    full = int(1.0 / PROCESSING_MS[vnf] + 1e-9)
    chains = int(np.clip(round(busy_ms), full, ACTIONS_A_STEP))
    s.size[:] = s.requests[:] = chains
    s.rate_mbps[:] = min(RATE_MBPS[kind][0], LINK_MBPS / chains)
    s.stage[:] = stage
    s.place[:] = o.placed[-1].primary if o.placed else o.source
    added_ns = o.delay_from_previous_ns + o.delay_to_egress_ns
    for row, node in enumerate(nodes):
        way_ms = o.delay_from_previous_ns[node] * scale
        s.ready_ms[row] = -way_ms
        s.arrival[row] = o.delay_left_ns * scale - way_ms - BOUND_MS[kind]
        others = alive[alive != node]
        s.order[row, 0] = node
        s.order[row, 1 : len(alive)] = others[np.argsort(added_ns[others], kind="stable")]
    return s
