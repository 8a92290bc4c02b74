"""Run plans as arrays: what the compiled kernels read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.scenario.errors import InputError
from testbed.scenario.paths import delay_matrix_ns, graph_of, path, shortest_paths
from testbed.scenario.types import NS_PER_S, FloatArray, RunPlan, Topology

IntArray = NDArray[np.int64]
NEVER_NS = np.iinfo(np.int64).max


class PlanArrays(NamedTuple):
    """P plans on one substrate of N nodes, at most R requests of at most F functions each.

    Requests are in the order of their arrival. Unused places hold 0, unused times NEVER_NS.
    """

    delay_ns: FloatArray  # [N, N]
    transmit_ns_per_byte: FloatArray  # [N, N], along the least-delay path
    links: FloatArray  # [N, N], how many that path has
    capacity_cores: FloatArray  # [N]
    memory_bytes: FloatArray  # [N]
    admission: bool
    backups: int  # of each group, 0 or 1
    duration_ns: IntArray  # [P]
    requests: IntArray  # [P], how many
    request_id: IntArray  # [P, R]
    functions: IntArray  # [P, R], how many
    source: IntArray  # [P, R]
    destination: IntArray  # [P, R]
    arrival_ns: IntArray  # [P, R]
    start_ns: IntArray  # [P, R]
    end_ns: IntArray  # [P, R]
    rate_pps: FloatArray  # [P, R]
    l3_bytes: FloatArray  # [P, R]
    bound_ns: IntArray  # [P, R]
    service_ns: FloatArray  # [P, R, F]
    backup_service_ns: FloatArray  # [P, R, F]
    function_bytes: FloatArray  # [P, R, F]
    step_ns: IntArray  # [P, S], ascending
    step_factor: FloatArray  # [P, S]
    fault_ns: IntArray  # [P, K], ascending
    fault_node: IntArray  # [P, K]
    death_ns: IntArray  # [P, N], when each server dies


def pack_plans(plans: Sequence[RunPlan]) -> PlanArrays:
    """The plans as arrays; ValueError if there is none or their substrates differ.

    Raises InputError for traffic that the twin has no model of.
    """
    if not plans:
        raise ValueError("plans = []: expected at least one plan")
    for what in (what for plan in plans for what in plan.refused):
        expected = "nothing that the twin has no model of; the emulation has"
        raise InputError("scenario", what, expected)
    first = plans[0]
    for plan in plans:
        if plan.topology != first.topology or plan.servers != first.servers:
            raise ValueError(f"plan of seed {plan.seed}: expected the substrate of the first plan")
        if (plan.admission, plan.backups) != (first.admission, first.backups):
            expected = "admission and backups as in the first plan"
            raise ValueError(f"plan of seed {plan.seed}: expected {expected}")
    sizes = (
        len(plans),
        max(1, max(len(plan.requests) for plan in plans)),
        max((len(r.functions) for plan in plans for r in plan.requests), default=1),
    )
    arrays = _empty(first, sizes, plans)
    for number, plan in enumerate(plans):
        _fill(arrays, number, plan)
    return arrays


def as_modelled(plan: RunPlan) -> RunPlan:
    """The plan as the twin runs it: groups have one backup at most."""
    return dataclasses.replace(plan, backups=min(plan.backups, 1))


def _empty(plan: RunPlan, sizes: tuple[int, int, int], plans: Sequence[RunPlan]) -> PlanArrays:
    count, requests, functions = sizes
    transmit, links = path_matrices(plan.topology)
    steps = max(1, max(len(plan.load_steps) for plan in plans))
    faults = max(1, max(len(plan.faults) for plan in plans))

    def ints(*shape: int, fill: int = 0) -> IntArray:
        return np.full(shape, fill, dtype=np.int64)

    def floats(*shape: int) -> FloatArray:
        return np.zeros(shape, dtype=np.float64)

    return PlanArrays(
        delay_ns=np.ascontiguousarray(delay_matrix_ns(plan.topology), dtype=np.float64),
        transmit_ns_per_byte=transmit,
        links=links,
        capacity_cores=np.array([server.cpu_cores for server in plan.servers], dtype=np.float64),
        memory_bytes=np.array([server.memory_bytes for server in plan.servers], dtype=np.float64),
        admission=plan.admission,
        backups=as_modelled(plan).backups,
        duration_ns=ints(count),
        requests=ints(count),
        request_id=ints(count, requests),
        functions=ints(count, requests),
        source=ints(count, requests),
        destination=ints(count, requests),
        arrival_ns=ints(count, requests, fill=NEVER_NS),
        start_ns=ints(count, requests, fill=NEVER_NS),
        end_ns=ints(count, requests, fill=NEVER_NS),
        rate_pps=floats(count, requests),
        l3_bytes=floats(count, requests),
        bound_ns=ints(count, requests),
        service_ns=floats(count, requests, functions),
        backup_service_ns=floats(count, requests, functions),
        function_bytes=floats(count, requests, functions),
        step_ns=ints(count, steps, fill=NEVER_NS),
        step_factor=np.ones((count, steps)),
        fault_ns=ints(count, faults, fill=NEVER_NS),
        fault_node=ints(count, faults),
        death_ns=ints(count, len(plan.servers), fill=NEVER_NS),
    )


def _fill(arrays: PlanArrays, p: int, plan: RunPlan) -> None:
    arrays.duration_ns[p] = plan.duration_ns
    arrays.requests[p] = len(plan.requests)
    for r, request in enumerate(sorted(plan.requests, key=lambda r: (r.arrival_ns, r.id))):
        arrays.request_id[p, r] = request.id
        arrays.functions[p, r] = len(request.functions)
        arrays.source[p, r] = request.source
        arrays.destination[p, r] = request.destination
        arrays.arrival_ns[p, r] = request.arrival_ns
        arrays.start_ns[p, r] = request.start_ns
        arrays.end_ns[p, r] = request.end_ns
        arrays.rate_pps[p, r] = request.rate_pps
        arrays.l3_bytes[p, r] = request.l3_bytes
        arrays.bound_ns[p, r] = request.delay_bound_ns
        for f, name in enumerate(request.functions):
            profile = plan.profiles[name]
            arrays.service_ns[p, r, f] = profile.service_ns
            arrays.backup_service_ns[p, r, f] = profile.backup_service_ns
            arrays.function_bytes[p, r, f] = profile.memory_bytes
    for s, (at_ns, factor) in enumerate(plan.load_steps):
        arrays.step_ns[p, s] = at_ns
        arrays.step_factor[p, s] = factor
    for k, fault in enumerate(sorted(plan.faults, key=lambda fault: fault.at_ns)):
        arrays.fault_ns[p, k] = fault.at_ns
        arrays.fault_node[p, k] = fault.node
        arrays.death_ns[p, fault.node] = min(arrays.death_ns[p, fault.node], fault.at_ns)


def path_matrices(topology: Topology) -> tuple[FloatArray, FloatArray]:
    """Of the path between nodes: ns to send a byte over each link in turn, and how many links.

    Both [N, N]; 0 where there is no path.
    """
    graph, size = graph_of(topology), len(topology.nodes)
    transmit, links = np.zeros((size, size)), np.zeros((size, size))
    cost = [8.0 * NS_PER_S / link.rate_bps for link in topology.links]
    for root in range(size):
        tree = shortest_paths(graph, root)
        for node in map(int, np.flatnonzero(np.isfinite(tree.delay_ns))):
            way = path(tree, node)
            transmit[root, node] = sum(cost[arc.link] for arc in way)
            links[root, node] = len(way)
    return transmit, links
