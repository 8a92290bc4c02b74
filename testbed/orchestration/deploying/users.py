"""Starts the processes of the user hosts: edges, senders, receivers, applications."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.orchestration.deploying import chain
from testbed.orchestration.deploying.chain import user_address
from testbed.orchestration.deploying.site import (
    EDGE_PRIORITY,
    READY_S,
    SENDER_PRIORITY,
    TRAFFIC_PRIORITY,
    Site,
)
from testbed.records.application_paths import application_path
from testbed.records.files import write_text
from testbed.records.raw import contents_path, payloads_path, sizes_path
from testbed.scenario.errors import RunError
from testbed.scenario.names import (
    application_name,
    edge_name,
    receiver_name,
    sender_name,
    user_name,
)
from testbed.scenario.types import NS_PER_S, Request

POLL_S = 0.01


def start_edges(site: Site) -> None:
    """Start the edges of every user host that some request uses."""
    nodes = {
        node for request in site.plan.requests for node in (request.source, request.destination)
    }
    for node in sorted(nodes):
        _start_edge(site, node)


def start_traffic(site: Site) -> None:
    """Start receivers and senders; they take orders when it returns, and wait for `begin`."""
    for node in _destinations(site):
        ports = [
            chain.destination_port(request.id)
            for request in site.plan.requests
            if request.destination == node
        ]
        config = {"ports": ports, "out": site.raw(f"received-{node}")}
        _start_user_process(site, node, "receiver", config)
    for node in _sources(site):
        _start_user_process(site, node, "sender", {"streams": [], "out": site.raw("sent")})


def begin(site: Site, lead_s: float, prepare: Callable[[int], None]) -> int:
    """Set the run's origin `lead_s` from now and tell all that was started; the origin.

    `prepare` is told first. Raises RunError if somebody could not be told in time: it would begin
    late.
    """
    origin_ns = time.monotonic_ns() + round(lead_s * NS_PER_S)
    prepare(origin_ns)
    names = [*map(receiver_name, _destinations(site)), *map(sender_name, _sources(site))]
    sockets = [site.socket(name) for name in names]
    site.control.call_all(sockets, "begin", READY_S, origin_ns=origin_ns)
    write_text(_origin_file(site), str(origin_ns))
    late_ns = time.monotonic_ns() - origin_ns
    if late_ns > 0:
        raise RunError(
            f"the run could not begin in time: it took {lead_s + late_ns / NS_PER_S:.2f} s to tell "
            f"{len(names)} senders and receivers, expected at most {lead_s} s"
        )
    return origin_ns


def start_applications(site: Site) -> None:
    """Start both ends of the plan's applications; each is ready and waits for `begin`.

    Raises RunError if one is not ready in time.
    """
    requests = {request.id: request for request in site.plan.requests}
    started: list[str] = []
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
            "origin": str(_origin_file(site)),
            "at_ns": each.at_ns,
            "end_ns": each.end_ns,
            "out": str(out),
        }
        ends = (("serve", request.destination, server), ("use", request.source, client))
        for role, node, config in ends:
            name = application_name(number, role)
            site.spawner.start(
                name,
                f"traffic.application_processes:{role}",
                {**config, "ready": str(_ready_file(site, name))},
                namespace_pid=site.hosts[user_name(node)].pid,
                ends=role == "use" or each.kind == "iperf3",
            )
            started.append(name)
    deadline = time.monotonic() + READY_S
    while waiting := [name for name in started if not _ready_file(site, name).exists()]:
        if time.monotonic() > deadline:
            raise RunError(f"{', '.join(waiting)}: not ready within {READY_S} s")
        time.sleep(POLL_S)  # they have no orders to answer


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


def _sources(site: Site) -> list[int]:
    return sorted({request.source for request in site.plan.requests})


def _destinations(site: Site) -> list[int]:
    return sorted({request.destination for request in site.plan.requests})


def _origin_file(site: Site) -> Path:
    return site.sockets / "origin"


def _ready_file(site: Site, name: str) -> Path:
    return site.sockets / f"{name}.ready"


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
        "testbed.vnf.edge.edge:main",
        config,
        namespace_pid=host.pid,
        fifo_priority=site.priority(EDGE_PRIORITY),
    )
    site.control.call(site.socket(name), "ping", READY_S)


def _start_user_process(site: Site, node: int, kind: str, config: dict[str, Any]) -> None:
    name = sender_name(node) if kind == "sender" else receiver_name(node)
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
