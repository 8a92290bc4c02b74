"""The substrate of a run as a real network: switches, hosts and links of one plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from testbed.records.events import EventLog
from testbed.scenario.endings import carry_out, clean_up
from testbed.scenario.names import server_name
from testbed.scenario.types import LinkChange, RunPlan
from testbed.substrate import mininet_nodes, switch_class
from testbed.substrate.buffers import deep_buffers
from testbed.substrate.commands import ip_batch
from testbed.substrate.layout import HostPlan, Layout, interface_group, make_layout, mark, wiring
from testbed.substrate.links.carriers import (
    Carrier,
    Netem,
    Userspace,
    Wires,
    carrier_changes,
    change_times,
    line_config,
)
from testbed.substrate.links.line import LineCounters, read_counters
from testbed.substrate.measure_links import Ends
from testbed.substrate.namespaces import inside, no_ipv6, offloads_off
from testbed.substrate.ownership import (
    RunRecord,
    has_record,
    live_runs,
    remove_bridges,
    remove_interfaces,
)
from testbed.substrate.probe import Backends
from testbed.substrate.runtime_folder import make_folder

_MTU_BYTES = 1500
_ENCAPSULATION_BYTES = 50
"""Ethernet and NSH headers with the stamp around a packet."""
_DEFAULT_FRAME_BYTES = 1000
_MEND_EARLY_NS = 50_000_000


@dataclass(frozen=True, slots=True)
class Host:
    """A host of the emulated network, in a namespace of its own that the process `pid` holds."""

    name: str
    node: int
    pid: int
    interface: str
    mac: str
    address: str | None
    """IPv4 address of a server, on a /24; None for a user host."""
    switch_port: int


class Network:
    """Builds and removes the network of one run; a context manager.

    Switch i is the bridge `<run id>s<i>` with datapath number i + 1 and OpenFlow 1.3; it forwards
    nothing until the controller on 127.0.0.1:`openflow_port` says so. Servers know each other's
    MAC addresses; user hosts have no address on their interface. `state_dir` takes the line's
    configuration, counters and log; `events` is the run's event log.
    """

    def __init__(
        self,
        plan: RunPlan,
        run_id: str,
        backends: Backends,
        openflow_port: int,
        state_dir: Path,
        events: Path,
    ) -> None:
        self._plan = plan
        self._layout = make_layout(plan.topology, run_id)
        self._backends = backends
        self._openflow_port = openflow_port
        self._state_dir = state_dir
        self._events = events
        self._nodes: dict[str, mininet_nodes.TestbedHost] = {}
        self._switches: list[mininet_nodes.TestbedSwitch] = []
        self._carrier: Carrier = Wires()
        # The line mends a link to the nanosecond, and would send into an interface that is down.
        early_ns = _MEND_EARLY_NS if backends.link == "userspace" else 0
        cuts = tuple(carrier_changes(plan.link_changes, early_ns))
        self._failed_cuts: list[str] = []
        self._cuts = change_times("cuts", cuts, self._cut_or_mend, self._failed_cuts)
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Network:
        try:
            self.build()
        except BaseException as error:
            clean_up(error, self.close)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def layout(self) -> Layout:
        """Names and numbers of the network."""
        return self._layout

    def build(self) -> None:
        """Create everything and wait until links carry frames.

        Raises CommandError, LinkError or OSError; call `close` then.
        """
        run_id = self._layout.run_id
        make_folder(self._state_dir)
        if not has_record(run_id):
            # What is marked but has no record of a living harness would count as left behind.
            RunRecord(run_id, self._state_dir).touch()
        self._log("network-build-begin")
        self._make_nodes()
        self._carrier = self._make_carrier()
        self._make_interfaces()
        self._start_carrier()
        self._set_root_interfaces()
        for host in self._layout.hosts:
            self._set_host(host)
        buffers = deep_buffers() if self._backends.datapath == "netdev" else nullcontext()
        with buffers:
            mininet_nodes.start_switches(self._switches, self._openflow_port)
        if self._backends.datapath == "netdev":
            self._log("switch-class", now=switch_class.make_prompt())
        self._carrier.wait_ready()
        self._log("network-built")

    def close(self) -> None:
        """Remove everything; safe to call twice and after a build that failed.

        Each step is taken though another fails; raises the first error.
        """
        run_id = self._layout.run_id
        carry_out(
            self._cuts.stop,
            self._carrier.stop,
            lambda: remove_bridges(run_id),
            lambda: remove_interfaces(run_id),
            lambda: mininet_nodes.stop_nodes([*self._nodes.values(), *self._switches]),
            lambda: switch_class.restore(lambda: bool(live_runs().keys() - {run_id})),
            lambda: self._log("network-removed") if self._nodes else None,
            self._nodes.clear,
            self._switches.clear,
            self.hosts.clear,
        )

    def wiring(self) -> dict[str, list[dict[str, object]]]:
        """Switches, links and hosts for the controller (see `layout.wiring`)."""
        return wiring(self._layout)

    def switch_interface(self, host: str) -> str:
        """The switch's end of a host's link, in the root namespace; KeyError for no such host."""
        return {each.name: each.switch_interface for each in self._layout.hosts}[host]

    def server_down(self, node: int) -> None:
        """Take a server's interface down: it neither sends nor receives any more."""
        host = self.hosts[server_name(node)]
        with inside(host.pid):
            ip_batch([f"link set dev {host.interface} down"])
        self._log("server-down", node=node)

    def server_up(self, node: int) -> None:
        """Take a server's interface up again."""
        (plan,) = (each for each in self._layout.hosts if each.name == server_name(node))
        with inside(self.hosts[plan.name].pid):
            # The kernel forgot the neighbours when the interface went down.
            ip_batch([f"link set dev {plan.interface} up", *self._neighbours(plan)])
        self._log("server-up", node=node)

    def link_down(self, index: int) -> None:
        """Cut a link, by its number in the topology; what is on it is lost."""
        self._set_link(index, "down")

    def link_up(self, index: int) -> None:
        """Mend a link that was cut."""
        self._set_link(index, "up")

    def begin(self, origin_ns: int) -> None:
        """The run begins at `origin_ns`: links change from then on as the plan says.

        Counters and the chances of frames begin anew, so that what was sent before, to measure
        the links, does not count. Raises LinkError.
        """
        self._carrier.begin(origin_ns)
        self._cuts.begin(origin_ns)

    def check(self) -> None:
        """Raise what ended a thread of the network, or the line, before it was to end."""
        self._carrier.check()
        self._cuts.check()

    def failed_changes(self) -> list[str]:
        """Changes of links that could not be made, and why."""
        return [*self._carrier.failed, *self._failed_cuts]

    def directions(self) -> list[Ends]:
        """Both directions of every link, for measuring; none of bare wires, which ask nothing."""
        if self._backends.link == "none":
            return []
        line = self._backends.link == "userspace"
        found = []
        for plan in self._layout.links:
            for a, b, out, into in (
                (plan.link.a, plan.link.b, plan.a_interface, plan.b_interface),
                (plan.link.b, plan.link.a, plan.b_interface, plan.a_interface),
            ):
                found.append(Ends(f"s{a}>s{b}#{plan.index}", out, into, plan.link, line))
        return found

    def _cut_or_mend(self, change: LinkChange) -> None:
        self._set_link(change.index, "up" if change.up else "down")

    def _set_link(self, index: int, state: str) -> None:
        plan = self._layout.links[index]
        ip_batch(f"link set dev {name} {state}" for name in (plan.a_interface, plan.b_interface))
        self._log(f"link-{state}", link=index, a=plan.link.a, b=plan.link.b)

    def line_counters(self) -> LineCounters | None:
        """What the line did so far, also after `close`; None where there is no line."""
        if self._backends.link != "userspace":
            return None
        return read_counters(self._state_dir / "line.json")

    def _log(self, event: str, **fields: object) -> None:
        log = EventLog(self._events)
        log.write(event, None, **fields)
        log.close()

    def _frame_bytes(self) -> int:
        """Mean size of the frames that the plan's requests send."""
        sizes = [request.l3_bytes + _ENCAPSULATION_BYTES for request in self._plan.requests]
        return round(sum(sizes) / len(sizes)) if sizes else _DEFAULT_FRAME_BYTES

    def _make_nodes(self) -> None:
        run_id = self._layout.run_id
        netdev = self._backends.datapath == "netdev"
        for node, bridge in enumerate(self._layout.bridges):
            self._switches.append(mininet_nodes.make_switch(run_id, bridge, node + 1, netdev))
        for host in self._layout.hosts:
            made = mininet_nodes.make_host(run_id, host.name)
            self._nodes[host.name] = made
            self.hosts[host.name] = Host(
                name=host.name,
                node=host.node,
                pid=made.pid,
                interface=host.interface,
                mac=host.mac,
                address=host.address,
                switch_port=host.switch_port,
            )
        if self._backends.link == "userspace":
            self._nodes["line"] = mininet_nodes.make_host(run_id, "line")

    def _make_interfaces(self) -> None:
        # Each is marked right after it is made, so that a kill in between leaves next to nothing.
        ip_batch([*self._host_pairs(), *self._link_pairs()])
        for host in self._layout.hosts:
            mininet_nodes.join(
                self._switches[host.node],
                self._nodes[host.name],
                (host.switch_interface, host.interface),
                (host.switch_port, 0),
            )
        for plan in self._layout.links:
            a, b = self._switches[plan.link.a], self._switches[plan.link.b]
            if not self._carrier.own_ends:
                names, ports = (plan.a_interface, plan.b_interface), (plan.a_port, plan.b_port)
                mininet_nodes.join(a, b, names, ports)
                continue
            line = self._nodes["line"]
            for switch, name, port, end, place in (
                (a, plan.a_interface, plan.a_port, plan.line_a, 2 * plan.index),
                (b, plan.b_interface, plan.b_port, plan.line_b, 2 * plan.index + 1),
            ):
                mininet_nodes.join(switch, line, (name, end), (port, place))

    def _host_pairs(self) -> Iterator[str]:
        for host in self._layout.hosts:
            yield _pair(
                host.switch_interface,
                f"{host.interface} address {host.mac} netns {self.hosts[host.name].pid}",
            )
            yield self._marking(host.switch_interface)

    def _link_pairs(self) -> Iterator[str]:
        for plan in self._layout.links:
            if not self._carrier.own_ends:
                yield _pair(plan.a_interface, plan.b_interface)
            else:
                holder = self._nodes["line"].pid
                yield _pair(plan.a_interface, f"{plan.line_a} netns {holder}")
                yield _pair(plan.b_interface, f"{plan.line_b} netns {holder}")
            yield self._marking(plan.a_interface)
            yield self._marking(plan.b_interface)

    def _marking(self, interface: str) -> str:
        run_id = self._layout.run_id
        return f"link set dev {interface} alias {mark(run_id)} group {interface_group(run_id)}"

    def _set_root_interfaces(self) -> None:
        names = self._layout.switch_interfaces
        no_ipv6(names)
        offloads_off(names)
        ip_batch(f"link set dev {name} up" for name in names)

    def _set_host(self, host: HostPlan) -> None:
        lines = ["link set dev lo up", f"link set dev {host.interface} up"]
        if host.address is not None:
            lines.append(f"address add {host.address}/24 dev {host.interface}")
            lines += self._neighbours(host)
        with inside(self.hosts[host.name].pid):
            no_ipv6(("all", "default"))
            offloads_off([host.interface])
            ip_batch(lines)

    def _neighbours(self, host: HostPlan) -> list[str]:
        """`ip` commands that tell a server the addresses of the other servers."""
        return [
            f"neigh replace {other.address} lladdr {other.mac} nud permanent dev {host.interface}"
            for other in self._layout.hosts
            if other.role == "server" and other.name != host.name
        ]

    def _make_carrier(self) -> Carrier:
        plan = self._plan
        if self._backends.link == "none":
            return Wires()
        if self._backends.link == "netem":
            return Netem(self._layout, self._frame_bytes(), plan.link_changes)
        config = line_config(self._layout, self._state_dir, plan.seed, plan.link_changes)
        holder = self._nodes["line"].pid
        return Userspace(config, self._layout.run_id, self._state_dir, holder)

    def _start_carrier(self) -> None:
        if self._carrier.own_ends:
            ends = [end for plan in self._layout.links for end in (plan.line_a, plan.line_b)]
            with inside(self._nodes["line"].pid):
                no_ipv6(("all", "default"))
                offloads_off(ends)
                ip_batch(f"link set dev {end} up" for end in ends)
        self._carrier.start()


def _pair(name: str, peer: str) -> str:
    """The `ip` command for a veth pair; `peer` is a name and what belongs to it."""
    return f"link add name {name} mtu {_MTU_BYTES} type veth peer name {peer} mtu {_MTU_BYTES}"
