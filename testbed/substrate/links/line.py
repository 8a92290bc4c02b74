"""The line: a process that gives links their delay, rate, queue and impairments in user space.

`python -m testbed.substrate.links.line config.json` runs in the namespace that holds the line ends
of all links. The configuration is {"counters": path, "control": path, "directions": [{"name", "in",
"out", "stream", settings}, ...], "changes": [{"at_ns", "directions", settings}, ...]}, `in` and
`out` being interface names. Settings are "rate_bps", "queue_bytes", "delay_ns", "jitter_ns",
"jitter_reorders", "loss", "burst" (to_bad, to_good, loss_bad, loss_good; or null), "reorder",
"duplicate", "trace" (a path or null) and "up".

Counters are kept in a memory-mapped file, so a kill does not lose them. When the run's origin is
written into the control file and SIGUSR1 comes, counters, frame numbers and traces begin anew and
the changes are carried out at their times from the origin. SIGTERM ends the process.
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

from testbed.substrate.links import line_io, line_tables
from testbed.substrate.links.line_queue import bucket_limits_ns, percentile_ns
from testbed.substrate.links.line_tables import Tables, Wire

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
BEGIN_NS, BEGUN = 0, 1
"""Words of the control file: the run's origin, and 1 once the line has taken note of it."""


@dataclass(frozen=True, slots=True)
class DirectionCounters:
    """What one direction of a link did. Lag is the actual less the due time of sending.

    `frames` and `l2_bytes` were sent. Frames were lost for one reason each: `drops` found the
    queue full, `lost` and `burst_lost` by chance, `cut` while the link was down, `errors` because
    the kernel refused to send them. The lag percentiles are upper limits of histogram buckets.
    """

    name: str
    frames: int
    l2_bytes: int
    drops: int
    lost: int
    burst_lost: int
    cut: int
    errors: int
    duplicated: int
    reordered: int
    lag_max_ns: int
    lag_p50_ns: int
    lag_p99_ns: int


@dataclass(frozen=True, slots=True)
class LineCounters:
    """What the line did; `kernel_drops` are frames lost before the line read them, its own fault.

    `strange` frames came from no known interface; `wakes` counts sleeps. `lags` are (upper limit
    in ns, frames) of the histogram's buckets that are not empty.
    """

    directions: tuple[DirectionCounters, ...]
    frames: int
    drops: int
    lost: int
    burst_lost: int
    cut: int
    errors: int
    kernel_drops: int
    strange: int
    wakes: int
    cpu_ns: int
    lag_p50_ns: int
    lag_p99_ns: int
    lag_max_ns: int
    lags: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As an object for the manifest."""
        return asdict(self)


def _map_counters(path: Path, directions: int, mode: str) -> NDArray[np.int64]:
    shape = (directions + 1, line_tables.COUNTER_COLUMNS)
    return np.memmap(path, dtype=np.int64, mode=mode, shape=shape)  # type: ignore[call-overload,no-any-return]


def read_counters(config: Path) -> LineCounters:
    """The counters of the line that runs, or ran, with this configuration file.

    Raises FileNotFoundError before the line has started.
    """
    settings = json.loads(config.read_text())
    names = [direction["name"] for direction in settings["directions"]]
    table = np.array(_map_counters(Path(settings["counters"]), len(names), "r"))
    rows, whole = table[:-1], table[-1]
    lags = rows[:, line_tables.HISTOGRAM :].sum(axis=0).tolist()
    return LineCounters(
        directions=tuple(_direction(name, row) for name, row in zip(names, rows, strict=True)),
        frames=int(rows[:, line_tables.FRAMES].sum()),
        drops=int(rows[:, line_tables.DROPS].sum()),
        lost=int(rows[:, line_tables.LOST].sum()),
        burst_lost=int(rows[:, line_tables.BURST_LOST].sum()),
        cut=int(rows[:, line_tables.CUT].sum()),
        errors=int(rows[:, line_tables.SEND_ERRORS].sum()),
        kernel_drops=int(whole[line_tables.KERNEL_DROPS]),
        strange=int(whole[line_tables.STRANGE]),
        wakes=int(whole[line_tables.WAKES]),
        cpu_ns=int(whole[line_tables.CPU_NS]),
        lag_p50_ns=percentile_ns(lags, 0.5),
        lag_p99_ns=percentile_ns(lags, 0.99),
        lag_max_ns=int(rows[:, line_tables.LAG_MAX_NS].max(initial=0)),
        lags=tuple(
            (limit, count) for limit, count in zip(bucket_limits_ns(), lags, strict=True) if count
        ),
    )


def _direction(name: str, row: NDArray[np.int64]) -> DirectionCounters:
    lags = row[line_tables.HISTOGRAM :].tolist()
    return DirectionCounters(
        name=name,
        frames=int(row[line_tables.FRAMES]),
        l2_bytes=int(row[line_tables.L2_BYTES]),
        drops=int(row[line_tables.DROPS]),
        lost=int(row[line_tables.LOST]),
        burst_lost=int(row[line_tables.BURST_LOST]),
        cut=int(row[line_tables.CUT]),
        errors=int(row[line_tables.SEND_ERRORS]),
        duplicated=int(row[line_tables.DUPLICATED]),
        reordered=int(row[line_tables.REORDERED]),
        lag_max_ns=int(row[line_tables.LAG_MAX_NS]),
        lag_p50_ns=percentile_ns(lags, 0.5),
        lag_p99_ns=percentile_ns(lags, 0.99),
    )


def is_ready(config: Path) -> bool:
    """Whether the line with this configuration file carries frames by now."""
    settings = json.loads(config.read_text())
    path, count = Path(settings["counters"]), len(settings["directions"])
    size = (count + 1) * line_tables.COUNTER_COLUMNS * 8
    if not path.exists() or path.stat().st_size < size:
        return False
    return bool(_map_counters(path, count, "r")[-1, line_tables.READY])


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


class _Schedule:
    """Carries out the changes of links, at their times from the run's origin."""

    def __init__(self, settings: dict[str, Any], tables: Tables, traces: list[str]) -> None:
        self._settings = settings
        self._tables = tables
        self._traces = traces
        self._control = _map_control(Path(settings["control"]))
        self._left: list[dict[str, Any]] = []
        self.transit_ns = line_tables.least_transit_ns(tables)

    def follow(self, now_ns: int) -> int:
        """Do what is due by now; when the next change is, at most a round from now."""
        begin_ns = int(self._control[BEGIN_NS])
        if begin_ns and not self._control[BEGUN]:
            line_tables.restart(self._tables, begin_ns)
            ready = self._tables.counters[-1, line_tables.READY]
            self._tables.counters[:] = 0
            self._tables.counters[-1, line_tables.READY] = ready
            self._left = list(self._settings["changes"])
            self._control[BEGUN] = 1
        while self._left and begin_ns + self._left[0]["at_ns"] <= now_ns:
            change = self._left.pop(0)
            for direction in change["directions"]:
                line_tables.apply_settings(self._tables, direction, change, self._traces, now_ns)
            self.transit_ns = line_tables.least_transit_ns(self._tables)
        until_ns = now_ns + _ROUND_NS
        return min(until_ns, begin_ns + self._left[0]["at_ns"]) if self._left else until_ns


