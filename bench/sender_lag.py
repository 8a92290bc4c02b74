"""How late is the sender of a run (`traffic/sender.py`) while a network runs on the same cores?"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from bench.rigs.networks import lead, network_of, row
from testbed.orchestration.deploying.site import SENDER_PRIORITY, TRAFFIC_PRIORITY
from testbed.records.raw import SCHEDULE_DTYPE, read_arrivals, sent_path
from testbed.scenario.types import NS_PER_S
from testbed.substrate.emulated_network import Host

LOAD_PPS, LOAD_S, L3_BYTES = 5_000, 3.0, 200
PORT, SOURCE_PORT = 5_001, 6_001
_START = """
import importlib, json, os, sys
from testbed.vnf.process.process import prepare_for_packets
prepare_for_packets()
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(int(sys.argv[3])))
importlib.import_module(sys.argv[1]).main(json.loads(sys.argv[2]))
"""
_BOUND_S = 30.0
_LEAD_S, _DRAIN_S = 4.0, 0.5


def sender_lag() -> dict[str, float]:
    """Figures of one run: 5,000 packets a second from a host over two links to another."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        network = stack.enter_context(network_of(row(3), folder))
        first, last = network.hosts["server-0"], network.hosts["server-2"]
        lead(network, [0, 1, 2], last.mac, last.switch_port)
        count = round(LOAD_PPS * LOAD_S)
        schedule = np.zeros(count, dtype=SCHEDULE_DTYPE)
        schedule["seq"] = np.arange(count)
        schedule["scheduled_ns"] = np.arange(count) * NS_PER_S // LOAD_PPS
        np.save(folder / "schedule.npy", schedule)
        origin_ns = time.monotonic_ns() + round(_LEAD_S * NS_PER_S)
        common = {"origin_ns": origin_ns, "events": str(folder / "events.jsonl")}
        take = {"ports": [PORT], "bind": last.address, "out": str(folder / "received")}
        stream = {
            "request": 0,
            "destination": last.address,
            "destination_port": PORT,
            "source_port_base": SOURCE_PORT,
            "l3_bytes": L3_BYTES,
            "schedule": str(folder / "schedule.npy"),
        }
        give = {"streams": [stream], "bind": first.address, "out": str(folder / "sent")}
        with (
            _process(last, "traffic.receiver", {**common, **take}, TRAFFIC_PRIORITY),
            _process(first, "traffic.sender", {**common, **give}, SENDER_PRIORITY),
        ):
            left_s = (origin_ns - time.monotonic_ns()) / NS_PER_S + LOAD_S
            time.sleep(max(0.0, left_s) + _DRAIN_S)
        sent_ns = np.load(sent_path(folder / "sent", 0))
        came = read_arrivals(folder / "received").records
    lag_ns = (sent_ns - schedule["scheduled_ns"])[sent_ns > 0]
    p50, p99, worst = np.quantile(lag_ns, (0.5, 0.99, 1.0)) / 1e3
    return {
        "sender_lag_p50_us": float(p50),
        "sender_lag_p99_us": float(p99),
        "sender_lag_max_us": float(worst),
        "unsent": float((sent_ns == 0).sum()),
        "lost": float(count - len(came)),
    }


@contextmanager
def _process(host: Host, module: str, config: dict[str, object], priority: int) -> Iterator[None]:
    words = ["mnexec", "-a", str(host.pid), sys.executable, "-c", _START, module]
    process = subprocess.Popen([*words, json.dumps(config), str(priority)])
    try:
        yield
    finally:
        process.terminate()
        process.wait(_BOUND_S)
