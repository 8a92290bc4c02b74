"""Two user hosts with an edge each, and a chain of no function from the first to the second."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

import pytest

from tests.support.dataplane_lab import Lab

PATH, REVERSE = 2, 3
ADDRESSES = ("10.77.0.1", "10.77.0.2")
ADDRESSES6 = ("fd77::1", "fd77::2")
V4, V6 = socket.AF_INET, socket.AF_INET6
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["IPv4", "IPv6"])
PORT = 5001
TIMEOUT_S = 20.0


def start_edge(lab: Lab, node: int, mac: str, epoch: int) -> None:
    config = {
        **lab.common(f"edge-{node}"),
        "mac": mac,
        "tun": "tun0",
        "tun_address": ADDRESSES[node],
        "tun_address6": ADDRESSES6[node],
        "epoch": epoch,
    }
    lab.start(f"user{node}", "testbed.vnf.edge.edge", config)


def open_source(lab: Lab) -> None:
    """The orders of the edge where the chain begins."""
    lab.order("edge-0", "accept-path", path=REVERSE, hop=0, reverse=PATH)
    for addresses in (ADDRESSES, ADDRESSES6):
        add_rule(lab, addresses[1], PORT)


def add_rule(lab: Lab, destination: str, port: int | None) -> None:
    match = {"protocol": None, "destination": destination, "destination_port": port}
    lab.order("edge-0", "add-path", request=0, path=PATH, reverse=REVERSE, hops=0, match=match)


def endpoint(
    lab: Lab, node: int, kind: int, port: int = 0, family: socket.AddressFamily = V4
) -> socket.socket:
    """A socket of user host `node`."""
    with lab.inside(f"user{node}"):
        made = socket.socket(family, kind)
    made.settimeout(TIMEOUT_S)
    if port:
        made.bind((address_of(node, family), port))
    return made


def address_of(node: int, family: socket.AddressFamily) -> str:
    return (ADDRESSES if family == V4 else ADDRESSES6)[node]


def run_in(lab: Lab, host: str, *command: str) -> str:
    """The output of a command that ends by itself, on a host."""
    with lab.inside(host):
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def errors_of(counters: dict[str, Any]) -> dict[str, Any]:
    """What did not go as it should, by counter."""
    no_errors = ("id", "ok", "paths")
    return {name: count for name, count in counters.items() if name not in no_errors and count}
