"""The one place that knows Mininet: its switches, hosts and links, created in batches.

Mininet's `Mininet` class is left out on purpose: its start changes system-wide limits and its
clean-up is machine-wide. Its nodes and links do the work; interfaces that are made beforehand in
one `ip -batch` are handed to its links, and all bridges start in one `ovs-vsctl` transaction.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from subprocess import Popen
from typing import Any

from mininet.link import Intf, Link
from mininet.log import setLogLevel
from mininet.node import Host, OVSSwitch

from testbed.substrate.commands import run
from testbed.substrate.ownership import BRIDGE_MARK, RUN_VARIABLE


@dataclass(frozen=True, slots=True)
class _Controller:
    """An OpenFlow controller that somebody else runs, with what OVSSwitch.start asks for."""

    name: str
    port: int
    protocol: str = "tcp"

    def IP(self) -> str:
        return "127.0.0.1"


class _Marked:
    """Gives a node's processes the run's mark in their environment."""

    params: dict[str, Any]

    def _popen(self, cmd: list[str], **params: Any) -> Popen[bytes]:
        params["env"] = {**os.environ, RUN_VARIABLE: str(self.params["run_id"])}
        return Popen(cmd, **params)


class TestbedHost(_Marked, Host):
    """A network namespace, held by Mininet's shell."""


class TestbedSwitch(_Marked, OVSSwitch):
    """An Open vSwitch bridge that carries the run's id."""

    def bridgeOpts(self) -> str:
        """Mininet's bridge options and the owner's mark."""
        return f"{super().bridgeOpts()} external_ids:{BRIDGE_MARK}={self.params['run_id']}"


class _NamedInterface(Intf):
    """An interface that is configured already."""

    def config(self, **_params: Any) -> dict[str, Any]:
        """Nothing to do; Mininet's would start a process for each setting."""
        return {}


class _ReadyLink(Link):
    """A link whose veth pair exists already."""

    @classmethod
    def makeIntfPair(cls, *_args: Any, **_params: Any) -> None:
        """The pair was made in the batch."""


def make_host(run_id: str, name: str) -> TestbedHost:
    """A host named after the run, so that `ps` shows whose it is."""
    setLogLevel("warning")
    return TestbedHost(f"{run_id}{name}", run_id=run_id)


def make_switch(run_id: str, name: str, dpid: int, netdev: bool) -> TestbedSwitch:
    """A bridge (not started yet) of OpenFlow 1.3 that forwards nothing without a controller."""
    setLogLevel("warning")
    return TestbedSwitch(
        name,
        dpid=f"{dpid:x}",
        datapath="user" if netdev else "kernel",
        protocols="OpenFlow13",
        failMode="secure",
        batch=True,
        inNamespace=False,
        run_id=run_id,
    )


def join(node_1: Any, node_2: Any, names: tuple[str, str], ports: tuple[int, int]) -> None:
    """Register a veth pair that exists between two nodes, by interface names and port numbers."""
    _ReadyLink(
        node_1,
        node_2,
        port1=ports[0],
        port2=ports[1],
        intfName1=names[0],
        intfName2=names[1],
        intf=_NamedInterface,
    )


def start_switches(switches: Sequence[TestbedSwitch], openflow_port: int) -> None:
    """Create all bridges with their ports in one transaction; CommandError if it fails."""
    controller = _Controller("c", openflow_port)
    for switch in switches:
        switch.start([controller])
    OVSSwitch.batchStartup(switches, run=_run_words)


def _run_words(command: str, shell: bool = False) -> None:
    """Mininet hands over a shell line; it is run as words, and its status is checked."""
    del shell
    run(shlex.split(command))


def stop_nodes(nodes: Sequence[TestbedHost | TestbedSwitch]) -> None:
    """End the nodes' shells, and with them the namespaces."""
    for node in nodes:
        node.terminate()
