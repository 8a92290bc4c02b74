"""Puts chains on the emulated network and takes them off: instances, rules, edges."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from testbed.orchestration.deploying import chain
from testbed.orchestration.deploying.chain import InstanceSpec, group_keys, user_address
from testbed.orchestration.deploying.site import INSTANCE_PRIORITY, READY_S, Site
from testbed.orchestration.deploying.warm_ways import Way, warm, ways_of
from testbed.orchestration.messages.control_client import ControlError
from testbed.scenario.errors import RunError
from testbed.scenario.names import (
    GroupKey,
    chain_name,
    edge_name,
    group_name,
    instance_name,
    server_name,
)
from testbed.scenario.replication import ReplicationSpec
from testbed.scenario.steering import forward_path, reverse_path
from testbed.scenario.types import NS_PER_S, Placement, Request
from testbed.vnf.edge.stamper import BUCKETS

PING_S = 0.5
RING_FRAMES = {"rx_frames": 512, "tx_frames": 256}
"""Slots of an instance's rings, 2 KiB each: what arrives while its process waits for a core."""


class DeployError(RunError):
    """A chain could not be put on the network; the run can go on without it."""


@dataclass(slots=True)
class Chain:
    """A deployed chain.

    members     `members[key][number]` is the node of each living member of a group
    primaries   `primaries[key]` is the number of its primary
    instances   the names of all instances that were ever started for it
    ways        the ways that its rules lead
    """

    request: Request
    members: dict[GroupKey, dict[int, int]]
    primaries: dict[GroupKey, int]
    instances: list[str] = field(default_factory=list)
    ways: set[Way] = field(default_factory=set)


def replication_config(spec: ReplicationSpec) -> dict[str, Any]:
    """The scenario's replication section as an instance takes it."""
    lease_s = spec.failure_timeout_s if spec.lease_s is None else spec.lease_s
    return {
        "mode": spec.mode,
        "batch_packets": spec.batch_packets,
        "batch_ns": round(spec.batch_s * NS_PER_S),
        "gap_timeout_ns": round(spec.gap_timeout_s * NS_PER_S),
        "retransmit_ns": round(spec.retransmit_s * NS_PER_S),
        "lease_ns": round(lease_s * NS_PER_S),
        "buffer_packets": spec.buffer_packets,
        "availability": spec.without_backup == "availability",
    }


def deploy(site: Site, request: Request, placements: Sequence[Placement]) -> Chain:
    """Start a chain's instances, install its rules, open its edges; ready when it returns.

    Raises DeployError if an instance does not start, for one because its server is down; nothing
    of the chain is left then. SpawnError, ControlError and ControllerError end the run.
    """
    specs = chain.instances(request, placements)
    groups = {key: [spec for spec in specs if spec.key == key] for key in group_keys(request)}
    members = {key: {spec.member: spec.node for spec in group} for key, group in groups.items()}
    for spec in specs:
        start_instance(site, request, spec, _first_configuration(site, groups[spec.key]))
    primaries = {key: group[0].member for key, group in groups.items()}
    deployed = Chain(request, members, primaries, [spec.name for spec in specs])
    install(site, deployed)
    try:
        for spec in specs:
            await_instance(site, spec)
    except DeployError:
        site.controller.remove(chain_name(request.id))
        site.spawner.end(deployed.instances)
        raise
    for key, group in groups.items():
        site.fdu.create_group(
            group_name(request, key),
            {spec.member: member_info(site, spec) for spec in group},
            primary=group[0].member,
            backups=[spec.member for spec in group[1:]],
            scope=group[0].scope,
        )
    _open_edges(site, request)
    return deployed


def install(site: Site, deployed: Chain) -> None:
    """Install or update the rules of a chain for its living members, and send probes first.

    When it returns, probes have gone all new ways before any packet, as far as that is possible:
    the event `cold-ways` says on how many none came through.
    """
    name = chain_name(deployed.request.id)
    segments = chain.segments(deployed.request, deployed.members)
    installed = site.controller.install(name, segments)
    ways = ways_of(segments)
    cold = warm(site, ways - deployed.ways, installed["path_ns"])
    deployed.ways = ways
    if cold:
        site.events.write("cold-ways", chain=name, ways=len(cold))


def remove(site: Site, deployed: Chain) -> None:
    """Take a chain off: edges first, then rules, then instances."""
    request = deployed.request
    for key in deployed.members:
        site.fdu.remove_group(group_name(request, key))
    for node in {request.source, request.destination}:
        for path in (forward_path(request.id), reverse_path(request.id)):
            site.control.call(site.socket(edge_name(node)), "remove-path", path=path)
    site.controller.remove(chain_name(request.id))
    for key, group in deployed.members.items():
        for member, node in group.items():
            forget_process(site, node, instance_name(request, key, member))
    site.spawner.end(deployed.instances)


def member_info(site: Site, spec: InstanceSpec) -> dict[str, Any]:
    """How the FDU and the other members of its group reach an instance."""
    return {
        "name": spec.name,
        "control_socket": site.socket(spec.name),
        "address": site.hosts[server_name(spec.node)].address,
        "port": spec.port,
    }


