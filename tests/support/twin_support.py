"""Small substrates and plans that a test can compute by hand."""

from __future__ import annotations

import dataclasses

import numpy as np

from testbed.decisions.placement import Ledger, PlacementObservation
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.types import (
    NS_PER_S,
    Fault,
    FunctionProfile,
    Link,
    Node,
    Placement,
    Request,
    RunPlan,
    Server,
    Topology,
)

MS = 1_000_000
PROFILES = {
    "nat": FunctionProfile("nat", 600_000, 150_000, 20_000_000),
    "fw": FunctionProfile("fw", 300_000, 75_000, 20_000_000),
    "idps": FunctionProfile("idps", 200_000, 50_000, 20_000_000),
}


def line_topology(nodes: int = 4, delay_ns: int = 5 * MS) -> Topology:
    """Nodes in a line, each link `delay_ns` long and of 100 Mb/s."""
    return Topology(
        tuple(Node(i, f"n{i}", 0.0, 0.0) for i in range(nodes)),
        tuple(Link(i, i + 1, delay_ns, 100_000_000, 250_000) for i in range(nodes - 1)),
        tuple(tuple(1.0 for _ in range(nodes)) for _ in range(nodes)),
    )


def make_request(number: int = 0, **changes: object) -> Request:
    """A request of one NAT from node 0 to node 3, 100 packets a second from 1 s to 9 s."""
    fields: dict[str, object] = {
        "id": number,
        "chain": "test",
        "functions": ("nat",),
        "source": 0,
        "destination": 3,
        "arrival_ns": 0,
        "start_ns": 1 * NS_PER_S,
        "end_ns": 9 * NS_PER_S,
        "rate_pps": 100.0,
        "l3_bytes": 500,
        "delay_bound_ns": 50 * MS,
        "flows": 1,
        "shards": 1,
        "first_unit": 0,
    }
    return Request(**{**fields, **changes})  # type: ignore[arg-type]


def line_plan(
    requests: tuple[Request, ...],
    cores: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
    load_steps: tuple[tuple[int, float], ...] = (),
    faults: tuple[Fault, ...] = (),
) -> RunPlan:
    """Ten seconds on a line."""
    return RunPlan(
        seed=0,
        duration_ns=10 * NS_PER_S,
        topology=line_topology(len(cores)),
        servers=tuple(Server(i, speed, 1_000_000_000) for i, speed in enumerate(cores)),
        profiles=dict(PROFILES),  # type: ignore[arg-type]
        requests=requests,
        load_steps=load_steps,
        faults=faults,
    )


def random_plan(seed: int, nodes: int = 5) -> RunPlan:
    """Requests, a load step and two faults at random times on a line of unequal servers."""
    rng = np.random.default_rng(seed)
    requests = []
    for number in range(12):
        arrival = int(rng.integers(0, 8 * NS_PER_S)) if number > 2 else 0
        functions = tuple(rng.choice(["nat", "fw", "idps"], size=int(rng.integers(1, 5))).tolist())
        requests.append(
            make_request(
                number,
                functions=functions,
                source=int(rng.integers(nodes)),
                destination=int(rng.integers(nodes)),
                arrival_ns=arrival,
                start_ns=arrival + NS_PER_S // 2,
                end_ns=arrival + NS_PER_S // 2 + int(rng.integers(1, 3 * NS_PER_S)),
                rate_pps=float(rng.uniform(10, 300)),
            )
        )
    return line_plan(
        tuple(sorted(requests, key=lambda r: (r.arrival_ns, r.id))),
        tuple(rng.uniform(0.2, 1.0, nodes).tolist()),
        ((4 * NS_PER_S, 2.0),),
        (
            Fault("server-down", int(rng.integers(2, 4) * NS_PER_S), int(rng.integers(nodes))),
            Fault("server-down", int(rng.integers(5, 8) * NS_PER_S), int(rng.integers(nodes))),
        ),
    )


def random_placements(plan: RunPlan, seed: int) -> dict[int, tuple[Placement, ...] | None]:
    """Primary and backup drawn without looking; every fifth request is rejected."""
    rng = np.random.default_rng(seed)
    nodes = len(plan.servers)
    out: dict[int, tuple[Placement, ...] | None] = {}
    for request in plan.requests:
        pairs = [rng.choice(nodes, 2, replace=False) for _ in request.functions]
        placed = tuple(Placement(int(a), int(b) if rng.random() < 0.9 else None) for a, b in pairs)
        out[request.id] = None if request.id % 5 == 4 else placed
    return out


def observe(
    request: Request | None = None,
    placed: tuple[Placement, ...] = (),
    cores: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
    used: dict[int, float] | None = None,
    dead: tuple[int, ...] = (),
    **changes: object,
) -> PlacementObservation:
    """A line of servers, 5 ms apart; `used` cores are taken by other requests of one NAT."""
    plan = line_plan((), cores)
    ledger = Ledger(plan.servers, plan.profiles, delay_matrix_ns(plan.topology))
    for number, (node, demand) in enumerate((used or {}).items()):
        other = make_request(100 + number, rate_pps=demand / 600e-6)
        ledger.add(other, (Placement(node, None),))
    for node in dead:
        ledger.server_down(node)
    seen = ledger.observe(request or make_request(functions=("nat", "fw")), placed)
    return dataclasses.replace(seen, **changes)  # type: ignore[arg-type]
