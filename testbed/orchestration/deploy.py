"""Puts chains on the emulated network and takes them off: instances, rules, edges, traffic."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.client import ControllerClient
from testbed.orchestration import chain
from testbed.orchestration.control import ControlClient, ControlError
from testbed.orchestration.spawner import Spawner
from testbed.results.events import EventLog
from testbed.scenario.model import ReplicationSpec, Scenario
from testbed.scenario.steering import forward_path, reverse_path
from testbed.scenario.types import NS_PER_S, Placement, Request, RunPlan
from testbed.substrate.network import Host

READY_S = 10.0
PING_S = 0.5
EDGE_PRIORITY = 10
FDU_PRIORITY = 15
TRAFFIC_PRIORITY = 12
UDP = 17


class DeployError(Exception):
    """A chain could not be put on the network; the run can go on without it."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a run happens: its hosts, folders and the processes that serve it."""

    plan: RunPlan
    scenario: Scenario
    hosts: Mapping[str, Host]
    sockets: Path
    run_dir: Path
    spawner: Spawner
    controller: ControllerClient
    control: ControlClient
    events: EventLog
    server_cgroups: Mapping[int, Sequence[str]]
    realtime: bool

    @property
    def events_path(self) -> str:
        """The event log's file."""
        return str(self.run_dir / "events.jsonl")

    def socket(self, name: str) -> str:
        """The control socket of the process `name`."""
        return str(self.sockets / f"{name}.sock")

    def raw(self, name: str) -> str:
        """A file of raw records in the run's folder."""
        return str(self.run_dir / "raw" / name)

    def cpu_clock(self, node: int) -> str:
        """The file of the server clock of `node`."""
        return str(self.sockets / f"cpu-{node}")

    def priority(self, value: int) -> int | None:
        """A real-time priority where the host grants one."""
        return value if self.realtime else None


@dataclass(slots=True)
class Chain:
    """A deployed chain; `members[hop][member]` is the node of each living member."""

    request: Request
    members: dict[int, dict[int, int]]
    instances: list[str] = field(default_factory=list)


def user_address(node: int) -> str:
    """The address of the user host at a node, on its TUN device."""
    return f"10.77.0.{node + 1}"


def replication_config(spec: ReplicationSpec) -> dict[str, Any]:
    """The scenario's replication section as an instance takes it."""
    return {
        "mode": spec.mode,
        "batch_packets": spec.batch_packets,
        "batch_ns": round(spec.batch_s * NS_PER_S),
        "gap_timeout_ns": round(spec.gap_timeout_s * NS_PER_S),
        "retransmit_ns": round(spec.retransmit_s * NS_PER_S),
        "buffer_packets": spec.buffer_packets,
    }


def start_servers(site: Site) -> None:
    """Start the FDU and an agent on every server."""
    replication = site.scenario.replication
    heartbeat_ns = round(replication.heartbeat_s * NS_PER_S)
    config = {
        "fdu_socket": site.socket("heartbeats"),
        "control_socket": site.socket("fdu"),
        "notify_socket": site.socket("news"),
        "heartbeat_ns": heartbeat_ns,
        "failure_timeout_ns": round(replication.failure_timeout_s * NS_PER_S),
        "events": site.events_path,
    }
    site.spawner.start(
        "fdu", "testbed.orchestration.fdu:main", config, fifo_priority=site.priority(FDU_PRIORITY)
    )
    site.control.call(site.socket("fdu"), "ping", READY_S)
    for server in site.plan.servers:
        name = chain.server_name(server.node)
        agent = {
            "name": name,
            "fdu_socket": site.socket("heartbeats"),
            "heartbeat_ns": heartbeat_ns,
        }
        site.spawner.start(
            name,
            "testbed.orchestration.agent:main",
            agent,
            namespace_pid=site.hosts[name].pid,
            fifo_priority=site.priority(FDU_PRIORITY),
        )
        members = [{"name": name, "control_socket": ""}]
        site.control.call(site.socket("fdu"), "watch-group", group=name, members=members)


def start_edges(site: Site) -> None:
    """Start the edges of every user host that some request uses."""
    nodes = {
        node for request in site.plan.requests for node in (request.source, request.destination)
    }
    for node in sorted(nodes):
        _start_edge(site, node)


def start_traffic(site: Site, origin_ns: int) -> None:
    """Start receivers and senders; the run begins at `origin_ns` on CLOCK_MONOTONIC."""
    for node in sorted({request.destination for request in site.plan.requests}):
        ports = [
            chain.destination_port(request.id)
            for request in site.plan.requests
            if request.destination == node
        ]
        config = {"ports": ports, "out": site.raw(f"received-{node}"), "origin_ns": origin_ns}
        _start_user_process(site, node, "receiver", config)
    for node in sorted({request.source for request in site.plan.requests}):
        config = {"streams": [], "out": site.raw("sent"), "origin_ns": origin_ns}
        _start_user_process(site, node, "sender", config)


def start_stream(site: Site, request: Request, schedule: str) -> None:
    """Let the sender send a request's packets on schedule, whether it was accepted or not."""
    stream = {
        "request": request.id,
        "destination": user_address(request.destination),
        "destination_port": chain.destination_port(request.id),
        "source_port_base": chain.source_port_base(request.id),
        "l3_bytes": request.l3_bytes,
        "schedule": schedule,
    }
    site.control.call(site.socket(f"sender-{request.source}"), "add-stream", stream=stream)


