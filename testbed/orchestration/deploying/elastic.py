"""Moves the functions of running chains, and spreads them over more or fewer servers.

All is made of moves of single groups (`reconfigure.move`). Each is an event of the run; one that
fails leaves its group as it was, and the others are carried out all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from testbed.orchestration.deploying.deploy import Chain
from testbed.orchestration.deploying.deployments import Deployments
from testbed.orchestration.deploying.reconfigure import ReconfigurationError
from testbed.orchestration.deploying.spread import servers_of, spread
from testbed.scenario.names import GroupKey, group_name, instance_name

Report = dict[str, Any]
"""{"request", "function", "instances": servers that hold primaries of it now, "duration_ns",
"moves": [{"group", "from", "to", "member", "caught_up_ns", "held_ns", "duration_ns"}],
"failed": [{"shard", "to", "error"}]}; "from" and "to" are nodes."""


def move_group(deployments: Deployments, request: int, key: GroupKey, node: int) -> Report:
    """Move the primary of a group to a node; an entry of "moves". Raises ReconfigurationError."""
    where = {"request": request, "function": key.hop, "shard": key.shard, "node": node}
    try:
        deployed = deployments.chain_of(request, key.hop)
        if key not in deployed.members:
            shards = deployed.request.shards
            raise ReconfigurationError(f"shard {key.shard}: expected 0 to {shards - 1}")
        before = deployed.members[key].get(deployed.primaries[key])
        deployments.note("move-begin", **where)
        moved = deployments.move(deployed, key, node)
    except ReconfigurationError as error:
        deployments.note("move-failed", **where, error=str(error))
        raise
    deployments.started(deployed, key, moved["member"], node)
    instance = instance_name(deployed.request, key, moved["member"])
    deployments.note("moved", **where, instance=instance, **moved)
    group = group_name(deployed.request, key)
    return {"group": group, "from": before, "to": node, **moved}


def move_function(
    deployments: Deployments,
    request: int,
    hop: int,
    shard: int | None,
    node: int,
    between: Callable[[], None],
) -> Report:
    """Move one shard of a function, or (None) all that are where the first one's primary is.

    `between` is called after each single move. Raises ReconfigurationError if nothing was moved.
    """
    deployed = deployments.chain_of(request, hop)
    shards = [shard] if shard is not None else _together(deployments, deployed, hop)
    moves = [(each, node) for each in shards]
    return _carry_out(deployments, deployed, hop, moves, between)


def scale(
    deployments: Deployments, request: int, hop: int, instances: int, between: Callable[[], None]
) -> Report:
    """Spread the shards of a function evenly over `instances` servers.

    To scale out, the policy says where to; to scale in, servers with the fewest shards are left.
    `between` is called after each single move. Raises ReconfigurationError if it cannot be, and
    then nothing has begun, or if all moves failed.
    """
    deployed = deployments.chain_of(request, hop)
    shards = deployed.request.shards
    if not 1 <= instances <= shards:
        raise ReconfigurationError(f"instances = {instances}: expected 1 to {shards}, the shards")
    where = deployments.primaries_of(deployed, hop)
    if len(where) < shards:
        lost = sorted(set(range(shards)) - set(where))
        raise ReconfigurationError(f"shards {lost} have no primary now")
    servers = servers_of(where)[:instances]
    while len(servers) < instances:
        node = deployments.node_for_shards(deployed, hop, servers)
        if node is None:
            raise ReconfigurationError(f"the policy found no node beside {servers}")
        servers.append(node)
    where_to = {"request": request, "function": hop, "instances": instances, "nodes": servers}
    deployments.note("scale-begin", **where_to)
    report = _carry_out(deployments, deployed, hop, spread(where, servers), between)
    done = {name: report[name] for name in ("request", "function", "instances", "duration_ns")}
    deployments.note("scaled", **done, moves=len(report["moves"]), failed=report["failed"])
    return report


def try_move(
    deployments: Deployments,
    request: int,
    hop: int,
    shard: int | None,
    node: int,
    between: Callable[[], None],
) -> list[str]:
    """`move_function`; why what could not be could not, and the run goes on."""
    try:
        report = move_function(deployments, request, hop, shard, node, between)
    except ReconfigurationError as error:
        return [str(error)]
    return [str(each["error"]) for each in report["failed"]]


def try_scale(
    deployments: Deployments, request: int, hop: int, instances: int, between: Callable[[], None]
) -> list[str]:
    """`scale`; why what could not be could not, also as an event, and the run goes on."""
    try:
        report = scale(deployments, request, hop, instances, between)
    except ReconfigurationError as error:
        where = {"request": request, "function": hop}
        deployments.note("scale-failed", **where, instances=instances, error=str(error))
        return [str(error)]
    return [str(each["error"]) for each in report["failed"]]


def _together(deployments: Deployments, deployed: Chain, hop: int) -> list[int]:
    """The shards whose primaries are where the first shard's is."""
    where = deployments.primaries_of(deployed, hop)
    if not where:
        raise ReconfigurationError(f"function {hop} has no primary now")
    first = where[min(where)]
    return [shard for shard in sorted(where) if where[shard] == first]


def _carry_out(
    deployments: Deployments,
    deployed: Chain,
    hop: int,
    moves: Iterable[tuple[int, int]],
    between: Callable[[], None],
) -> Report:
    begin_ns = time.monotonic_ns()
    request = deployed.request
    done: list[Report] = []
    failed: list[Report] = []
    for shard, node in moves:
        key = GroupKey(hop, shard)
        try:
            done.append(move_group(deployments, request.id, key, node))
        except ReconfigurationError as error:
            failed.append({"shard": shard, "to": node, "error": str(error)})
        between()
    if failed and not done:
        raise ReconfigurationError("; ".join(str(each["error"]) for each in failed))
    return {
        "request": request.id,
        "function": hop,
        "instances": len(set(deployments.primaries_of(deployed, hop).values())),
        "moves": done,
        "failed": failed,
        "duration_ns": time.monotonic_ns() - begin_ns,
    }
