"""Senders and receivers are ready before the run has an origin, and nothing is sent before it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.orchestration.messages.control_client import ControlClient, OrderRefused
from testbed.records.raw import SCHEDULE_DTYPE, read_arrivals, sent_path
from tests.support.places import ROOT

START = """
import importlib, json, sys
importlib.import_module(sys.argv[1]).main(json.loads(sys.argv[2]))
"""
ADDRESS = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""All of 127.0.0.0/8 is this host's: nobody else's ports."""
PACKETS, GAP_NS = 40, 2_000_000
PORT, SOURCE_PORT = 24_917, 24_918


@contextmanager
def process(kind: str, folder: Path, **config: Any) -> Iterator[subprocess.Popen[bytes]]:
    whole = {
        "bind": ADDRESS,
        "control_socket": str(folder / f"{kind}.sock"),
        "events": str(folder / "events.jsonl"),
        **config,
    }
    command = [sys.executable, "-c", START, f"traffic.{kind}", json.dumps(whole)]
    started = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, cwd=ROOT
    )
    try:
        yield started
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0
    finally:
        started.kill()
        started.wait()


def stream(folder: Path) -> dict[str, Any]:
    schedule = np.zeros(PACKETS, SCHEDULE_DTYPE)
    schedule["seq"] = np.arange(PACKETS)
    schedule["scheduled_ns"] = GAP_NS * np.arange(PACKETS)
    np.save(folder / "schedule.npy", schedule)
    return {
        "request": 0,
        "destination": ADDRESS,
        "destination_port": PORT,
        "source_port_base": SOURCE_PORT,
        "l3_bytes": 100,
        "schedule": str(folder / "schedule.npy"),
    }


def test_nothing_is_sent_before_the_origin_and_all_times_count_from_it(tmp_path: Path) -> None:
    ends = [str(tmp_path / f"{kind}.sock") for kind in ("receiver", "sender")]
    with (
        ControlClient(tmp_path / "client.sock") as client,
        process("receiver", tmp_path, ports=[PORT], out=str(tmp_path / "received")),
        process("sender", tmp_path, streams=[], out=str(tmp_path / "sent")),
    ):
        for each in ends:
            client.call(each, "ping", 60.0)
        client.call(ends[1], "add-stream", 10.0, stream=stream(tmp_path))
        # All are ready: however long that took, no packet is late.
        time.sleep(10 * GAP_NS / 1e9)
        assert client.call(ends[1], "stats")["sent"] == 0
        for bad in (0, None, "soon"):
            with pytest.raises(OrderRefused, match="origin_ns"):
                client.call(ends[0], "begin", origin_ns=bad)
        origin_ns = time.monotonic_ns() + 100_000_000
        client.call_all(ends, "begin", 10.0, origin_ns=origin_ns)
        with pytest.raises(OrderRefused, match="it began"):
            client.call(ends[1], "begin", origin_ns=origin_ns)
        deadline = time.monotonic() + 30
        while client.call(ends[0], "stats")["received"] < PACKETS:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    sent_ns = np.load(sent_path(tmp_path / "sent", 0))
    found = read_arrivals(tmp_path / "received")
    assert found.malformed == 0 and len(found.records) == PACKETS
    assert (sent_ns >= GAP_NS * np.arange(PACKETS)).all()
    assert (found.records["received_ns"] >= sent_ns[found.records["seq"].astype(int)]).all()
    assert int(found.records["received_ns"].max()) < 60 * 10**9
