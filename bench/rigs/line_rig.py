"""One link between two namespaces, carried by a back end, for benchmarks of links."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.rigs.loadgen import Load, Sent, send_load
from bench.rigs.workers import Place, Worker, inside, namespaces, veth
from testbed.scenario.types import NS_PER_S, Link
from testbed.substrate.commands import run
from testbed.substrate.links.carriers import LineProcess, LinkBackend, settings_of
from testbed.substrate.links.line import LineCounters, read_counters
from testbed.substrate.links.line_fate import stream_of
from testbed.substrate.links.netem import netem_options
from testbed.substrate.namespaces import inside as inside_process
from testbed.substrate.namespaces import offloads_off
from testbed.vnf.state.arrays import Words

ETHERTYPE = 0x88B6
NUMBER_AT, TIME_AT = 14, 22
HEADER = bytes.fromhex("060000000002060000000001") + struct.pack("!H", ETHERTYPE)
_FIELDS = struct.Struct("!qq")
_BUFFER_BYTES = 512 << 20
_QUIET_S = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """A load over the link: what was sent; number, time sent and time come of what arrived."""

    sent: Sent
    numbers: Words
    sent_ns: Words
    came_ns: Words
    kernel_drops: int
    line: LineCounters | None


class Rig:
    """Namespaces with a veth pair to the link on either side. `rig` makes one."""

    def __init__(self, mark: str, folder: Path, backend: LinkBackend, sender: Worker) -> None:
        self._mark = mark
        self._folder = folder
        self._backend = backend
        self._sender = sender

    def carry(self, link: Link, count: int, rate_pps: int, frame_bytes: int) -> Outcome:
        """Send `count` frames over a link that is set up for this load alone."""
        link_s = (link.delay_ns + link.impairments.jitter_ns) / NS_PER_S
        backlog_s = 8 * link.queue_bytes / link.rate_bps
        with (
            self._link(link) as line,
            inside(f"{self._mark}b"),
            listening(None, "rx") as receiver,
        ):
            load = Load(
                "tx", (HEADER.ljust(frame_bytes, b"\0"),), NUMBER_AT, TIME_AT, count, rate_pps
            )
            sent: Sent = self._sender.call(send_load, load)
            time.sleep(link_s + backlog_s + _QUIET_S)
            columns = taken(receiver)
            drops = int(struct.unpack("II", receiver.getsockopt(263, 6, 8))[1])
        return Outcome(sent, *columns, drops, None if line is None else read_counters(line))

    @contextlib.contextmanager
    def _link(self, link: Link) -> Iterator[Path | None]:
        """The link, and the configuration of the line if that carries it."""
        if self._backend == "none":
            yield None
        elif self._backend == "netem":
            options = netem_options(link, 1500).split()
            end = ["tc", "-n", f"{self._mark}a", "qdisc"]
            run([*end, "add", "dev", "tx", "root", "netem", *options])
            try:
                yield None
            finally:
                run([*end, "del", "dev", "tx", "root"])
        else:
            config = _line_config(link, self._folder)
            enter = ["nsenter", f"--net=/run/netns/{self._mark}l"]
            line = LineProcess(config, self._mark, self._folder, enter)
            try:
                line.wait_ready()
                yield line.config
            finally:
                line.stop()


@contextlib.contextmanager
def listening(pid: int | None, interface: str) -> Iterator[socket.socket]:
    """A socket that keeps all that comes, with the kernel's time stamp, until it is read.

    `pid` is a process in the interface's namespace; None: the caller is in it.
    """
    with contextlib.nullcontext() if pid is None else inside_process(pid):
        packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with packet:
        packet.setblocking(False)
        packet.setsockopt(socket.SOL_SOCKET, 33, _BUFFER_BYTES)  # SO_RCVBUFFORCE
        packet.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        packet.bind((interface, ETHERTYPE))
        yield packet


def _line_config(link: Link, folder: Path) -> dict[str, Any]:
    settings = settings_of(link)
    return {
        "counters": str(folder / "counters"),
        "control": str(folder / "control"),
        "directions": [
            {"name": name, "in": into, "out": out, "stream": stream_of(1, 0, forth), **settings}
            for name, into, out, forth in (("a>b", "la", "lb", True), ("b>a", "lb", "la", False))
        ],
        "changes": [],
    }


def taken(packet: socket.socket) -> tuple[Words, Words, Words]:
    """(numbers, times sent, times come) of all frames that wait in the socket."""
    rows = []
    offset_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.monotonic_ns()
    with contextlib.suppress(BlockingIOError):
        while True:
            data, control, _, _ = packet.recvmsg(64, 64)
            seconds, nanoseconds = struct.unpack("qq", control[0][2])
            number, sent_ns = _FIELDS.unpack_from(data, NUMBER_AT)
            rows.append((number, sent_ns, seconds * NS_PER_S + nanoseconds - offset_ns))
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


@contextlib.contextmanager
def rig(backend: LinkBackend) -> Iterator[Rig]:
    """Two namespaces and a third one between them if the line carries the link."""
    mark = secrets.token_hex(3)
    names = [f"{mark}a", f"{mark}b", f"{mark}l"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(namespaces(*names))
        if backend == "userspace":
            pairs = [((names[0], "tx"), (names[2], "la")), ((names[2], "lb"), (names[1], "rx"))]
        else:
            pairs = [((names[0], "tx"), (names[1], "rx"))]
        for one, other in pairs:
            veth(one, other)
            for space, name in (one, other):
                with inside(space):
                    offloads_off([name])
        cores = sorted(os.sched_getaffinity(0))
        sender = stack.enter_context(Worker(Place(names[0], core=cores[-1])))
        yield Rig(mark, folder, backend, sender)
