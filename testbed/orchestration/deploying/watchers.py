"""Starts the watchers of a run: the members of the FDU, and an agent on every server."""

from __future__ import annotations

import os

from testbed.orchestration.deploying.site import FDU_PRIORITY, READY_S, STALLS_PRIORITY, Site
from testbed.scenario.names import fdu_name, server_name
from testbed.scenario.types import NS_PER_S


def start_servers(site: Site) -> None:
    """Start the FDU and the agents; the FDU has a leader and watches them when it returns."""
    watch_cores(site)
    for number in range(site.scenario.replication.fdu_members):
        start_fdu_member(site, number)
    site.fdu.await_ready(READY_S)
    for server in site.plan.servers:
        start_agent(site, server.node)


def watch_cores(site: Site) -> None:
    """Have it noted when a core of the host stands still, if there is a class that can tell."""
    priority = site.priority(STALLS_PRIORITY)
    if priority is not None:
        config = {"cores": sorted(os.sched_getaffinity(0)), "events": site.events_path}
        target = "testbed.orchestration.detection.stalls:main"
        site.spawner.start("stalls", target, config, fifo_priority=priority)


def start_fdu_member(site: Site, number: int) -> None:
    """Start a member of the FDU; one that was killed goes on from its journal."""
    replication = site.scenario.replication
    names = [fdu_name(each) for each in range(replication.fdu_members)]
    name = names[number]
    config = {
        "name": name,
        "members": {each: site.socket(f"{each}-log") for each in names},
        **site.fdu_sockets()[number],
        "notify_socket": site.socket("news"),
        "heartbeat_ns": round(replication.heartbeat_s * NS_PER_S),
        "failure_timeout_ns": round(replication.failure_timeout_s * NS_PER_S),
        "events": site.events_path,
        "long_queues": True,
        "journal": str(site.sockets / f"{name}.journal"),
    }
    site.spawner.start(
        name,
        "testbed.orchestration.detection.fdu:main",
        config,
        fifo_priority=site.priority(FDU_PRIORITY),
    )


def start_agent(site: Site, node: int) -> None:
    """Start the agent of a server, and let the FDU watch it."""
    name = server_name(node)
    host = site.hosts[name]
    agent = {
        "name": name,
        "interface": host.interface,
        "mac": host.mac,
        "control_socket": site.socket(name),
        "heartbeat_ns": round(site.scenario.replication.heartbeat_s * NS_PER_S),
        "fdu": site.fdu_sockets(),
    }
    site.spawner.start(
        name,
        "testbed.orchestration.detection.agent:main",
        agent,
        namespace_pid=host.pid,
        fifo_priority=site.priority(FDU_PRIORITY),
    )
    site.control.call(site.socket(name), "ping", READY_S)
    site.fdu.watch_server(name)
