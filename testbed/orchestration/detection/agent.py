"""The agent of a server: reports that the server is alive, and which of its processes ended.

It sees the end of a process at once, where the FDU would have to miss heartbeats for a while; and
what it saw is certain, so nobody has to wait for a lease to run out. It looks at a pidfd, and at
the named pipe that the process holds open: the kernel closes it tens of milliseconds earlier
(see `testbed.vnf.process.process.hold_sign_of_life`), when no code of the process runs any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections import deque
from typing import Any

from testbed.orchestration.messages.datagrams import sending_socket
from testbed.vnf.process.control_socket import ControlSocket
from testbed.vnf.process.probes import Probes
from testbed.vnf.process.process import Termination


class FduLink:
    """One FDU member as an agent sees it. What cannot be sent now is sent with a heartbeat."""

    def __init__(self, heartbeat_socket: str, control_socket: str) -> None:
        self._heartbeat_path = heartbeat_socket
        self._control_path = control_socket
        self._heartbeats = sending_socket()
        self._reports = sending_socket()
        self._waiting: deque[bytes] = deque()

    def beat(self, message: bytes) -> None:
        """Send a heartbeat; one that cannot be sent is late, and the FDU waits for several."""
        with contextlib.suppress(OSError):
            self._heartbeats.sendto(message, self._heartbeat_path)
        self._flush()

    def report(self, message: bytes) -> None:
        """Send a report as soon as the member takes it; none to a member that is gone."""
        self._waiting.append(message)
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._reports.sendto(self._waiting[0], self._control_path)
            except BlockingIOError:
                return
            except (FileNotFoundError, ConnectionRefusedError):
                self._waiting.clear()
                return
            self._waiting.popleft()


class ServerAgent:
    """Watches processes. Orders: "watch-process" {name, pid, alive}, "forget-process" {name}, and
    those of `Probes`.

    `alive`, which may be missing, is the path of the named pipe that the process holds open.
    """

    def __init__(
        self, name: str, links: list[FduLink], heartbeat_ns: int, probes: Probes | None
    ) -> None:
        self._name = name
        self._links = links
        self._heartbeat_ns = heartbeat_ns
        self._probes = probes
        self._processes: dict[int, str] = {}
        self._poll = select.poll()

    def serve(self, control_path: str, termination: Termination) -> None:
        """Serve until SIGTERM."""
        orders = {"watch-process": self._watch, "forget-process": self._forget}
        probes = self._probes
        if probes is not None:
            orders |= probes.orders()
            self._poll.register(probes, select.POLLIN)
        control = ControlSocket(control_path, orders)
        self._poll.register(control, select.POLLIN)
        self._poll.register(termination, select.POLLIN)
        due_ns = time.monotonic_ns()
        while not termination.requested:
            now_ns = time.monotonic_ns()
            if now_ns >= due_ns:
                for link in self._links:
                    link.beat(b"%s 0 %d" % (self._name.encode(), now_ns))
                due_ns = now_ns + self._heartbeat_ns
            for descriptor, _ in self._poll.poll((due_ns - now_ns) / 1e6):
                if descriptor in self._processes:
                    self._ended(descriptor)
                elif descriptor == control.fileno():
                    control.serve()
                elif probes is not None and descriptor == probes.fileno():
                    probes.receive()
                else:
                    termination.drain()
        control.close()

    def _watch(self, order: dict[str, Any]) -> dict[str, Any]:
        name = str(order["name"])
        self._forget(order)
        try:
            descriptor = os.pidfd_open(int(order["pid"]))
        except ProcessLookupError:
            self._report(name)
            return {}
        self._add(descriptor, name)
        if "alive" in order:
            self._add(os.open(order["alive"], os.O_RDONLY | os.O_NONBLOCK), name)
        return {}

    def _add(self, descriptor: int, name: str) -> None:
        self._processes[descriptor] = name
        self._poll.register(descriptor, select.POLLIN)

    def _forget(self, order: dict[str, Any]) -> dict[str, Any]:
        for descriptor in [fd for fd, name in self._processes.items() if name == order["name"]]:
            self._drop(descriptor)
        return {}

    def _ended(self, descriptor: int) -> None:
        name = self._processes[descriptor]
        self._report(name)
        self._forget({"name": name})

    def _drop(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        os.close(descriptor)
        del self._processes[descriptor]

    def _report(self, name: str) -> None:
        message = json.dumps({"op": "died", "instance": name, "server": self._name}).encode()
        for link in self._links:
            link.report(message)


def main(config: dict[str, Any]) -> None:
    """The process, until SIGTERM. Keys of `config`: name, control_socket, heartbeat_ns,
    fdu [{"heartbeat_socket", "control_socket"}, ...]; and interface and mac, which a server
    without a network lacks, and then sends no probes."""
    links = [FduLink(**member) for member in config["fdu"]]
    with contextlib.ExitStack() as stack:
        termination = stack.enter_context(Termination())
        probes = None
        if "interface" in config:
            probes = Probes(config["interface"], config["mac"])
            stack.callback(probes.close)
        agent = ServerAgent(config["name"], links, config["heartbeat_ns"], probes)
        agent.serve(config["control_socket"], termination)
