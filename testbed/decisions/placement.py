"""What a placement policy sees, and the book that says what is used where.

A chain is placed one function at a time: the policy is asked for function 0, then 1, ..., and
answers each time with a `Placement` (primary and backup node) or None (reject the request).
The emulation and the twin build the observation in the same way, so that a policy cannot tell
which of the two asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.types import (
    NS_PER_S,
    BoolArray,
    FloatArray,
    FunctionName,
    FunctionProfile,
    Placement,
    Request,
    RunPlan,
    Server,
    Task,
)

_Costs = Callable[[FunctionProfile, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class PlacementObservation:
    """One function of one request to place; N is the number of substrate nodes.

    `task` says what is asked. "place": a primary and a backup, or None to reject the request.
    "backup": the group at `members` (nodes, the primary's first) lost a member; the answer names
    its primary and a node that is none of `members`, and None leaves it as it is. "move": the
    server of the primary is overloaded; the answer names where the primary goes, or where it is
    now to leave it there, or is None. With `admission`, a server takes no more than its capacity,
    and a request that would need more is refused. `backups` is how many each group is to have: of
    0 none that is named counts; for each after the first that is not named "backup" is asked.

    Node arrays have shape [N] and index by node number.

    alive            the node's server can host instances
    capacity_cores   speed of the server in reference cores
    used_cores       demand of what it hosts now, at the present load factor (this chain included)
    memory_free_bytes
    held             how many instances of this chain it hosts already, primaries and backups
    delay_from_previous_ns   path delay from where the packets come: the source node for function
                             0, else the primary of the function before
    delay_to_egress_ns       path delay to the request's destination node
    delay_ns         path delay between nodes, shape [N, N], symmetric, 0 on the diagonal

    Scalars: `primary_cores` and `backup_cores` are what this function would add to `used_cores`;
    `delay_left_ns` is the request's bound less the path delay and service times spent so far.
    """

    task: Task
    members: tuple[int, ...]
    admission: bool
    backups: int
    request: int
    chain: str
    functions: tuple[FunctionName, ...]
    function_index: int
    source: int
    destination: int
    rate_pps: float
    primary_cores: float
    backup_cores: float
    memory_bytes: int
    delay_bound_ns: int
    delay_left_ns: int
    lifetime_s: float
    placed: tuple[Placement, ...]
    alive: BoolArray
    capacity_cores: FloatArray
    used_cores: FloatArray
    memory_free_bytes: FloatArray
    held: FloatArray
    delay_from_previous_ns: FloatArray
    delay_to_egress_ns: FloatArray
    delay_ns: FloatArray

    @property
    def functions_left(self) -> int:
        """Functions after this one."""
        return len(self.functions) - self.function_index - 1


def refusal(seen: PlacementObservation, choice: Placement) -> str | None:
    """Why admission control refuses what a policy chose, None if it admits it.

    A server takes no more demand than its capacity, and no more memory than it has; without
    `seen.admission` everything is admitted.
    """
    if not seen.admission:
        return None
    wanted = [(node, seen.backup_cores) for node in choice.backups if node not in seen.members]
    if choice.primary not in seen.members:
        wanted.append((choice.primary, seen.primary_cores))
    for node, cores in wanted:
        if seen.used_cores[node] + cores > seen.capacity_cores[node]:
            return f"no capacity at node {node}"
        if seen.memory_free_bytes[node] < seen.memory_bytes:
            return f"no memory at node {node}"
    return None


def ledger_of(plan: RunPlan) -> Ledger:
    """The book of a plan, with nothing in it yet."""
    delays_ns = delay_matrix_ns(plan.topology)
    return Ledger(plan.servers, plan.profiles, delays_ns, plan.admission, plan.backups)


class Ledger:
    """Which request uses how much of which server; the load factor scales all demands.

    `demand(cores)` of a function is rate x service time: packets per second times reference-core
    seconds per packet.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        profiles: Mapping[FunctionName, FunctionProfile],
        delay_ns: FloatArray,
        admission: bool = False,
        backups: int = 1,
    ) -> None:
        self._admission = admission
        self._backups = backups
        self._profiles = dict(profiles)
        self._delay_ns = delay_ns
        self._capacity = np.array([server.cpu_cores for server in servers], dtype=np.float64)
        self._memory = np.array([server.memory_bytes for server in servers], dtype=np.float64)
        self._alive = np.ones(len(servers), dtype=np.bool_)
        self._placed: dict[int, tuple[Request, tuple[tuple[Placement, ...], ...]]] = {}
        """Each request with the placements of each of its parts, which are equal in size."""
        self.load_factor = 1.0

    def add(self, request: Request, placements: Sequence[Placement]) -> None:
        """Enter a request's placements (all of its functions, or the first few of them)."""
        self.add_shards(request, [placements])

    def add_shards(self, request: Request, shards: Sequence[Sequence[Placement]]) -> None:
        """Enter where the shards of a request are; each has an equal share of it.

        An empty sequence stands for a shard that is not served.
        """
        self._placed[request.id] = (request, tuple(tuple(placed) for placed in shards))

    def remove(self, request_id: int) -> None:
        """Forget a request; no error if it was never entered."""
        self._placed.pop(request_id, None)

    def server_down(self, node: int) -> None:
        """The server at `node` can host nothing any more."""
        self._alive[node] = False

    def server_up(self, node: int) -> None:
        """The server at `node` can host instances again."""
        self._alive[node] = True

    def used_cores(self) -> FloatArray:
        """Demand on each server in reference cores, shape [N]."""
        return self._sum(lambda p, rate: (rate * p.service_ns, rate * p.backup_service_ns)) / float(
            NS_PER_S
        )

    def observe(self, request: Request, placements: Sequence[Placement]) -> PlacementObservation:
        """What the policy sees when function number `len(placements)` of `request` is next."""
        before = self._placed.get(request.id)
        self.add(request, placements)
        seen = self._observe(request, placements, "place", ())
        if before is None:
            self.remove(request.id)
        else:
            self._placed[request.id] = before
        return seen

    def observe_again(
        self, request: Request, placements: Sequence[Placement], task: Task, members: Sequence[int]
    ) -> PlacementObservation:
        """What the policy sees when a function of a request that is placed needs a decision.

        `placements` are those of the functions before it, `members` the nodes that it has, the
        primary's first. All that the ledger holds counts as used.
        """
        return self._observe(request, placements, task, tuple(members))

    def _observe(
        self,
        request: Request,
        placements: Sequence[Placement],
        task: Task,
        members: tuple[int, ...],
    ) -> PlacementObservation:
        used = self.used_cores()
        memory = self._sum(lambda p, _: (float(p.memory_bytes), float(p.memory_bytes)))
        index = len(placements)
        profile = self._profiles[request.functions[index]]
        previous, spent_ns = request.source, 0.0
        for name, placement in zip(request.functions, placements, strict=False):
            spent_ns += self._delay_ns[previous, placement.primary]
            spent_ns += self._profiles[name].service_ns / self._capacity[placement.primary]
            previous = placement.primary
        rate = request.rate_pps * self.load_factor
        return PlacementObservation(
            task=task,
            members=members,
            admission=self._admission,
            backups=self._backups,
            request=request.id,
            chain=request.chain,
            functions=request.functions,
            function_index=index,
            source=request.source,
            destination=request.destination,
            rate_pps=rate,
            primary_cores=rate * profile.service_ns / NS_PER_S,
            backup_cores=rate * profile.backup_service_ns / NS_PER_S,
            memory_bytes=profile.memory_bytes,
            delay_bound_ns=request.delay_bound_ns,
            delay_left_ns=int(request.delay_bound_ns - spent_ns),
            lifetime_s=(request.end_ns - request.start_ns) / NS_PER_S,
            placed=tuple(placements),
            alive=self._alive.copy(),
            capacity_cores=self._capacity.copy(),
            used_cores=used,
            memory_free_bytes=self._memory - memory,
            held=self._held(request.id),
            delay_from_previous_ns=self._delay_ns[previous].copy(),
            delay_to_egress_ns=self._delay_ns[:, request.destination].copy(),
            delay_ns=self._delay_ns,
        )

    def _held(self, request: int) -> FloatArray:
        held = np.zeros(len(self._capacity))
        for placements in self._placed[request][1]:
            for placement in placements:
                for node in placement.nodes:
                    held[node] += 1
        return held

    def _sum(self, costs: _Costs) -> FloatArray:
        total = np.zeros(len(self._capacity))
        for request, shards in self._placed.values():
            rate = request.rate_pps * self.load_factor
            for placements in shards:
                for name, placement in zip(request.functions, placements, strict=False):
                    primary, backup = costs(self._profiles[name], rate)
                    total[placement.primary] += primary / len(shards)
                    for node in placement.backups:
                        total[node] += backup / len(shards)
        return total