def deploy(site: Site, request: Request, placements: Sequence[Placement]) -> Chain:
    """Start a chain's instances, install its rules, open its edges; ready when it returns.

    Raises DeployError if an instance does not start, for one because its server is down; nothing
    of the chain is left then. SpawnError, ControlError and ControllerError end the run.
    """
    specs = chain.instances(request, placements)
    members: dict[int, dict[int, int]] = {hop: {} for hop in range(len(placements))}
    for spec in specs:
        members[spec.hop][spec.member] = spec.node
    for spec in specs:
        _start_instance(site, request, spec, members[spec.hop])
    deployed = Chain(request, members, [spec.name for spec in specs])
    install(site, deployed)
    for spec in specs:
        _await_instance(site, deployed, spec.name)
    for hop, group in members.items():
        name = chain.group_name(request.id, hop)
        watched = [
            {"name": f"{name}-m{m}", "control_socket": site.socket(f"{name}-m{m}")} for m in group
        ]
        site.control.call(site.socket("fdu"), "watch-group", group=name, members=watched)
    _open_edges(site, request)
    return deployed


def _await_instance(site: Site, deployed: Chain, name: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            site.control.call(site.socket(name), "ping", PING_S)
            return
        except ControlError:
            if site.spawner.pid(name) is None or time.monotonic() > deadline:
                site.controller.remove(f"r{deployed.request.id}")
                site.spawner.end(deployed.instances)
                raise DeployError(f"{name} did not start: see log/{name}.log") from None


def install(site: Site, deployed: Chain) -> None:
    """Install or update the rules of a chain for its living members."""
    site.controller.install(
        f"r{deployed.request.id}", chain.segments(deployed.request, deployed.members)
    )


def remove(site: Site, deployed: Chain) -> None:
    """Take a chain off: edges first, then rules, then instances."""
    request = deployed.request
    for name in deployed.members:
        group = chain.group_name(request.id, name)
        site.control.call(site.socket("fdu"), "forget-group", group=group)
    for node in {request.source, request.destination}:
        for path in (forward_path(request.id), reverse_path(request.id)):
            site.control.call(site.socket(f"edge-{node}"), "remove-path", path=path)
    site.controller.remove(f"r{request.id}")
    site.spawner.end(deployed.instances)


def _start_edge(site: Site, node: int) -> None:
    host = site.hosts[chain.user_name(node)]
    name = f"edge-{node}"
    config = {
        "name": name,
        "interface": host.interface,
        "mac": host.mac,
        "tun": "tun0",
        "tun_address": user_address(node),
        "control_socket": site.socket(name),
        "events": site.events_path,
        "dump": site.raw(f"{name}.json"),
        "epoch": 0,
    }
    site.spawner.start(
        name,
        "testbed.vnf.edge:main",
        config,
        namespace_pid=host.pid,
        fifo_priority=site.priority(EDGE_PRIORITY),
    )
    site.control.call(site.socket(name), "ping", READY_S)


def _start_user_process(site: Site, node: int, kind: str, config: dict[str, Any]) -> None:
    name = f"{kind}-{node}"
    config = {
        **config,
        "name": name,
        "bind": user_address(node),
        "control_socket": site.socket(name),
        "events": site.events_path,
    }
    site.spawner.start(
        name,
        f"traffic.{kind}:main",
        config,
        namespace_pid=site.hosts[chain.user_name(node)].pid,
        fifo_priority=site.priority(TRAFFIC_PRIORITY),
    )
    site.control.call(site.socket(name), "ping", READY_S)


def _start_instance(
    site: Site, request: Request, spec: chain.InstanceSpec, group: Mapping[int, int]
) -> None:
    host = site.hosts[chain.server_name(spec.node)]
    replication = site.scenario.replication
    profile = site.plan.profiles[spec.function]
    peers = [(member, node) for member, node in group.items() if member != spec.member]
    peer = (
        {
            "address": site.hosts[chain.server_name(peers[0][1])].address,
            "port": spec.port ^ 1,
        }
        if peers
        else None
    )
    emulated = site.scenario.servers.capacity_model == "service-time"
    config = {
        "name": spec.name,
        "group": spec.group,
        "role": "primary" if spec.member == 0 else "backup",
        "member": spec.member,
        "function": spec.function,
        "function_config": spec.function_config,
        "interface": host.interface,
        "mac": host.mac,
        "paths": chain.paths_of(request, spec.hop),
        "replication": replication_config(replication),
        "address": host.address,
        "port": spec.port,
        "peer": peer,
        "cpu": {
            "path": site.cpu_clock(spec.node),
            "service_ns": profile.service_ns,
            "backup_service_ns": profile.backup_service_ns,
        }
        if emulated
        else None,
        "control_socket": site.socket(spec.name),
        "fdu_socket": site.socket("heartbeats"),
        "heartbeat_ns": round(replication.heartbeat_s * NS_PER_S),
        "events": site.events_path,
        "dump": site.raw(f"{spec.name}.json"),
    }
    site.spawner.start(
        spec.name,
        "testbed.vnf.runtime:main",
        config,
        namespace_pid=host.pid,
        cgroup_procs=site.server_cgroups.get(spec.node, ()),
    )


def _open_edges(site: Site, request: Request) -> None:
    hops = len(request.functions)
    forward, reverse = forward_path(request.id), reverse_path(request.id)
    ingress = site.socket(f"edge-{request.source}")
    egress = site.socket(f"edge-{request.destination}")
    site.control.call(egress, "accept-path", path=forward, hop=hops, reverse=reverse)
    site.control.call(ingress, "accept-path", path=reverse, hop=hops, reverse=forward)
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
