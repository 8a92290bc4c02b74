"""Small frozen values that the rooms of the house share.

Times are nanoseconds from the start of a run unless a name says otherwise; node numbers index
`Topology.nodes`. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from testbed.scenario.applications import PlannedApplication
from testbed.scenario.impairments import UNIMPAIRED, Impairments
from testbed.scenario.recording import Recording
from testbed.scenario.trace import RateTrace

FunctionName = Literal["nat", "fw", "tm", "voc", "idps", "wo", "lb"]
ReplicationMode = Literal["none", "deft", "pipelined"]

Task = Literal["place", "backup", "move"]
"""What is asked of a placement: a new function's members, one more backup, another node for a
primary."""

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NS_PER_S = 1_000_000_000
MAX_MEMBERS = 8
"""Members of a replica group at most; they are numbered from 0."""


@dataclass(frozen=True, slots=True)
class Node:
    """A substrate node: one switch, one server and one user host."""

    index: int
    name: str
    longitude_deg: float
    latitude_deg: float


@dataclass(frozen=True, slots=True)
class Link:
    """An undirected substrate link; delay, rate, queue and impairments hold for each direction.

    With a `trace`, that gives the rate, and `rate_bps` is its mean.
    """

    a: int
    b: int
    delay_ns: int
    rate_bps: int
    queue_bytes: int
    impairments: Impairments = UNIMPAIRED
    trace: RateTrace | None = None


@dataclass(frozen=True, slots=True)
class LinkChange:
    """From `at_ns` on, link number `index` is `link`, and carries frames if it is `up`."""

    at_ns: int
    index: int
    link: Link
    up: bool


@dataclass(frozen=True, slots=True)
class Topology:
    """The substrate graph and its demand matrix (`demand[source][destination]`, any unit, >= 0)."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    demand: tuple[tuple[float, ...], ...]

    def index_of(self, name: str) -> int:
        """The number of the node called `name`; KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node.index
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Server:
    """The server at a node. `cpu_cores` is its speed in reference cores (see docs/capacity.md)."""

    node: int
    cpu_cores: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class FunctionProfile:
    """What a packet costs on one reference core, as primary and as backup."""

    name: FunctionName
    service_ns: int
    backup_service_ns: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Request:
    """A service request: a chain between two nodes for a life time.

    `arrival_ns` is when the placement is asked for, `start_ns` when the first packet may be
    sent, `end_ns` when the last packet has been sent and the chain is removed. `shards` is into how
    many its flows are divided; `first_unit` is how many the requests before it have together.
    """

    id: int
    chain: str
    functions: tuple[FunctionName, ...]
    source: int
    destination: int
    arrival_ns: int
    start_ns: int
    end_ns: int
    rate_pps: float
    l3_bytes: int
    delay_bound_ns: int
    flows: int
    shards: int
    first_unit: int
    l3_sizes: tuple[tuple[int, float], ...] = ()
    """(L3 bytes, share) if packets differ in size; `l3_bytes` is their mean then."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one function of a chain runs: the nodes of its primary, its backup and further ones.

    A policy names a primary and a backup; `others` follow if a scenario wants more backups.
    """

    primary: int
    backup: int | None
    others: tuple[int, ...] = ()

    @property
    def backups(self) -> tuple[int, ...]:
        """The nodes of all backups; the first would be the next primary."""
        return self.others if self.backup is None else (self.backup, *self.others)

    @property
    def nodes(self) -> tuple[int, ...]:
        """The nodes of all members, the primary's first."""
        return self.primary, *self.backups


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that happens in every run of a seed, whatever the policy."""

    kind: Literal["server-down"]
    at_ns: int
    node: int


@dataclass(frozen=True, slots=True)
class Move:
    """Primaries of function number `function` of a request move to a node.

    `shard` None: those of all shards that are where the first shard's primary is.
    """

    at_ns: int
    request: int
    function: int
    node: int
    shard: int | None


@dataclass(frozen=True, slots=True)
class Scale:
    """The shards of function number `function` of a request spread over `instances` servers."""

    at_ns: int
    request: int
    function: int
    instances: int


@dataclass(frozen=True, slots=True)
class RunPlan:
    """All that a run does but for the placement: equal for every policy of a seed."""

    seed: int
    duration_ns: int
    topology: Topology
    servers: tuple[Server, ...]
    profiles: dict[FunctionName, FunctionProfile]
    requests: tuple[Request, ...]
    load_steps: tuple[tuple[int, float], ...]
    """(from this time, rate factor), ascending; the factor is 1 before the first."""
    faults: tuple[Fault, ...]
    moves: tuple[Move, ...] = ()
    scales: tuple[Scale, ...] = ()
    admission: bool = False
    """Requests that need more than a server's capacity are refused."""
    mode: ReplicationMode = "pipelined"
    backups: int = 1
    """How many backups each group is to have; none in mode none."""
    refused: tuple[str, ...] = ()
    """What makes the twin refuse the plan: keys of the scenario with their values."""
    link_changes: tuple[LinkChange, ...] = ()
    """In the order of time."""
    applications: tuple[PlannedApplication, ...] = ()
    recording: Recording | None = None
    """What requests replay, with `traffic.process` of the kind replay."""


def load_factor(plan: RunPlan, at_ns: int) -> float:
    """The factor by which every request's rate is multiplied at `at_ns`."""
    factor = 1.0
    for start_ns, value in plan.load_steps:
        if at_ns >= start_ns:
            factor = value
    return factor


JsonObject = dict[str, Any]
