"""A small network, frames on its hosts' interfaces, and what of a run is left on the machine."""

from __future__ import annotations

import secrets
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from testbed.scenario.types import Link, Node, RunPlan, Server, Topology
from testbed.substrate.commands import run
from testbed.substrate.emulated_network import Host, Network
from testbed.substrate.namespaces import inside
from testbed.substrate.ownership import marked_bridges, marked_processes, state_folder
from testbed.substrate.probe import choose, probe

ETHERTYPE = 0x894F
NO_CONTROLLER_PORT = 1
VIRTUAL_MAC = "02:00:00:02:00:00"
HEADER_BYTES = 14


def fresh_run_id() -> str:
    """A run id that no other run has."""
    return secrets.token_hex(3)


def row_of_three(
    delay_ns: int = 5_000_000, rate_bps: int = 100_000_000, queue_bytes: int = 250_000
) -> RunPlan:
    """Three nodes in a row with two equal links."""
    return RunPlan(
        seed=0,
        duration_ns=1_000_000_000,
        topology=Topology(
            nodes=tuple(Node(i, f"n{i}", 0.0, 0.0) for i in range(3)),
            links=tuple(Link(i, i + 1, delay_ns, rate_bps, queue_bytes) for i in range(2)),
            demand=(),
        ),
        servers=tuple(Server(i, 1.0, 1) for i in range(3)),
        profiles={},
        requests=(),
        load_steps=(),
        faults=(),
    )


def make_network(plan: RunPlan, run_id: str, folder: Path) -> Network:
    """A network of this host's back ends without a controller: rules come from the test."""
    backends = choose(probe())
    return Network(plan, run_id, backends, NO_CONTROLLER_PORT, folder, folder / "events.jsonl")


def add_rule(network: Network, node: int, match: str, port: int) -> None:
    """Let a switch send frames that match out of a port."""
    bridge = network.layout.bridges[node]
    run(["ovs-ofctl", "-O", "OpenFlow13", "add-flow", bridge, f"{match},actions=output:{port}"])


def raw_socket(host: Host, timeout_s: float = 2.0) -> socket.socket:
    """A packet socket on a host's interface, in its namespace."""
    with inside(host.pid):
        packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        packet.bind((host.interface, ETHERTYPE))
    packet.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
    packet.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS: a late reader measures no delay
    packet.settimeout(timeout_s)
    return packet


def frame(source: Host, number: int, l2_bytes: int, mac: str = VIRTUAL_MAC) -> bytes:
    """A frame with its number and the time it was made on CLOCK_MONOTONIC."""
    header = bytes.fromhex((mac + source.mac).replace(":", "")) + struct.pack("!H", ETHERTYPE)
    body = header + struct.pack("!qq", number, time.monotonic_ns())
    return body.ljust(l2_bytes, b"\0")


def receive_all(packet: socket.socket) -> list[tuple[int, int, int]]:
    """(number, made_ns, received_ns) of all frames until none comes for the socket's timeout."""
    found: list[tuple[int, int, int]] = []
    while True:
        try:
            data, control, _, _ = packet.recvmsg(4096, 64)
        except TimeoutError:
            return found
        seconds, nanoseconds = struct.unpack("qq", control[0][2])
        offset_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.monotonic_ns()
        now_ns = seconds * 1_000_000_000 + nanoseconds - offset_ns
        number, made_ns = struct.unpack_from("!qq", data, HEADER_BYTES)
        found.append((number, made_ns, now_ns))


def leftovers(run_id: str) -> list[str]:
    """What carries the run's id, found without the marks' own code where there is another way."""
    found = [name for _, name in socket.if_nameindex() if name.startswith(run_id)]
    found += [name for name in run(["ovs-vsctl", "list-br"]).split() if name.startswith(run_id)]
    found += [name for name, owner in marked_bridges().items() if owner == run_id]
    found += [f"process {pid}" for pid, owner in marked_processes().items() if owner == run_id]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/deftbed/{run_id}")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"deftbed/{run_id}")]
    return found


def forget(run_id: str) -> None:
    """Remove a run's record, all that `Network.close` leaves by design."""
    folder = state_folder(run_id)
    (folder / "run.json").unlink(missing_ok=True)
    if folder.is_dir():
        folder.rmdir()


def wait_for(done: Callable[[], bool], what: str, bound_s: float = 10.0) -> None:
    """Poll until `done`; fails, saying `what`, after the bound."""
    deadline = time.monotonic() + bound_s
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
