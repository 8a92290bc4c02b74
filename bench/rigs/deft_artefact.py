"""The reference of `bench.dataplane`: what DEFT's published artefact does, in plain Python.

It receives packets, keeps the next expected number of each flow, buffers what comes early, and
for each batch of 80 processed packets makes one blocking XML-RPC call, with an empty state, to
its backup; then it forwards the batch. So does the artefact, but that it sends no output: here
the batch goes out, or nothing could be measured. There is no second phase, no timer that ends a
batch, no check of what the backup holds. Each load of the benchmark is an epoch: what one left in
an unfinished batch goes when the next begins, or it would count as a loss there. The XML-RPC is
that of the standard library, as it comes.
"""

from __future__ import annotations

import logging
import os
import select
import socketserver
import threading
import xmlrpc.client
import xmlrpc.server
from typing import Any

from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.socket import FRAME_BYTES, FrameSocket
from testbed.vnf.process.control_socket import ControlSocket
from testbed.vnf.process.process import Termination

BATCH = 80
RPC_PORT = 8000
_WAIT_S = 0.1


class Primary:
    """Order within flows, the batch, the call."""

    def __init__(self, frames: FrameSocket, backup: str, prefix: bytes) -> None:
        self._frames = frames
        self._backup = xmlrpc.client.ServerProxy(f"http://{backup}:{RPC_PORT}", allow_none=True)
        self._prefix = prefix
        self._epoch = -1
        self._next_expected: dict[int, int] = {}
        self._early: dict[int, dict[int, nsh.Frame]] = {}
        self._output: list[bytes] = []

    def take(self, frame: nsh.Frame) -> None:
        """A packet came: process it and those that waited for it, in order."""
        stamp = frame.stamp
        if stamp.epoch != self._epoch:
            self._epoch = stamp.epoch
            self._next_expected.clear()
            self._early.clear()
            self._output.clear()
        key = stamp.flow
        expected = self._next_expected.get(key, 0)
        if stamp.seq > expected:
            self._early.setdefault(key, {})[stamp.seq] = frame
            return
        if stamp.seq < expected:
            return
        self._process(frame)
        expected += 1
        early = self._early.get(key)
        while early and expected in early:
            self._process(early.pop(expected))
            expected += 1
        self._next_expected[key] = expected

    def _process(self, frame: nsh.Frame) -> None:
        self._output.append(nsh.encode(self._prefix, frame.stamp, frame.packet))
        if len(self._output) == BATCH:
            self._backup.commit({})
            for data in self._output:
                self._send(data)
            self._output.clear()

    def _send(self, data: bytes) -> None:
        try:
            self._frames.send(data)
        except OSError:
            return  # the interface is full: lost, as in a network


class Backup:
    """Keeps copies until a call says that they are committed."""

    def __init__(self) -> None:
        self._copies: list[nsh.Frame] = []

    def take(self, frame: nsh.Frame) -> None:
        """A copy came."""
        self._copies.append(frame)

    def commit(self, state: dict[str, Any]) -> bool:
        """The primary's call."""
        del self._copies[:BATCH]
        return True


class _Server(socketserver.ThreadingMixIn, xmlrpc.server.SimpleXMLRPCServer):
    daemon_threads = True


def main(config: dict[str, Any]) -> None:
    """One member, until SIGTERM. Keys: name, interface, control_socket, core, member, path, hop,
    addresses (of both members, for the calls).
    """
    logging.disable()
    os.sched_setaffinity(0, {config["core"]})
    with Termination() as termination:
        frames = FrameSocket(config["interface"], [(config["path"], config["hop"])])
        control = ControlSocket(config["control_socket"], {})
        member: Primary | Backup
        if config["member"] == 0:
            source = nsh.mac_bytes("06:00:00:00:00:02")
            prefix = nsh.header_prefix(config["path"], config["hop"] + 1, 0, source)
            member = Primary(frames, config["addresses"][1], prefix)
        else:
            member = backup = Backup()
            address = (config["addresses"][1], RPC_PORT)
            server = _Server(address, logRequests=False, allow_none=True)
            commit: Any = backup.commit  # its type of functions takes none of one dictionary
            server.register_function(commit, "commit")
            threading.Thread(target=server.serve_forever, daemon=True).start()
        _serve(member, frames, control, termination)


def _serve(
    member: Primary | Backup, frames: FrameSocket, control: ControlSocket, termination: Termination
) -> None:
    poll = select.poll()
    for endpoint in (frames, control, termination):
        poll.register(endpoint.fileno(), select.POLLIN)
    while not termination.requested:
        ready = {fd for fd, _ in poll.poll(_WAIT_S * 1e3)}
        if control.fileno() in ready:
            control.serve()
        for _ in range(BATCH):
            try:
                data = frames.recv(FRAME_BYTES)
            except BlockingIOError:
                break
            frame = nsh.decode(data)
            if frame is not None:
                member.take(frame)