def _map_control(path: Path) -> NDArray[np.int64]:
    return np.memmap(path, dtype=np.int64, mode="r+", shape=(2,))


def begin(config: Path, origin_ns: int) -> None:
    """Tell the line with this configuration file the run's origin; SIGUSR1 is to follow."""
    control = _map_control(Path(json.loads(config.read_text())["control"]))
    control[BEGIN_NS] = origin_ns
    control[BEGUN] = 0


def has_begun(config: Path) -> bool:
    """Whether the line has taken note of the run's origin."""
    return bool(_map_control(Path(json.loads(config.read_text())["control"]))[BEGUN])


def run(config: Path) -> None:
    """Carry frames until SIGTERM. Raises OSError for an interface that is missing."""
    settings = json.loads(config.read_text())
    wires = [
        Wire(
            socket.if_nametoindex(entry["in"]),
            socket.if_nametoindex(entry["out"]),
            entry["stream"],
            entry,
        )
        for entry in settings["directions"]
    ]
    every = [*settings["directions"], *settings["changes"]]
    traces = sorted({entry["trace"] for entry in every if entry["trace"] is not None})
    counters = _map_counters(Path(settings["counters"]), len(wires), "w+")
    tables = line_tables.make_tables(wires, traces, np.asarray(counters))
    schedule = _Schedule(settings, tables, traces)
    stopping = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, lambda _number, _frame: None)  # only ends a sleep
    with _open_socket() as packet:
        line_io.pump(packet.fileno(), tables, 0, 0)  # compiles, and carries nothing yet
        _be_prompt()
        _listen(packet)
        tables.counters[-1, line_tables.READY] = 1
        started_ns = time.process_time_ns()
        while not stopping:
            until_ns = schedule.follow(time.monotonic_ns())
            line_io.pump(packet.fileno(), tables, schedule.transit_ns, until_ns)
            tables.counters[-1, line_tables.KERNEL_DROPS] += _kernel_drops(packet)
            tables.counters[-1, line_tables.CPU_NS] = time.process_time_ns() - started_ns


if __name__ == "__main__":
    run(Path(sys.argv[1]))
