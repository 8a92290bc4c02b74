"""Starts what runs on the user hosts: edges, senders and receivers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.orchestration import chain
from testbed.orchestration.chain import user_address
from testbed.orchestration.site import (
    EDGE_PRIORITY,
    READY_S,
    SENDER_PRIORITY,
    TRAFFIC_PRIORITY,
    Site,
)
from testbed.results.applications import application_path
from testbed.results.raw import contents_path, payloads_path, sizes_path
from testbed.scenario.names import edge_name, sender_name, user_name
from testbed.scenario.types import Request


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


def start_applications(site: Site, origin_ns: int) -> None:
    """Start both ends of the plan's applications; each waits for its time."""
    requests = {request.id: request for request in site.plan.requests}
    for number, each in enumerate(site.plan.applications):
        request = requests[each.request]
        common = {
            **dict(each.options),
            "kind": each.kind,
            "port": chain.destination_port(request.id),
        }
        server = {**common, "bind": user_address(request.destination)}
        out = application_path(Path(site.run_dir), number, each.kind)
        client = {
            **common,
            "server": user_address(request.destination),
            "origin_ns": origin_ns,
            "at_ns": each.at_ns,
            "end_ns": each.end_ns,
            "out": str(out),
        }
        ends = (("serve", request.destination, server), ("use", request.source, client))
        for role, node, config in ends:
            site.spawner.start(
                f"application-{number}-{role}",
                f"traffic.applications:{role}",
                config,
                namespace_pid=site.hosts[user_name(node)].pid,
            )


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
    raw = Path(schedule).parent
    if sizes_path(raw, request.id).exists():
        stream["sizes"] = str(sizes_path(raw, request.id))
    if contents_path(raw, request.id).exists():
        stream["contents"] = str(contents_path(raw, request.id))
        stream["payloads"] = str(payloads_path(raw))
    site.control.call(site.socket(sender_name(request.source)), "add-stream", stream=stream)


def _start_edge(site: Site, node: int) -> None:
    host = site.hosts[user_name(node)]
    name = edge_name(node)
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
        "trace": site.trace(name, node),
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
        namespace_pid=site.hosts[user_name(node)].pid,
        fifo_priority=site.priority(SENDER_PRIORITY if kind == "sender" else TRAFFIC_PRIORITY),
    )
    site.control.call(site.socket(name), "ping", READY_S)
