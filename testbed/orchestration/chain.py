"""What a placed chain consists of: instances, segments of its service paths, edges. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.scenario.steering import Segment, forward_path, path_mac, reverse_path
from testbed.scenario.types import MAX_MEMBERS, FunctionName, Placement, Request

PORT_BASE = 20_000
SOURCE_PORT_BASE = 30_000
REPLICATION_PORT_BASE = 10_000
MAX_REQUESTS = 512
MAX_HOPS = 8


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """One instance of a chain: member 0 begins as the primary, member 1 as the backup."""

    name: str
    group: str
    function: FunctionName
    function_config: dict[str, Any]
    hop: int
    member: int
    node: int
    port: int
    """UDP port of its replication socket."""


def server_name(node: int) -> str:
    """The server host at a node."""
    return f"server-{node}"


def user_name(node: int) -> str:
    """The user host at a node."""
    return f"user-{node}"


def user_address(node: int) -> str:
    """The address of the user host at a node, inside the chains."""
    return f"10.77.0.{node + 1}"


def group_name(request: int, hop: int) -> str:
    """The replica group of function number `hop` of a request."""
    return f"r{request}-h{hop}"


def destination_port(request: int) -> int:
    """The UDP port that a request's packets go to."""
    return PORT_BASE + request


def source_port_base(request: int) -> int:
    """A request's flow f comes from this UDP port + f (at most 64 flows a request)."""
    return SOURCE_PORT_BASE + 64 * request


def instance_name(request: int, hop: int, member: int) -> str:
    """The name of a member of a replica group."""
    return f"{group_name(request, hop)}-m{member}"


def instance(request: Request, hop: int, member: int, node: int) -> InstanceSpec:
    """Member number `member` of function number `hop`, at a node."""
    return InstanceSpec(
        name=instance_name(request.id, hop, member),
        group=group_name(request.id, hop),
        function=request.functions[hop],
        function_config=_function_config(request, hop),
        hop=hop,
        member=member,
        node=node,
        port=REPLICATION_PORT_BASE + MAX_MEMBERS * (MAX_HOPS * request.id + hop) + member,
    )


def instances(request: Request, placements: Sequence[Placement]) -> list[InstanceSpec]:
    """The instances of a chain, function by function, primary first."""
    return [
        instance(request, hop, member, node)
        for hop, placement in enumerate(placements)
        for member, node in enumerate((placement.primary, placement.backup))
        if node is not None
    ]


def _function_config(request: Request, hop: int) -> dict[str, Any]:
    if request.functions[hop] == "nat":
        return {"public_address": f"100.64.{request.id % 256}.{hop + 1}"}
    if request.functions[hop] == "lb":
        # A request has one destination: it is the service and its only backend.
        address = user_address(request.destination)
        return {"virtual_address": address, "backends": [{"address": address}]}
    return {}


def paths_of(request: Request, hop: int) -> dict[str, dict[str, int]]:
    """Which frames an instance of function number `hop` takes: path and hop, both directions."""
    last = len(request.functions) - 1
    return {
        "forward": {"path": forward_path(request.id), "hop": hop},
        "reverse": {"path": reverse_path(request.id), "hop": last - hop},
    }


def segments(request: Request, members: Mapping[int, Mapping[int, int]]) -> list[Segment]:
    """The segments of both service paths of a chain.

    `members[hop][member]` is the node of each living member of function number `hop`. A function
    without a living member cuts the chain: no segment leads to it or away from it.
    """
    source, destination = user_name(request.source), user_name(request.destination)
    hops = range(len(request.functions))
    return [
        *_direction(forward_path(request.id), [members[h] for h in hops], source, destination),
        *_direction(
            reverse_path(request.id), [members[h] for h in reversed(hops)], destination, source
        ),
    ]


def placements_left(
    members: Mapping[int, Mapping[int, int]], primaries: Mapping[int, int]
) -> list[Placement] | None:
    """Where the living members of a chain are; None if a function has none left.

    `primaries[hop]` is the number of the primary; the first of the others counts as the backup.
    """
    left = []
    for hop, stage in sorted(members.items()):
        numbers = sorted(stage, key=lambda number: (number != primaries[hop], number))
        if not numbers:
            return None
        nodes = [stage[number] for number in numbers]
        left.append(Placement(nodes[0], nodes[1] if len(nodes) > 1 else None))
    return left


def _direction(
    path: int, stages: Sequence[Mapping[int, int]], first: str, last: str
) -> list[Segment]:
    senders: list[dict[int, str]] = [{0: first}]
    senders += [{m: server_name(node) for m, node in stage.items()} for stage in stages]
    targets = [tuple(stage.values()) for stage in senders[1:]] + [(last,)]
    return [
        Segment(path_mac(path, hop, member), host, targets[hop])
        for hop, stage in enumerate(senders)
        for member, host in stage.items()
        if targets[hop]
    ]
