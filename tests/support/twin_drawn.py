"""Small scenarios drawn at random, with everything in them that the twin models."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from testbed.scenario.types import (
    Fault,
    Link,
    Node,
    Placement,
    ReplicationMode,
    Request,
    RunPlan,
    Server,
    Topology,
)
from testbed.twin.calibration import COMMIT_ROUND_TRIPS
from testbed.twin.constants import CostWeights, TwinConstants
from tests.support.twin_support import MS, PROFILES, make_request

T = TypeVar("T")
_OVERHEADS_NS = ((0.0, 1e6), (0.0, 3e6), (10e6, 200e6))
"""Of a hop, of a commit, and the bound of a queue: between these."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A small scenario with everything that the twin models in it."""

    plan: RunPlan
    constants: TwinConstants
    weights: CostWeights


def drawn_scenario(seed: int) -> Drawn:
    """Some topology, servers, chains, load steps, faults and constants; a second or two long."""
    rng = random.Random(seed)
    topology = drawn_topology(rng)
    slot_ns = rng.choice((50, 100, 125, 200)) * MS
    duration_ns = rng.randint(6, 14) * slot_ns - rng.choice((0, 0, slot_ns // 3))
    plan = RunPlan(
        seed=seed,
        duration_ns=duration_ns,
        topology=topology,
        servers=tuple(
            Server(node.index, rng.uniform(0.1, 1.0), rng.choice((50, 110, 1000)) * 1_000_000)
            for node in topology.nodes
        ),
        profiles=dict(PROFILES),  # type: ignore[arg-type]
        requests=_drawn_requests(rng, len(topology.nodes), duration_ns),
        load_steps=tuple(
            (at_ns, rng.uniform(0.3, 3.0))
            for at_ns in sorted(
                _drawn_time(rng, duration_ns, slot_ns) for _ in range(rng.choice((0, 1, 2)))
            )
        ),
        faults=_drawn_faults(rng, len(topology.nodes), duration_ns, slot_ns),
        admission=rng.random() < 0.3,
    )
    modes: tuple[ReplicationMode, ...] = ("none", "deft", "pipelined")
    mode = rng.choice(modes)
    hop_ns, commit_ns, queue_ns = (rng.uniform(*ends) for ends in _OVERHEADS_NS)
    detection_ns, repair_ns = (float(rng.randint(0, most)) for most in (300 * MS, 400 * MS))
    plan = replace(plan, backups=int(rng.random() < 0.8))
    constants = TwinConstants(
        hop_overhead_ns=hop_ns,
        commit_overhead_ns=commit_ns,
        commit_round_trips=COMMIT_ROUND_TRIPS[mode],
        queue_ns=queue_ns,
        detection_ns=detection_ns,
        repair_ns=repair_ns,
        replaces=rng.random() < 0.8,
        holds=rng.random() < 0.4,
        drain_ns=float(rng.randint(0, 500 * MS)),
        slot_ns=float(slot_ns),
        edge_overhead_ns=rng.uniform(0.0, 1e6),
        link_overhead_ns=rng.uniform(0.0, 1e6),
        link_jitter_ns=rng.uniform(0.0, 2e6),
        service_overhead_ns=rng.uniform(0.0, 2e5),
        overload_utilisation=rng.uniform(0.7, 1.0),
    )
    if rng.random() < 0.6:
        constants = replace(
            constants,
            move_above=rng.uniform(0.2, 1.2),
            move_hold_ns=rng.choice((0.0, 1.0, 2.0)) * slot_ns,
            move_cool_ns=float(rng.choice((0, rng.randint(0, 500 * MS)))),
        )
    weights = CostWeights(
        reference_s=rng.uniform(0.01, 0.1),
        deviation=rng.uniform(0.0, 2.0),
        loss=rng.uniform(1.0, 20.0),
        headroom=rng.uniform(0.0, 300.0),
        headroom_from=rng.uniform(0.3, 1.0),
        overload=rng.uniform(0.0, 300.0),
    )
    return Drawn(plan, constants, weights)


def drawn_topology(rng: random.Random) -> Topology:
    """A line, a ring or a connected random graph; links of 40 to 1600 km and of unequal rates."""
    nodes = rng.randint(3, 7)
    pairs = [(node, node + 1) for node in range(nodes - 1)]
    shape = rng.choice(("line", "ring", "graph"))
    if shape == "ring":
        pairs.append((nodes - 1, 0))
    if shape == "graph":
        pairs = [(rng.randrange(node), node) for node in range(1, nodes)]
        more = [(a, b) for b in range(nodes) for a in range(b) if (a, b) not in pairs]
        pairs += rng.sample(more, min(len(more), rng.randint(1, nodes)))
    return Topology(
        tuple(Node(i, f"n{i}", 0.0, 0.0) for i in range(nodes)),
        tuple(
            Link(
                a, b, rng.randint(200_000, 8 * MS), rng.choice((10, 100, 1000)) * 1_000_000, 250_000
            )
            for a, b in pairs
        ),
        tuple(tuple(1.0 for _ in range(nodes)) for _ in range(nodes)),
    )


def _drawn_requests(rng: random.Random, nodes: int, duration_ns: int) -> tuple[Request, ...]:
    requests = []
    for number in range(rng.randint(1, 5)):
        arrival_ns = rng.choice((0, rng.randrange(duration_ns // 2)))
        start_ns = arrival_ns + rng.choice((0, rng.randrange(duration_ns // 3)))
        requests.append(
            make_request(
                number,
                functions=tuple(rng.choices(sorted(PROFILES), k=rng.randint(1, 3))),
                source=rng.randrange(nodes),
                destination=rng.randrange(nodes),
                arrival_ns=arrival_ns,
                start_ns=start_ns,
                end_ns=rng.choice((duration_ns, rng.randint(start_ns + 1, duration_ns))),
                rate_pps=math.exp(rng.uniform(math.log(20.0), math.log(2000.0))),
                l3_bytes=rng.randint(64, 1400),
                delay_bound_ns=rng.randint(5 * MS, 150 * MS),
            )
        )
    return tuple(requests)


def _drawn_faults(
    rng: random.Random, nodes: int, duration_ns: int, slot_ns: int
) -> tuple[Fault, ...]:
    """None to three; some at one time, some at one server."""
    faults: list[Fault] = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at_ns = _drawn_time(rng, duration_ns, slot_ns)
        if faults and rng.random() < 0.2:
            at_ns = faults[-1].at_ns
        faults.append(Fault("server-down", at_ns, rng.randrange(nodes)))
    return tuple(sorted(faults, key=lambda fault: fault.at_ns))


def _drawn_time(rng: random.Random, duration_ns: int, slot_ns: int) -> int:
    """Any time, or one on the edge or in the middle of a slot."""
    halves = rng.randrange(2 * duration_ns // slot_ns)
    return rng.choice((rng.randrange(duration_ns), halves * slot_ns // 2))


@dataclass(slots=True)
class DrawnPolicy:
    """Looks at nothing: rejects, names dead nodes, one node twice, no backup."""

    rng: random.Random
    nodes: int

    def decide(self, _: object) -> Placement | None:
        """Whatever is drawn."""
        if self.rng.random() < 0.04:
            return None
        backup = self.rng.randrange(self.nodes) if self.rng.random() < 0.85 else None
        return Placement(self.rng.randrange(self.nodes), backup)


def drawn_policy(plan: RunPlan) -> DrawnPolicy:
    """A policy that decides the same each time that it is made for a plan."""
    return DrawnPolicy(random.Random(plan.seed), len(plan.servers))


@dataclass(slots=True)
class Noting(Generic[T]):
    """Notes what a policy is shown."""

    policy: DrawnPolicy
    seen: list[T] = field(default_factory=list)

    def decide(self, seen: T) -> Placement | None:
        """What the policy says."""
        self.seen.append(seen)
        return self.policy.decide(seen)
