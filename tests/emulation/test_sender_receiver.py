"""A real sender and a real receiver in two namespaces: what is sent is recorded, kills or not."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from testbed.orchestration.messages.control_client import ControlClient, ControlError
from testbed.records import packets as packet_records
from testbed.records.events import read_events
from testbed.records.payload import PayloadMaker
from testbed.records.raw import SCHEDULE_DTYPE, read_arrivals
from testbed.results.run_summary import summarise
from testbed.results.validity import judge
from testbed.scenario.model import ToleranceSpec
from tests.support.places import ROOT
from traffic.sender import CHUNK

pytestmark = pytest.mark.emulation

CLONE_NEWNET = 0x40000000
_UdpSocket = socket.socket  # the class below has a method called socket
SOURCE, DESTINATION = "10.77.0.1", "10.77.0.5"
L3_BYTES = 200
START = """
import importlib, json, sys
module, config = sys.argv[1:]
importlib.import_module(module).main(json.loads(config))
"""


def until(condition: Callable[[], bool], what: str, bound_s: float = 20.0) -> None:
    """Poll until `condition`, and fail with `what` after the bound."""
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {bound_s} s"
        time.sleep(0.005)


class Pair:
    """Two namespaces joined by a veth, and the processes in them."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.raw = run_dir / "raw"
        self.raw.mkdir()
        self.requests: list[dict[str, Any]] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ends = [f"tr{os.getpid()}-{side}" for side in ("a", "b")]
        self._made: list[str] = []
        self.control = ControlClient(run_dir / "test.sock")
        self.origin_ns = time.monotonic_ns()

    def build(self) -> None:
        for name in self._ends:
            _ip("netns", "add", name)
            self._made.append(name)
        here, there = self._ends
        _ip("-n", here, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns",
            there)  # fmt: skip
        for name, address in zip(self._ends, (SOURCE, DESTINATION), strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")

    def remove(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        for name in self._made:
            _ip("netns", "del", name)
        self.control.close()

    def start(self, kind: str, **config: Any) -> None:
        """Start a sender or a receiver, and wait until it takes orders."""
        side = 0 if kind == "sender" else 1
        whole = {
            "name": "sender-0" if kind == "sender" else "receiver-4",
            "bind": (SOURCE, DESTINATION)[side],
            "origin_ns": self.origin_ns,
            "control_socket": self.socket(kind),
            "events": str(self.run_dir / "events.jsonl"),
            "out": str(self.raw / ("sent" if kind == "sender" else "received-4")),
            **config,
        }
        command = ["ip", "netns", "exec", self._ends[side], sys.executable, "-c", START,
                   f"traffic.{kind}", json.dumps(whole)]  # fmt: skip
        self.processes[kind] = subprocess.Popen(command, cwd=ROOT)
        self.control.call(self.socket(kind), "ping", 30.0)

    def socket(self, kind: str) -> str:
        return str(self.run_dir / f"{kind}.sock")

    def stats(self, kind: str) -> dict[str, Any]:
        return self.control.call(self.socket(kind), "stats")

    def end(self, kind: str) -> None:
        """SIGTERM, and an orderly end."""
        self.processes[kind].send_signal(signal.SIGTERM)
        assert self.processes[kind].wait(20) == 0
        assert not Path(self.socket(kind)).exists()

    def kill(self, kind: str) -> None:
        self.processes[kind].kill()
        self.processes[kind].wait()

    def stream(self, request: int, packets: int, gap_ns: int, begin_ns: int) -> dict[str, Any]:
        """A stream of two flows whose first packet is due at `begin_ns` from the origin."""
        schedule = np.empty(packets, SCHEDULE_DTYPE)
        schedule["flow"] = np.arange(packets) % 2
        schedule["seq"] = np.arange(packets) // 2
        schedule["scheduled_ns"] = begin_ns + gap_ns * np.arange(packets)
        path = self.raw / f"schedule-{request}.npy"
        np.save(path, schedule)
        self.requests.append(
            {"id": request, "chain": "voip", "l3_bytes": L3_BYTES, "source": 0, "destination": 4}
        )
        self.write_manifest()
        return {
            "request": request,
            "destination": DESTINATION,
            "destination_port": 20000 + request,
            "source_port_base": 30000 + 64 * request,
            "l3_bytes": L3_BYTES,
            "schedule": str(path),
        }

    def now_ns(self) -> int:
        return time.monotonic_ns() - self.origin_ns

    def manifest(self) -> dict[str, Any]:
        return {"seed": 1, "valid": True, "requests": self.requests}

    def write_manifest(self) -> None:
        (self.run_dir / "manifest.json").write_text(json.dumps(self.manifest()))

    def packets(self) -> pd.DataFrame:
        return packet_records.collect(self.run_dir)

    def source_socket(self) -> _UdpSocket:
        """A UDP socket in the sender's namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net", "rb") as home:
            with open(f"/run/netns/{self._ends[0]}", "rb") as there:
                assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
            try:
                return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            finally:
                assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        made.build()
        yield made
    finally:
        made.remove()


def test_every_packet_is_sent_in_its_time_and_recorded(pair: Pair) -> None:
    begin_ns = pair.now_ns() + 1_500_000_000
    first = pair.stream(0, 1500, 700_000, begin_ns)
    second = pair.stream(7, 500, 2_000_000, begin_ns)
    pair.start("receiver", ports=[20000])
    pair.start("sender", streams=[first])
    pair.control.call(pair.socket("receiver"), "open", port=20007)
    pair.control.call(pair.socket("sender"), "add-stream", stream=second)
    until(lambda: pair.stats("sender")["active"] == [], "all streams sent")
    until(lambda: pair.stats("receiver")["received"] >= 2000, "all packets received")
    lag_max_ns = pair.stats("sender")["lag_max_ns"]
    pair.end("sender")
    pair.end("receiver")

    frame = pair.packets()
    lag_ns = frame["sent_ns"] - frame["scheduled_ns"]
    assert len(frame) == 2000
    assert lag_ns.min() >= 0
    assert lag_ns.max() == lag_max_ns
    assert (frame["received_ns"] > frame["sent_ns"]).all()
    assert (frame["copies"] == 1).all()
    assert (frame["arrival"] == frame["seq"]).all()
    # The line loses nothing; how late a busy machine sends is not what is tested.
    assert judge(pair.run_dir, frame, pair.manifest(), ToleranceSpec(sender_lag_p99_s=0.25)) == []
    events = list(read_events(pair.run_dir / "events.jsonl"))
    summary = summarise(frame, events, pair.manifest())
    assert (summary["sent"], summary["lost"], summary["reordered"]) == (2000, 0, 0)
    ended = {e["request"]: e["sent"] for e in events if e["event"] == "stream-end"}
    assert ended == {0: 1500, 7: 500}


def test_late_packets_are_sent_and_none_is_skipped(pair: Pair) -> None:
    packets = CHUNK + 500
    late = pair.stream(0, packets, 100_000, pair.now_ns() - 10_000_000_000)
    pair.start("receiver", ports=[20000])
    pair.start("sender", streams=[])
    pair.control.call(pair.socket("sender"), "add-stream", stream=late)
    until(lambda: pair.stats("receiver")["received"] >= packets, "all late packets received")
    pair.end("sender")
    pair.end("receiver")
    frame = pair.packets()
    summary = summarise(frame, [], pair.manifest())
    assert (summary["received"], summary["duplicated"]) == (packets, 0)
    assert (frame["arrival"] == frame["seq"]).all()
    assert summary["latency_ns"]["p50"] > 9_000_000_000
    assert "senders: lag p99" in judge(pair.run_dir, frame, pair.manifest(), ToleranceSpec())[0]


def test_a_killed_sender_loses_no_record(pair: Pair) -> None:
    stream = pair.stream(3, 20_000, 500_000, pair.now_ns())
    pair.start("receiver", ports=[20003])
    pair.start("sender", streams=[stream])
    until(lambda: pair.stats("receiver")["received"] >= 500, "some packets")
    pair.kill("sender")
    pair.end("receiver")
    frame = pair.packets().sort_values("scheduled_ns")
    noted = frame["sent_ns"].notna().to_numpy()
    arrived = frame["received_ns"].notna().to_numpy()
    assert 500 <= arrived.sum() < 20_000
    assert noted[: noted.sum()].all()
    # Between the system call and its note one packet may fall, and none the other way round.
    assert arrived.sum() - noted.sum() in (0, 1)
    assert not (noted & ~arrived).any()
    summary = summarise(frame, [], pair.manifest())
    assert (summary["lost"], summary["unsent"]) == (0, 20_000 - arrived.sum())
    reasons = judge(pair.run_dir, frame, pair.manifest(), ToleranceSpec())
    assert any("were not sent" in reason for reason in reasons)
    assert "sender-0 left no counters: it was killed" in reasons


def test_a_killed_receiver_loses_no_record(pair: Pair) -> None:
    stream = pair.stream(3, 1000, 500_000, pair.now_ns())
    pair.start("receiver", ports=[20003])
    pair.start("sender", streams=[stream])
    until(lambda: pair.stats("receiver")["received"] >= 300, "some packets")
    counted = pair.stats("receiver")["received"]
    pair.kill("receiver")
    records = read_arrivals(pair.raw / "received-4").records
    assert len(records) >= counted
    assert (np.bincount(records["flow"]) > 0).all()
    assert (records["request"] == 3).all()
    pair.kill("sender")


def test_a_terminated_sender_ends_in_order(pair: Pair) -> None:
    stream = pair.stream(3, 20_000, 500_000, pair.now_ns())
    pair.start("sender", streams=[stream])
    until(lambda: pair.stats("sender")["sent"] >= 50, "some packets")
    pair.end("sender")
    counters = json.loads((pair.raw / "sent" / "sender-0.json").read_text())
    noted = int(pair.packets()["sent_ns"].notna().sum())
    assert counters["sent"] == noted
    assert counters["unsent"] == 20_000 - noted
    assert counters["errors"] == {}


def test_errors_and_refused_orders_are_told(pair: Pair) -> None:
    pair.start("sender", streams=[])
    nowhere = {**pair.stream(1, 20, 1_000_000, pair.now_ns()), "destination": "192.0.2.1"}
    pair.control.call(pair.socket("sender"), "add-stream", stream=nowhere)
    until(lambda: pair.stats("sender")["active"] == [], "the stream's end")
    assert pair.stats("sender")["errors"] == {"ENETUNREACH": 20}
    with pytest.raises(ControlError, match="request = 1: a stream of it was added before"):
        pair.control.call(pair.socket("sender"), "add-stream", stream=nowhere)
    with pytest.raises(ControlError, match="add-stream without 'request'"):
        pair.control.call(pair.socket("sender"), "add-stream", stream={})
    with pytest.raises(ControlError, match="op = 'fly': expected add-stream, begin, ping"):
        pair.control.call(pair.socket("sender"), "fly")
    stopped = pair.stream(2, 5000, 1_000_000, pair.now_ns())
    pair.control.call(pair.socket("sender"), "add-stream", stream=stopped)
    until(lambda: pair.stats("sender")["sent"] >= 10, "some packets of the second stream")
    sent = pair.control.call(pair.socket("sender"), "stop-stream", request=2)["sent"]
    pair.end("sender")
    frame = pair.packets()
    assert frame.groupby("chain")["sent_ns"].count().to_dict() == {1: 0, 2: sent}
    reasons = judge(pair.run_dir, frame, pair.manifest(), ToleranceSpec(sender_lag_p99_s=1))
    assert "sender-0 failed to send: 20 x ENETUNREACH" in reasons


def test_socket_drops_and_strangers_are_counted(pair: Pair) -> None:
    flood = 40_000
    pair.start("receiver", ports=[20003])
    payloads = PayloadMaker(3, L3_BYTES)
    with pair.source_socket() as source:
        source.sendto(b"hello", (DESTINATION, 20003))
        source.sendto(b"DTB1 but too short", (DESTINATION, 20003))
        until(lambda: pair.stats("receiver")["malformed"] == 2, "two strangers counted")
        pair.processes["receiver"].send_signal(signal.SIGSTOP)
        for seq in range(flood):
            source.sendto(payloads.make(0, seq, 0), (DESTINATION, 20003))
        pair.processes["receiver"].send_signal(signal.SIGCONT)
    until(
        lambda: sum(pair.stats("receiver")[k] for k in ("received", "socket_drops")) == flood,
        "received and dropped to add up to what was sent",
    )
    pair.end("receiver")
    arrivals = read_arrivals(pair.raw / "received-4")
    assert arrivals.socket_drops > 0
    assert arrivals.malformed == 2
    assert len(arrivals.records) + arrivals.socket_drops == flood
