"""The process of an instance: binds its function and protocol to sockets, and runs them."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Any

from testbed.results.events import EventLog
from testbed.vnf.control import ControlSocket
from testbed.vnf.cpu import ServerCpu
from testbed.vnf.dataplane.socket import SO_RCVBUFFORCE, FrameSocket
from testbed.vnf.functions.registry import make_function
from testbed.vnf.instance import Capacity, Identity, Instance
from testbed.vnf.process import Termination, prepare_for_packets, write_dump
from testbed.vnf.replication.types import ReplicationConfig

MESSAGE_BUFFER_BYTES = 4 << 20


class Heartbeat:
    """Tells the failure detection unit that the process lives, by `name` and the time.

    A heartbeat may go out a quarter of its period early when the process is awake anyway.
    """

    def __init__(self, name: str, target: str, period_ns: int) -> None:
        self.due_ns = time.monotonic_ns()
        self.missed = 0
        self._name = name.encode()
        self._target = target
        self._period_ns = period_ns
        self._early_ns = period_ns // 4
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def beat(self, now_ns: int) -> None:
        """Send one if it is time; one that cannot be sent is counted in `missed`."""
        if now_ns + self._early_ns < self.due_ns:
            return
        self.due_ns = now_ns + self._period_ns
        try:
            self._socket.sendto(b"%s %d" % (self._name, now_ns), self._target)
        except OSError:
            self.missed += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def main(config: dict[str, Any]) -> None:
    """The process, until SIGTERM. Keys of `config` (times in ns):

    name, group, role ("primary" or "backup"), member (0 or 1), function, function_config;
    interface, mac, paths {"forward": {"path", "hop"}, "reverse": {"path", "hop"}};
    replication {mode, batch_packets, batch_ns, gap_timeout_ns, retransmit_ns, buffer_packets},
    address, port, peer {"address", "port"} or null;
    cpu {"path", "service_ns", "backup_service_ns"} or null;
    control_socket, fdu_socket or null, heartbeat_ns, events, dump.

    Raises KeyError for a missing key, ValueError for a bad value, OSError.
    """
    with contextlib.ExitStack() as stack:
        termination = stack.enter_context(Termination())
        events = EventLog(config["events"])
        stack.callback(events.close)
        identity = _identity(config)
        frames = FrameSocket(config["interface"], identity.hops.items())
        stack.callback(frames.close)
        peer = _peer_socket(config)
        if peer is not None:
            stack.callback(peer.close)
        capacity = _capacity(config)
        if capacity is not None:
            stack.callback(capacity.clock.close)
        heartbeat = _heartbeat(config)
        if heartbeat is not None:
            stack.callback(heartbeat.close)
        instance = Instance(
            identity,
            make_function(config["function"], config["function_config"]),
            ReplicationConfig(**config["replication"]),
            frames,
            peer,
            capacity,
            events,
            config["role"],
        )
        orders = {
            "promote": instance.promote,
            "unprotect": instance.unprotect,
            "stats": instance.stats,
        }
        control = ControlSocket(config["control_socket"], orders)
        stack.callback(control.close)
        prepare_for_packets()
        _serve(instance, frames, peer, control, heartbeat, termination)
        missed = heartbeat.missed if heartbeat is not None else 0
        write_dump(config["dump"], {**instance.dump(), "heartbeats_missed": missed})


def _serve(
    instance: Instance,
    frames: FrameSocket,
    peer: socket.socket | None,
    control: ControlSocket,
    heartbeat: Heartbeat | None,
    termination: Termination,
) -> None:
    """Wait, act, until SIGTERM.

    select.select waits to the microsecond, in one system call: Python's epoll and poll round up
    to milliseconds, and a timerfd would have to be set and read for every packet.
    """
    handlers = {
        frames.fileno(): instance.read_frames,
        control.fileno(): control.serve,
        termination.fileno(): termination.drain,
    }
    if peer is not None:
        handlers[peer.fileno()] = instance.read_messages
    descriptors = list(handlers)
    wait, clock = select.select, time.monotonic_ns
    while not termination.requested:
        now_ns = clock()
        next_ns = instance.step(now_ns)
        if heartbeat is not None:
            heartbeat.beat(now_ns)
            if next_ns is None or heartbeat.due_ns < next_ns:
                next_ns = heartbeat.due_ns
        timeout_s = None if next_ns is None else max(0, next_ns - clock()) / 1e9
        for descriptor in wait(descriptors, (), (), timeout_s)[0]:
            handlers[descriptor]()


def _identity(config: dict[str, Any]) -> Identity:
    paths = config["paths"]
    return Identity(
        name=config["name"],
        group=config["group"],
        member=config["member"],
        mac=config["mac"],
        hops={direction["path"]: direction["hop"] for direction in paths.values()},
        reverse_path=paths["reverse"]["path"],
    )


def _peer_socket(config: dict[str, Any]) -> socket.socket | None:
    peer = config["peer"]
    if peer is None:
        return None
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    endpoint.setblocking(False)
    endpoint.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, MESSAGE_BUFFER_BYTES)
    endpoint.bind((config["address"], config["port"]))
    # Connected, the kernel refuses datagrams of anyone else.
    endpoint.connect((peer["address"], peer["port"]))
    return endpoint


def _capacity(config: dict[str, Any]) -> Capacity | None:
    cpu = config["cpu"]
    if cpu is None:
        return None
    return Capacity(ServerCpu.open(cpu["path"]), cpu["service_ns"], cpu["backup_service_ns"])


def _heartbeat(config: dict[str, Any]) -> Heartbeat | None:
    if config["fdu_socket"] is None:
        return None
    return Heartbeat(config["name"], config["fdu_socket"], config["heartbeat_ns"])
