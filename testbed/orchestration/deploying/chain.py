"""The parts of a placed chain: instances, segments of its service paths, edges. Pure.

Shards. A chain's buckets are divided among its shards, for ever, and each shard of each function
is a replica group. So a group's state is never split nor merged: a function is scaled by moving
the primaries of some of its shards. A chain of one shard has names without the shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from testbed.scenario.limits import MAX_UNITS
from testbed.scenario.names import (
    GroupKey,
    group_name,
    group_names,
    instance_name,
    server_name,
    user_name,
)
from testbed.scenario.steering import Segment, forward_path, path_mac, reverse_path, with_shard
from testbed.scenario.types import MAX_MEMBERS, FunctionName, Placement, Request
from testbed.vnf.edge.stamper import BUCKETS

PORT_BASE = 20_000
SOURCE_PORT_BASE = 30_000
REPLICATION_PORT_BASE = 10_000
SHARE_PORT_BASE = 44_000
MAX_HOPS = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """One instance of a chain: member 0 begins as the primary, the others as backups."""

    name: str
    group: str
    function: FunctionName
    function_config: dict[str, Any]
    key: GroupKey
    member: int
    node: int
    port: int
    """UDP port of its replication socket."""
    scope: str | None = None
    """Whose linearizable records it shares: those of all groups of this scope; None: nobody's."""


def user_address(node: int) -> str:
    """The address of the user host at a node, inside the chains."""
    return f"10.77.0.{node + 1}"


def group_keys(request: Request) -> list[GroupKey]:
    """The groups of a request's chain, function by function."""
    hops = range(len(request.functions))
    return [GroupKey(hop, shard) for hop in hops for shard in range(request.shards)]


def of_shard(groups: Mapping[GroupKey, T], shard: int) -> dict[int, T]:
    """What belongs to the groups of one shard, by hop."""
    return {key.hop: value for key, value in groups.items() if key.shard == shard}


def shard_of_bucket(bucket: int, shards: int) -> int:
    """The shard that a bucket belongs to, for as long as the chain exists."""
    return bucket * shards // BUCKETS


def destination_port(request: int) -> int:
    """The UDP port that a request's packets go to."""
    return PORT_BASE + request


def source_port_base(request: int) -> int:
    """A request's flow f comes from this UDP port + f (at most 64 flows a request)."""
    return SOURCE_PORT_BASE + 64 * request


def instance(request: Request, key: GroupKey, member: int, node: int) -> InstanceSpec:
    """Member number `member` of a group, at a node."""
    return InstanceSpec(
        name=instance_name(request, key, member),
        group=group_name(request, key),
        function=request.functions[key.hop],
        function_config=_function_config(request, key),
        key=key,
        member=member,
        node=node,
        port=_replication_port(request, key, member),
        scope=_scope(request, key),
    )


def share_port(request: Request, key: GroupKey) -> int:
    """UDP port on which the members of a group exchange what they have counted with other groups.

    A server hosts one member of a group at most, so no two on a server have the same.
    """
    return SHARE_PORT_BASE + MAX_HOPS * (request.first_unit + key.shard) + key.hop


def instances(request: Request, placements: Sequence[Placement]) -> list[InstanceSpec]:
    """The instances of a chain, function by function, primary first; all shards are together."""
    return [
        instance(request, key, member, node)
        for key in group_keys(request)
        for member, node in enumerate(placements[key.hop].nodes)
    ]


def _replication_port(request: Request, key: GroupKey, member: int) -> int:
    """One that no other member of any group has in a run: a stopped process may hold its own."""
    unit = request.first_unit + key.shard
    if not unit < MAX_UNITS:
        raise ValueError(f"request {request.id}, shard {key.shard}: expected {MAX_UNITS} in all")
    return REPLICATION_PORT_BASE + MAX_MEMBERS * (MAX_HOPS * unit + key.hop) + member


def _nat_address(request: int, hop: int) -> str:
    """One of 100.64.0.0/10 (RFC 6598), no other NAT's of the run."""
    if not (0 <= request < MAX_UNITS and 0 <= hop < MAX_HOPS):
        raise ValueError(f"request {request}, function {hop}: expected {MAX_UNITS} x {MAX_HOPS}")
    return f"100.{64 + request // 256}.{request % 256}.{hop + 1}"


def _function_config(request: Request, key: GroupKey) -> dict[str, Any]:
    hop = key.hop
    if request.functions[hop] == "nat":
        config: dict[str, Any] = {"public_address": _nat_address(request.id, hop)}
        if request.shards > 1:
            # Shards must not give out the same port: they claim blocks of ports.
            config |= {"blocks": [], "claims_blocks": True, "instance": key.shard}
        return config
    if request.functions[hop] == "lb":
        # A request has one destination: it is the service and its only backend.
        address = user_address(request.destination)
        return {"virtual_address": address, "backends": [{"address": address}]}
    return {}


def _scope(request: Request, key: GroupKey) -> str | None:
    """Whose linearizable records a group shares: all port-scan detectors', its NAT's shards'."""
    function = request.functions[key.hop]
    if function == "idps":
        return "idps"
    if function == "nat" and request.shards > 1:
        return f"nat-{group_names(request.id, key.hop, 1)[0]}"
    return None


def paths_of(request: Request, key: GroupKey) -> dict[str, dict[str, int]]:
    """Which frames an instance of a group takes: path and hop, both directions."""
    last = len(request.functions) - 1
    forward, reverse = forward_path(request.id), reverse_path(request.id)
    return {
        "forward": {"path": with_shard(forward, key.shard), "hop": key.hop},
        "reverse": {"path": with_shard(reverse, key.shard), "hop": last - key.hop},
    }


def segments(request: Request, members: Mapping[GroupKey, Mapping[int, int]]) -> list[Segment]:
    """The segments of both service paths of each shard of a chain.

    `members[key][member]` is the node of each living member of a group. A group without a living
    member cuts the chain for its shard: no segment leads to it or away from it.
    """
    source, destination = user_name(request.source), user_name(request.destination)
    found = []
    for shard in range(request.shards):
        stages = [group for _, group in sorted(of_shard(members, shard).items())]
        forward = with_shard(forward_path(request.id), shard)
        reverse = with_shard(reverse_path(request.id), shard)
        found += _direction(forward, stages, source, destination)
        found += _direction(reverse, stages[::-1], destination, source)
    return found


def placements_left(
    members: Mapping[int, Mapping[int, int]], primaries: Mapping[int, int]
) -> list[Placement] | None:
    """Where the living members of a chain's shard are; None if a function has none left.

    `primaries[hop]` is the number of the primary; the others are backups in their order.
    """
    left = []
    for hop, stage in sorted(members.items()):
        numbers = sorted(stage, key=lambda number: (number != primaries[hop], number))
        if not numbers:
            return None
        nodes = [stage[number] for number in numbers]
        left.append(Placement(nodes[0], nodes[1] if len(nodes) > 1 else None, tuple(nodes[2:])))
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