def start_instance(
    site: Site, request: Request, spec: InstanceSpec, configuration: dict[str, Any] | None
) -> None:
    """Start the process of an instance; `configuration` is that of its group, if it has one yet."""
    host = site.hosts[server_name(spec.node)]
    replication = site.scenario.replication
    profile = site.plan.profiles[spec.function]
    emulated = site.scenario.servers.capacity_model == "service-time"
    config = {
        "name": spec.name,
        "group": spec.group,
        "member": spec.member,
        "function": spec.function,
        "function_config": spec.function_config,
        "interface": host.interface,
        "mac": host.mac,
        "scope": spec.scope,
        "paths": chain.paths_of(request, spec.key),
        "replication": replication_config(replication),
        "address": host.address,
        "port": spec.port,
        "share": {
            "port": chain.share_port(request, spec.key),
            "period_ns": round(replication.share_s * NS_PER_S),
        },
        "cpu": {
            "path": site.cpu_clock(spec.node),
            "service_ns": profile.service_ns,
            "backup_service_ns": profile.backup_service_ns,
        }
        if emulated
        else None,
        "control_socket": site.socket(spec.name),
        "fdu": site.fdu_sockets(),
        "heartbeat_ns": round(replication.heartbeat_s * NS_PER_S),
        "events": site.events_path,
        "dump": site.raw(f"{spec.name}.json"),
        **RING_FRAMES,
        "configuration": configuration,
        "core": None,
        "alive": site.sign_of_life(spec.name),
        "trace": site.trace(spec.name, spec.node),
    }
    site.spawner.start(
        spec.name,
        "testbed.vnf.process.runtime:main",
        config,
        namespace_pid=host.pid,
        cgroup_procs=site.server_cgroups.get(spec.node, ()),
    )


def await_instance(site: Site, spec: InstanceSpec) -> None:
    """Wait until an instance takes orders, and let its server's agent watch its process.

    It gets its priority only now: while it starts it does more than a packet's work at a time.
    Raises DeployError if it does not in time, ended, or has a server whose agent ended: that is
    what refuses the order to watch.
    """
    deadline, server = time.monotonic() + READY_S, server_name(spec.node)
    while True:
        pid = site.spawner.pid(spec.name)
        try:
            site.control.call(site.socket(spec.name), "ping", PING_S)
            agent = site.socket(server)
            alive = site.sign_of_life(spec.name)
            site.control.call(agent, "watch-process", PING_S, name=spec.name, pid=pid, alive=alive)
            _give_priority(site, pid)
            return
        except ControlError:
            if site.spawner.pid(server) is None:
                raise DeployError(f"{spec.name} did not start: its server is down") from None
            if pid is None or time.monotonic() > deadline:
                raise DeployError(f"{spec.name} did not start: see log/{spec.name}.log") from None


def _give_priority(site: Site, pid: int | None) -> None:
    """What an instance may use is up to its server's clock, not to what else the host does.

    A quota would not bind a real-time process, so with quotas it stays a usual one.
    """
    priority = site.priority(INSTANCE_PRIORITY)
    if priority is None or pid is None or site.scenario.servers.capacity_model == "quota":
        return
    with contextlib.suppress(ProcessLookupError):
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(priority))


def forget_process(site: Site, node: int, name: str) -> None:
    """Tell a server's agent that a process is about to end; its agent may be dead."""
    agent = server_name(node)
    if site.spawner.pid(agent) is not None:
        with contextlib.suppress(ControlError):
            site.control.call(site.socket(agent), "forget-process", PING_S, name=name)


def _first_configuration(site: Site, group: Sequence[InstanceSpec]) -> dict[str, Any]:
    """What the FDU will say of a group in its first epoch."""
    return {
        "epoch": 1,
        "primary": group[0].member,
        "backups": [spec.member for spec in group[1:]],
        "learners": [],
        "confirmed": True,
        "members": {spec.member: member_info(site, spec) for spec in group},
    }


def _open_edges(site: Site, request: Request) -> None:
    """Let packets of a request in and out: what ends here first, and no packet without a shard."""
    hops = len(request.functions)
    forward, reverse = forward_path(request.id), reverse_path(request.id)
    ingress = site.socket(edge_name(request.source))
    egress = site.socket(edge_name(request.destination))
    shards = list(range(request.shards))
    of_buckets = {b: chain.shard_of_bucket(b, request.shards) for b in range(BUCKETS)}
    for edge, ends, begins in ((egress, forward, reverse), (ingress, reverse, forward)):
        site.control.call(edge, "set-shards", path=begins, shards=of_buckets)
        site.control.call(edge, "accept-path", path=ends, hop=hops, reverse=begins, shards=shards)
    match = {
        "protocol": None,
        "destination": user_address(request.destination),
        "destination_port": chain.destination_port(request.id),
    }
    site.control.call(
        ingress,
        "add-path",
        request=request.id,
        path=forward,
        reverse=reverse,
        hops=hops,
        match=match,
    )
