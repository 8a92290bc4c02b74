"""The process of an instance: binds its function and protocol to sockets, and runs them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from testbed.records.events import EventLog
from testbed.records.traces import create_trace
from testbed.scenario.steering import base_path
from testbed.vnf.dataplane import loop
from testbed.vnf.dataplane.cpu import ServerCpu
from testbed.vnf.dataplane.loop import new_plane
from testbed.vnf.dataplane.ring import PacketRing
from testbed.vnf.dataplane.socket import SO_RCVBUFFORCE
from testbed.vnf.dataplane.system import poll_set
from testbed.vnf.exchange.endpoint import ExchangeEndpoint
from testbed.vnf.functions.registry import make_function
from testbed.vnf.process.control_socket import ControlSocket
from testbed.vnf.process.instance import Identity, Instance
from testbed.vnf.process.process import (
    Termination,
    hold_sign_of_life,
    prepare_for_packets,
    write_dump,
)
from testbed.vnf.process.shared_records import SharedRecords
from testbed.vnf.replication.member import LOSS_REASONS, ReplicationConfig
from testbed.vnf.state.arrays import Words

MESSAGE_BUFFER_BYTES = 8 << 20


class FailureDetectors:
    """Tells every member of the FDU that the process lives, and what its group waits for.

    A heartbeat is "NAME EPOCH TIME", and "NAME EPOCH TIME CHANGES" from who shares linearizable
    records: a member of the FDU that knows a later epoch, or more changes of these, answers with
    them. One may go out a quarter of its period early when the process is awake anyway.
    """

    def __init__(
        self, name: str, group: str, sockets: list[dict[str, str]], period_ns: int
    ) -> None:
        """`sockets`: {"heartbeat_socket", "control_socket"} of each member of the FDU."""
        self.due_ns = time.monotonic_ns()
        self.missed = 0
        self._name = name.encode()
        self._group = group
        self._sockets = sockets
        self._period_ns = period_ns
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def beat(self, now_ns: int, epoch: int, changes: int | None = None) -> bool:
        """Send one if it is time; whether it was. What cannot be sent is counted in `missed`."""
        if now_ns + self._period_ns // 4 < self.due_ns:
            return False
        self.due_ns = now_ns + self._period_ns
        message = b"%s %d %d" % (self._name, epoch, now_ns)
        if changes is not None:
            message += b" %d" % changes
        for target in self._sockets:
            self._send(message, target["heartbeat_socket"])
        return True

    def caught_up(self, epoch: int, learners: list[int]) -> None:
        """Say that these learners may be admitted."""
        for learner in learners:
            order = {
                "id": 0,
                "op": "caught-up",
                "group": self._group,
                "epoch": epoch,
                "member": learner,
            }
            self.order(json.dumps(order).encode())

    def order(self, message: bytes) -> None:
        """Give an order to all members of the FDU."""
        for target in self._sockets:
            self._send(message, target["control_socket"])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self, data: bytes, target: str) -> None:
        try:
            self._socket.sendto(data, target)
        except OSError:
            self.missed += 1


def main(config: dict[str, Any]) -> None:
    """The process, until SIGTERM. Keys of `config` (times in ns):

    name, group, member (number), function, function_config;
    interface, mac, paths {"forward": {"path", "hop"}, "reverse": {"path", "hop"}}, of its shard;
    replication: the fields of `ReplicationConfig`, but for `shared`; scope: who shares linearizable
    records with the group (see `SharedRecords`), or null; address, port: of its end for the group;
    cpu {"path", "service_ns", "backup_service_ns"} or null;
    control_socket, fdu [{"heartbeat_socket", "control_socket"}, ...], heartbeat_ns, events, dump;
    rx_frames, tx_frames: slots of the rings, multiples of 32;
    configuration: what the FDU would say first (see `Instance.configure`), or null;
    core: the only core to run on, or null;
    trace {"path", "rows", "node"}: the file to note packets in (see `testbed.records.traces`), with
    how many rows, and where the instance is; or missing;
    alive: where to hold a sign of life (see `hold_sign_of_life`), or missing;
    share {"port", "period_ns"}: the port at `address` for the exchange with other groups, and how
    often something is said; or missing.

    Raises KeyError for a missing key, ValueError for a bad value, OSError.
    """
    with contextlib.ExitStack() as stack:
        if config["core"] is not None:
            os.sched_setaffinity(0, {config["core"]})
        termination = stack.enter_context(Termination())
        if "alive" in config:
            stack.callback(os.close, hold_sign_of_life(config["alive"]))
        events = EventLog(config["events"])
        stack.callback(events.close)
        identity = _identity(config)
        ring = PacketRing(
            config["interface"],
            [(path["path"], path["hop"]) for path in config["paths"].values()],
            rx_frames=config["rx_frames"],
            tx_frames=config["tx_frames"],
        )
        stack.callback(ring.close)
        group_socket = _group_socket(config)
        stack.callback(group_socket.close)
        cpu = config["cpu"]
        clock = ServerCpu.open(cpu["path"]) if cpu is not None else None
        # The control socket comes last: whoever awaits it may send orders at once.
        orders: dict[str, Any] = {}
        control = ControlSocket(config["control_socket"], orders)
        stack.callback(control.close)
        function = make_function(config["function"], config["function_config"])
        exchange = ExchangeEndpoint(function, config.get("share"), config["address"])
        stack.callback(exchange.close)
        polled = (
            ring.fileno(),
            group_socket.fileno(),
            control.fileno(),
            termination.fileno(),
            exchange.fileno(),
        )
        plane = new_plane(
            ring.ring,
            poll_set(polled),
            clock.words if clock is not None else np.zeros(8, np.int64),
            _trace(config, function.reasons),
        )
        plane.words[loop.UDP_FD] = group_socket.fileno()
        scope = config.get("scope")
        replication = ReplicationConfig(**config["replication"], shared=scope is not None)
        instance = Instance(identity, function, replication, plane, events)
        if clock is not None:
            instance.use_cpu(clock, cpu["service_ns"], cpu["backup_service_ns"])
        exchange.bind(config["group"], instance.member)
        control.add(
            {
                **exchange.orders(),
                "configure": instance.configure,
                "drain": instance.drain,
                "losses": lambda _: {"losses": instance.losses()},
                "stats": lambda order: {
                    **instance.stats(order),
                    "kernel_drops": ring.kernel_drops(),
                },
            }
        )
        detectors = FailureDetectors(
            config["name"], config["group"], config["fdu"], config["heartbeat_ns"]
        )
        stack.callback(detectors.close)
        shared = SharedRecords(
            identity.name,
            identity.group,
            scope,
            instance.member,
            function.process,
            detectors.order,
        )
        control.add({"granted": lambda order: shared.granted(order, time.monotonic_ns())})
        if config["configuration"] is not None:
            instance.configure(config["configuration"])
        prepare_for_packets()
        _serve(instance, control, detectors, shared, termination, exchange)
        counters = {**instance.stats({}), "kernel_drops": ring.kernel_drops()}
        dump = {**instance.dump(), "scope": scope, "counters": counters, **exchange.dump()}
        write_dump(config["dump"], {**dump, "heartbeats_missed": detectors.missed})


def _serve(
    instance: Instance,
    control: ControlSocket,
    detectors: FailureDetectors,
    shared: SharedRecords,
    termination: Termination,
    exchange: ExchangeEndpoint,
) -> None:
    """Run the packet loop, and between its calls everything else, until SIGTERM."""
    control_bit, termination_bit, exchange_bit = (
        1 << loop.OWN_DESCRIPTORS + number for number in range(3)
    )
    while not termination.requested:
        now_ns = time.monotonic_ns()
        if detectors.beat(now_ns, instance.epoch, shared.index):
            shared.check(now_ns)
            # Repeated until it is admitted: the FDU may have no majority just now.
            detectors.caught_up(instance.epoch, instance.caught_up())
        exchange.work()
        ready = instance.serve(min(detectors.due_ns, exchange.due_ns))
        if ready < 0:
            continue  # a signal
        if ready & loop.CAUGHT_UP:
            detectors.caught_up(instance.epoch, instance.caught_up())
        if ready & loop.ASK_DUE:
            shared.ask(time.monotonic_ns())
        if ready & control_bit:
            control.serve()
        if ready & termination_bit:
            termination.drain()
        if ready & exchange_bit:
            exchange.receive()


def _identity(config: dict[str, Any]) -> Identity:
    forward, reverse = config["paths"]["forward"], config["paths"]["reverse"]
    return Identity(
        name=config["name"],
        group=config["group"],
        member=config["member"],
        mac=config["mac"],
        forward=(base_path(forward["path"]), forward["hop"]),
        reverse=(base_path(reverse["path"]), reverse["hop"]),
    )


def _trace(config: dict[str, Any], reasons: Sequence[str]) -> Words | None:
    trace = config.get("trace")
    if trace is None:
        return None
    about = {
        "kind": "instance",
        "node": trace["node"],
        **{key: config[key] for key in ("name", "group", "member", "function")},
        "reasons": list(reasons),
        "losses": list(LOSS_REASONS),
    }
    return create_trace(trace["path"], trace["rows"], about)


def _group_socket(config: dict[str, Any]) -> socket.socket:
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    endpoint.setblocking(False)
    endpoint.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, MESSAGE_BUFFER_BYTES)
    endpoint.bind((config["address"], config["port"]))
    return endpoint
