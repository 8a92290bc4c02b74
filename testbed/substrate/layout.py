"""Names, port numbers and addresses of a run's network, computed from its topology alone.

Interface names fit the kernel's 15 characters and begin with the run id. Switch i has the
server on port 1, the user host on port 2 and its links, in the topology's order, from port 3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from testbed.scenario.errors import InputError
from testbed.scenario.names import server_name, user_name
from testbed.scenario.types import Link, Topology

Role = Literal["server", "user"]
SERVER_PORT = 1
USER_PORT = 2
_FIRST_LINK_PORT = 3
_MAX_NODES = 200
_MAX_LINKS = 999
_MAX_NAME = 15


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A host and its one link to its node's switch."""

    name: str
    node: int
    role: Role
    interface: str
    mac: str
    address: str | None
    """IPv4 address without prefix length; None for a user host."""
    switch_interface: str
    switch_port: int


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """A link: the switches' interfaces and ports, and the line's ends if a line carries it."""

    index: int
    link: Link
    a_interface: str
    a_port: int
    b_interface: str
    b_port: int
    line_a: str
    line_b: str


@dataclass(frozen=True, slots=True)
class Layout:
    """All names and numbers of a run's network."""

    run_id: str
    bridges: tuple[str, ...]
    hosts: tuple[HostPlan, ...]
    links: tuple[LinkPlan, ...]

    @property
    def switch_interfaces(self) -> tuple[str, ...]:
        """Every interface in the root namespace."""
        ends = [host.switch_interface for host in self.hosts]
        for link in self.links:
            ends += [link.a_interface, link.b_interface]
        return tuple(ends)


def check_run_id(run_id: str) -> None:
    """ValueError unless `run_id` is six lowercase hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-f]{6}", run_id):
        raise ValueError(f"run id = {run_id!r}: expected six lowercase hexadecimal digits")


def mark(run_id: str) -> str:
    """The alias of interfaces that belong to the run."""
    return f"deftbed:{run_id}"


def interface_group(run_id: str) -> int:
    """The kernel's group of the run's interfaces, so that they can be removed at one go."""
    return (1 << 24) + int(run_id, 16)


def switch_name(node: int) -> str:
    """The controller's name for the switch of a node."""
    return f"s{node}"


def server_address(node: int) -> str:
    """The IPv4 address of a server, without prefix length."""
    return f"10.78.0.{node + 1}"


def host_mac(role: Role, node: int) -> str:
    """The MAC address of a host: locally administered, and none of the virtual 02: addresses."""
    return f"06:00:00:{1 if role == 'server' else 2:02x}:{node >> 8:02x}:{node & 255:02x}"


def make_layout(topology: Topology, run_id: str) -> Layout:
    """The layout of a topology; InputError if it has more nodes or links than names."""
    check_run_id(run_id)
    nodes, links = len(topology.nodes), len(topology.links)
    if nodes > _MAX_NODES or links > _MAX_LINKS:
        raise InputError(
            "topology",
            f"{nodes} nodes and {links} links",
            f"at most {_MAX_NODES} nodes and {_MAX_LINKS} links, which an emulation can have",
        )
    next_port = [_FIRST_LINK_PORT] * nodes
    plans = []
    for index, link in enumerate(topology.links):
        a_port, b_port = next_port[link.a], next_port[link.b]
        next_port[link.a] += 1
        next_port[link.b] += 1
        plans.append(
            LinkPlan(
                index=index,
                link=link,
                a_interface=_port_name(run_id, link.a, a_port),
                a_port=a_port,
                b_interface=_port_name(run_id, link.b, b_port),
                b_port=b_port,
                line_a=f"{run_id}l{index}a",
                line_b=f"{run_id}l{index}b",
            )
        )
    return Layout(
        run_id=run_id,
        bridges=tuple(f"{run_id}s{node}" for node in range(nodes)),
        hosts=tuple(_host(run_id, role, node) for node in range(nodes) for role in _ROLES),
        links=tuple(plans),
    )


_ROLES: tuple[Role, Role] = ("server", "user")


def _host(run_id: str, role: Role, node: int) -> HostPlan:
    server = role == "server"
    port = SERVER_PORT if server else USER_PORT
    return HostPlan(
        name=server_name(node) if server else user_name(node),
        node=node,
        role=role,
        interface=f"{run_id}{'v' if server else 'u'}{node}",
        mac=host_mac(role, node),
        address=server_address(node) if server else None,
        switch_interface=_port_name(run_id, node, port),
        switch_port=port,
    )


def _port_name(run_id: str, node: int, port: int) -> str:
    name = f"{run_id}s{node}p{port}"
    if len(name) > _MAX_NAME:
        raise ValueError(f"interface name {name}: longer than {_MAX_NAME} characters")
    return name


def wiring(layout: Layout) -> dict[str, list[dict[str, object]]]:
    """What the controller needs to know: switches, links and hosts by name and port."""
    return {
        "switches": [
            {"name": switch_name(node), "dpid": node + 1} for node in range(len(layout.bridges))
        ],
        "links": [
            {
                "a": switch_name(plan.link.a),
                "a_port": plan.a_port,
                "b": switch_name(plan.link.b),
                "b_port": plan.b_port,
                "delay_ns": plan.link.delay_ns,
            }
            for plan in layout.links
        ],
        "hosts": [
            {
                "name": host.name,
                "switch": switch_name(host.node),
                "port": host.switch_port,
                "mac": host.mac,
            }
            for host in layout.hosts
        ],
    }
