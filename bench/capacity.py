"""Which is truer, emulated service times or a CFS quota? `python -m bench.capacity --json`.

A server of `cores` reference cores that serves each packet for `service_ns / cores` is an M/D/1
queue: from the packets' arrival times Lindley's recursion gives the exact time at which each
would leave. The benchmark feeds the same open-loop arrivals to a process that emulates service
times with `ServerCpu`, and to one that burns `service_ns` of real CPU under a quota of `cores`,
and reports how far from the ideal, early or late, each packet left. Needs root.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import secrets
import select
import socket
import struct
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from testbed.scenario.endings import Endings
from testbed.scenario.load import load_scenario
from testbed.scenario.plan import make_plan
from testbed.substrate.cgroups import ServerCgroups
from testbed.substrate.ownership import clean
from testbed.substrate.probe import choose, probe
from testbed.vnf.dataplane.cpu import ServerCpu
from testbed.vnf.process.process import prepare_for_packets

SMOKE = Path(__file__).parents[1] / "scenarios" / "smoke.yaml"
CORES = 0.25
SERVICE_NS = 600_000
SECONDS = 8.0
RUNS = 3
STAMP = struct.Struct("<iq")
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Case:
    """A model of capacity at a utilisation; `period_s` is None for emulated service times."""

    period_s: float | None
    utilisation: float


def ideal_departures(arrivals_ns: Times, service_ns: float) -> NDArray[np.float64]:
    """Lindley: a packet leaves one service time after it came or its predecessor left."""
    left = np.empty(len(arrivals_ns))
    busy_until = 0.0
    for number, arrival in enumerate(arrivals_ns.tolist()):
        busy_until = max(float(arrival), busy_until) + service_ns
        left[number] = busy_until
    return left


def serve_emulated(endpoint: socket.socket, clock: Path, join: Callable[[], None]) -> None:
    """Hand each packet on when the server's clock says that it is done."""
    cpu = ServerCpu.create(clock, CORES, 10**12)
    pending: deque[tuple[int, bytes]] = deque()
    while True:
        now_ns = time.monotonic_ns()
        while pending and pending[0][0] <= now_ns:
            reply(endpoint, pending.popleft()[1])
        if not readable(endpoint, pending[0][0] - now_ns if pending else None):
            continue
        packet = endpoint.recv(64)
        if not packet:
            return
        done_ns = cpu.admit(time.monotonic_ns(), SERVICE_NS)
        if done_ns is not None:
            pending.append((done_ns, packet))


def serve_alone(
    others: socket.socket,
    serve: Callable[[socket.socket, Path, Callable[[], None]], None],
    endpoint: socket.socket,
    clock: Path,
    join: Callable[[], None],
) -> None:
    """Give up the other end, which a fork leaves open, so that its closing is seen; serve."""
    others.close()
    prepare_for_packets()
    serve(endpoint, clock, join)


def serve_burning(endpoint: socket.socket, clock: Path, join: Callable[[], None]) -> None:
    """Burn the service time on the real CPU, which a quota throttles."""
    join()
    while packet := endpoint.recv(64):
        end_ns = time.thread_time_ns() + SERVICE_NS
        while time.thread_time_ns() < end_ns:
            pass
        reply(endpoint, packet)


def readable(endpoint: socket.socket, wait_ns: int | None) -> bool:
    """Whether something can be read within `wait_ns`; select waits to the microsecond."""
    timeout_s = None if wait_ns is None else max(0, wait_ns) / 1e9
    return bool(select.select([endpoint], [], [], timeout_s)[0])


def reply(endpoint: socket.socket, packet: bytes) -> None:
    """Send back the packet's number with the time at which it left."""
    number, _ = STAMP.unpack(packet)
    endpoint.send(STAMP.pack(number, time.monotonic_ns()))


def measure(case: Case, seed: int, groups: ServerCgroups) -> NDArray[np.float64]:
    """Nanoseconds by which each packet left later than the ideal server would have let it."""
    rate_pps = case.utilisation * CORES * 1e9 / SERVICE_NS
    rng = np.random.default_rng(seed)
    gaps_ns = rng.exponential(1e9 / rate_pps, round(rate_pps * SECONDS))
    due_ns = np.cumsum(gaps_ns).astype(np.int64)
    if case.period_s is not None:
        groups.set_quota(0, CORES, case.period_s)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    serve = serve_emulated if case.period_s is None else serve_burning
    with tempfile.TemporaryDirectory() as folder:
        child = multiprocessing.get_context("fork").Process(
            target=serve_alone,
            args=(ours, serve, theirs, Path(folder) / "clock", lambda: groups.join(0)),
        )
        child.start()
        theirs.close()
        late_ns = offer(ours, due_ns)
        ours.close()
        child.join(10)
    return late_ns


def offer(endpoint: socket.socket, due_ns: Times) -> NDArray[np.float64]:
    """Send packets when they are due and compare their departures with the ideal ones."""
    sent = np.zeros(len(due_ns), dtype=np.int64)
    left = np.zeros(len(due_ns), dtype=np.int64)
    origin_ns = time.monotonic_ns() + 200_000_000
    number, returned = 0, 0
    while returned < len(due_ns):
        now_ns = time.monotonic_ns()
        if number < len(due_ns) and origin_ns + due_ns[number] <= now_ns:
            sent[number] = now_ns
            endpoint.send(STAMP.pack(number, now_ns))
            number += 1
            continue
        wait_ns = origin_ns + int(due_ns[number]) - now_ns if number < len(due_ns) else None
        if not readable(endpoint, wait_ns):
            continue
        which, t_ns = STAMP.unpack(endpoint.recv(64))
        left[which] = t_ns
        returned += 1
    return left - ideal_departures(sent, SERVICE_NS / CORES)


def main() -> None:
    """Print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    as_json = parser.parse_args().json
    run_id = secrets.token_hex(3)
    os.environ["DEFTBED_RUN"] = run_id
    plan = make_plan(load_scenario(SMOKE), 1)
    with Endings() as endings:
        endings.add(clean, run_id)
        endings.add(os.environ.pop, "DEFTBED_RUN")
        groups = endings.enter(ServerCgroups(run_id, plan, choose(probe()).cgroup))
        for utilisation in (0.5, 0.8):
            for period_s in (None, 0.005, 0.02, 0.1):
                show(Case(period_s, utilisation), groups, as_json)


def show(case: Case, groups: ServerCgroups, as_json: bool) -> None:
    """Measure a case `RUNS` times and print medians and spread."""
    figures: dict[str, list[float]] = {"off_p50_us": [], "off_p99_us": []}
    for seed in range(RUNS):
        off_us = np.abs(measure(case, seed, groups)) / 1e3
        figures["off_p50_us"].append(round(float(np.quantile(off_us, 0.5)), 1))
        figures["off_p99_us"].append(round(float(np.quantile(off_us, 0.99)), 1))
    model = "service-time" if case.period_s is None else "quota"
    line = {
        "bench": "capacity",
        "case": {"model": model, "period_s": case.period_s, "utilisation": case.utilisation},
        "figures": {name: median(values) for name, values in figures.items()},
        "spread": {name: [min(values), max(values)] for name, values in figures.items()},
        "runs": RUNS,
    }
    print(json.dumps(line) if as_json else f"{line['case']}: {line['figures']}", flush=True)


if __name__ == "__main__":
    main()
