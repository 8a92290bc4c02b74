"""The line: a process that gives links their delay, rate and queue where netem is missing.

`python -m testbed.substrate.line config.json` runs in the namespace that holds the line ends of
all links. The configuration is {"counters": path, "directions": [{"name", "in", "out",
"rate_bps", "queue_bytes", "delay_ns"}, ...]}, `in` and `out` being interface names. Counters are
kept in a memory-mapped file, so a kill does not lose them; SIGTERM ends the process.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.substrate import line_io
from testbed.substrate.line_queue import percentile_ns

_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_IGNORE_OUTGOING = 23
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_ETH_P_ALL = 3
_PR_SET_TIMERSLACK = 29
_RECEIVE_BUFFER_BYTES = 64 << 20
_ROUND_NS = 100_000_000
_PRIORITY = 20


@dataclass(frozen=True, slots=True)
class DirectionCounters:
    """What one direction of a link did. Lag is the actual less the due time of sending.

    `frames` and `l2_bytes` were sent, `drops` are the queue's tail drops, `errors` frames that
    the kernel refused to send. The lag percentiles are upper limits of histogram buckets.
    """

    name: str
    frames: int
    l2_bytes: int
    drops: int
    errors: int
    lag_max_ns: int
    lag_p50_ns: int
    lag_p99_ns: int


@dataclass(frozen=True, slots=True)
class LineCounters:
    """What the line did; `kernel_drops` are frames lost before the line read them, its own fault.

    `strange` frames came from no known interface; `wakes` counts sleeps.
    """

    directions: tuple[DirectionCounters, ...]
    frames: int
    drops: int
    errors: int
    kernel_drops: int
    strange: int
    wakes: int
    cpu_ns: int
    lag_p50_ns: int
    lag_p99_ns: int
    lag_max_ns: int

    def to_json(self) -> dict[str, Any]:
        """As an object for the manifest."""
        return asdict(self)


def _map_counters(path: Path, directions: int, mode: str) -> NDArray[np.int64]:
    shape = (directions + 1, line_io.COUNTER_COLUMNS)
    return np.memmap(path, dtype=np.int64, mode=mode, shape=shape)  # type: ignore[call-overload,no-any-return]


def read_counters(config: Path) -> LineCounters:
    """The counters of the line that runs, or ran, with this configuration file.

    Raises FileNotFoundError before the line has started.
    """
    settings = json.loads(config.read_text())
    names = [direction["name"] for direction in settings["directions"]]
    table = np.array(_map_counters(Path(settings["counters"]), len(names), "r"))
    rows, whole = table[:-1], table[-1]
    lags = rows[:, line_io.HISTOGRAM :].sum(axis=0).tolist()
    return LineCounters(
        directions=tuple(_direction(name, row) for name, row in zip(names, rows, strict=True)),
        frames=int(rows[:, line_io.FRAMES].sum()),
        drops=int(rows[:, line_io.DROPS].sum()),
        errors=int(rows[:, line_io.SEND_ERRORS].sum()),
        kernel_drops=int(whole[line_io.KERNEL_DROPS]),
        strange=int(whole[line_io.STRANGE]),
        wakes=int(whole[line_io.WAKES]),
        cpu_ns=int(whole[line_io.CPU_NS]),
        lag_p50_ns=percentile_ns(lags, 0.5),
        lag_p99_ns=percentile_ns(lags, 0.99),
        lag_max_ns=int(rows[:, line_io.LAG_MAX_NS].max(initial=0)),
    )


def _direction(name: str, row: NDArray[np.int64]) -> DirectionCounters:
    lags = row[line_io.HISTOGRAM :].tolist()
    return DirectionCounters(
        name=name,
        frames=int(row[line_io.FRAMES]),
        l2_bytes=int(row[line_io.L2_BYTES]),
        drops=int(row[line_io.DROPS]),
        errors=int(row[line_io.SEND_ERRORS]),
        lag_max_ns=int(row[line_io.LAG_MAX_NS]),
        lag_p50_ns=percentile_ns(lags, 0.5),
        lag_p99_ns=percentile_ns(lags, 0.99),
    )


def is_ready(config: Path) -> bool:
    """Whether the line with this configuration file carries frames by now."""
    settings = json.loads(config.read_text())
    path, count = Path(settings["counters"]), len(settings["directions"])
    size = (count + 1) * line_io.COUNTER_COLUMNS * 8
    if not path.exists() or path.stat().st_size < size:
        return False
    return bool(_map_counters(path, count, "r")[-1, line_io.READY])


def _open_socket() -> socket.socket:
    """A packet socket that receives what comes in on any interface of this namespace."""
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    packet.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    packet.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    packet.setblocking(False)
    return packet


def _listen(packet: socket.socket) -> None:
    """Start receiving: ETH_P_ALL on no interface in particular (sll_ifindex 0)."""
    address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(_ETH_P_ALL), 0, 0, 0, 0, b"")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.bind(packet.fileno(), address, len(address)) != 0:
        raise OSError(ctypes.get_errno(), "bind of the packet socket to all interfaces")


def _kernel_drops(packet: socket.socket) -> int:
    """Frames that the kernel dropped at this socket since the last call."""
    _, drops = struct.unpack("II", packet.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    return int(drops)


def _be_prompt() -> None:
    """Ask for timers without slack and, where it is allowed, for the real-time class."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except PermissionError:
        # The probe reports it, and the counters show the lag that follows from it.
        return


def run(config: Path) -> None:
    """Carry frames until SIGTERM. Raises OSError for an interface that is missing."""
    settings = json.loads(config.read_text())
    directions = [
        (
            socket.if_nametoindex(entry["in"]),
            socket.if_nametoindex(entry["out"]),
            int(entry["rate_bps"]),
            int(entry["queue_bytes"]),
            int(entry["delay_ns"]),
        )
        for entry in settings["directions"]
    ]
    counters = _map_counters(Path(settings["counters"]), len(directions), "w+")
    tables = line_io.make_tables(directions, np.asarray(counters))
    stopping = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    # A minimal frame's time on the wire and the delay, halved for the read that comes late.
    transit_ns = min(60 * 8 * 10**9 // rate + delay for _, _, rate, _, delay in directions) // 2
    with _open_socket() as packet:
        line_io.pump(packet.fileno(), tables, transit_ns, 0)  # compiles, and carries nothing yet
        _be_prompt()
        _listen(packet)
        tables.counters[-1, line_io.READY] = 1
        while not stopping:
            line_io.pump(packet.fileno(), tables, transit_ns, time.monotonic_ns() + _ROUND_NS)
            tables.counters[-1, line_io.KERNEL_DROPS] += _kernel_drops(packet)
            tables.counters[-1, line_io.CPU_NS] = time.process_time_ns()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
