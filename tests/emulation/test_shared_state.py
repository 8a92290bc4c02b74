"""Instances of two groups learn what both have counted, over a network that loses datagrams."""

from __future__ import annotations

import json
import random
import select
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.lab.faults.record import read_episode
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.socket import FrameSocket
from testbed.vnf.dataplane.stamp import Stamp
from testbed.vnf.functions.registry import make_function
from testbed.vnf.functions.traffic_view import contribution, described
from testbed.vnf.state.records import KEY_WORDS
from tests.emulation.test_instance_pair import udp_packet
from tests.support.command import deftbed
from tests.support.dataplane_lab import INTERFACE, Lab, until
from tests.support.places import ROOT

pytestmark = pytest.mark.emulation

ADDRESSES = {"a0": "10.78.0.1", "a1": "10.78.0.2", "b0": "10.78.0.3"}
RELAY = "10.78.0.9"
PATHS = {"a": 2, "b": 4}
SHARE_PORT = 44_000
LOSS = 0.5


class Relay:
    """Stands for each group before the other, and loses a share of what they say."""

    def __init__(self, lab: Lab) -> None:
        lab.host("relay", RELAY)
        self.lost = self.passed = 0
        self.targets = {"a": ADDRESSES["a0"], "b": ADDRESSES["b0"]}
        self.ends: dict[str, socket.socket] = {}
        with lab.inside("relay"):
            for group in self.targets:
                self.ends[group] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self.ends[group].bind((RELAY, 0))
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def peer(self, group: str, name: str) -> dict[str, Any]:
        """How the other group is told of this one."""
        address, port = self.ends[group].getsockname()
        return {"group": group, "name": name, "address": address, "port": port}

    def close(self) -> None:
        """End the thread."""
        self._stop.close()
        self._thread.join()
        for end in (*self.ends.values(), self._stopped):
            end.close()

    def _run(self) -> None:
        rng = random.Random(11)
        while True:
            ready = select.select([*self.ends.values(), self._stopped], [], [])[0]
            if self._stopped in ready:
                return
            for to, other in (("a", "b"), ("b", "a")):
                if self.ends[to] not in ready:
                    continue
                data = self.ends[to].recv(65_536)
                if rng.random() < LOSS:
                    self.lost += 1
                    continue
                self.passed += 1
                self.ends[other].sendto(data, (self.targets[to], SHARE_PORT))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as made:
        yield made


def configuration(group: str, epoch: int, primary: int, backups: list[int]) -> dict[str, Any]:
    members = {
        int(name[1]): {"address": address, "port": 7000}
        for name, address in ADDRESSES.items()
        if name[0] == group
    }
    said = {"epoch": epoch, "primary": primary, "backups": backups, "learners": []}
    return {**said, "confirmed": True, "members": members}


def start(lab: Lab, name: str, backups: list[int]) -> None:
    group = name[0]
    mac = lab.host(name, ADDRESSES[name])
    config = {
        **lab.common(name),
        "group": group,
        "member": int(name[1]),
        "function": "tm",
        "function_config": {},
        "mac": mac,
        "paths": {
            "forward": {"path": PATHS[group], "hop": 1},
            "reverse": {"path": PATHS[group] + 1, "hop": 1},
        },
        "replication": {
            "mode": "pipelined",
            "batch_packets": 8,
            "batch_ns": 0,
            "gap_timeout_ns": 200_000_000,
            "retransmit_ns": 50_000_000,
            "lease_ns": 200_000_000,
            "buffer_packets": 4096,
            "availability": True,
        },
        "address": ADDRESSES[name],
        "port": 7000,
        "share": {"port": SHARE_PORT, "period_ns": 50_000_000},
        "cpu": None,
        "fdu": [],
        "heartbeat_ns": 20_000_000,
        "rx_frames": 1024,
        "tx_frames": 256,
        "core": None,
        "configuration": configuration(group, 1, 0, backups),
    }
    lab.start(name, "testbed.vnf.process.runtime", config)


class Sender:
    """Sends stamped packets to a group: flow f of `flows` gets f + 1 shares of them."""

    def __init__(self, lab: Lab) -> None:
        self.mac = nsh.mac_bytes(lab.host("driver"))
        with lab.inside("driver"):
            self.frames = FrameSocket(INTERFACE, [(path, 2) for path in PATHS.values()])
        self.sent = {"a": 0, "b": 0}
        self._seqs: dict[tuple[str, int], int] = {}

    def send(self, lab: Lab, group: str, flows: list[int], count: int, primary: str) -> None:
        """Send, and wait until all have been let out."""
        prefix = nsh.header_prefix(PATHS[group], 1, 0, self.mac)
        draw = random.Random(count)
        for _ in range(count):
            flow = draw.choices(flows, range(1, len(flows) + 1))[0]
            seq = self._seqs.get((group, flow), 0)
            self._seqs[group, flow] = seq + 1
            stamp = Stamp(PATHS[group], flow, flow, 0, seq)
            self.frames.send(nsh.encode(prefix, stamp, udp_packet(flow, seq)))
            self.sent[group] += 1

        def out() -> bool:
            found = lab.order(primary, "stats")
            return bool(found["released"] == self.sent[group] == found["log_index"])

        until(out, f"all packets of {group} let out")


def view(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = lab.order(name, "shared-view")["view"]
    return found


def await_view(lab: Lab, primaries: tuple[str, str], packets: int) -> None:
    def agree() -> bool:
        first, second = (view(lab, name) for name in primaries)
        return first == second and first.get("packets") == packets

    until(agree, f"views of {primaries} agree on {packets} packets")


def test_groups_agree_under_loss_and_after_a_failover(lab: Lab) -> None:
    for name, backups in (("a0", [1]), ("a1", [1]), ("b0", [])):
        start(lab, name, backups)
    sender, relay = Sender(lab), Relay(lab)
    try:
        lab.order("a0", "share-with", peers=[relay.peer("b", "b0")])
        lab.order("b0", "share-with", peers=[relay.peer("a", "a0")])
        sender.send(lab, "a", list(range(8)), 400, "a0")
        sender.send(lab, "b", list(range(6, 20)), 300, "b0")
        await_view(lab, ("a0", "b0"), 700)
        before = view(lab, "b0")
        lab.kill("a0")
        lab.order("a1", "configure", **configuration("a", 2, 1, []))
        relay.targets["a"] = ADDRESSES["a1"]
        lab.order("a1", "share-with", peers=[relay.peer("b", "b0")])
        lab.order("b0", "share-with", peers=[relay.peer("a", "a1")])
        # The successor has all that was shared: the view is the same, and goes on from there.
        await_view(lab, ("a1", "b0"), 700)
        assert view(lab, "a1") == before
        sender.send(lab, "a", list(range(3, 12)), 200, "a1")
        await_view(lab, ("a1", "b0"), 900)
    finally:
        relay.close()
    assert relay.lost > 0 and relay.passed > 0
    check_views({"a": lab.end("a1"), "b": lab.end("b0")}, 900)


def check_views(dumps: Mapping[str, Mapping[str, Any]], packets: int) -> None:
    """What each primary knows is what follows from the states of all."""
    function = make_function("tm", {})
    each = []
    for number, (_, dump) in enumerate(sorted(dumps.items())):
        state = {tuple(row[:KEY_WORDS]): tuple(row[KEY_WORDS:]) for row in dump["state"]}
        each.append(contribution(function, state, number))
    expected = {"groups": sorted(dumps), **described(function, each)}
    assert expected["packets"] == packets and len(expected["heavy"]) > 1
    assert [dump["shared"]["view"] for dump in dumps.values()] == [expected] * len(dumps)


def test_groups_of_a_campaign_agree_at_its_end(tmp_path: Path) -> None:
    """The orchestrator makes them known to each other, and tells of those who take over."""
    data: dict[str, Any] = yaml.safe_load((ROOT / "scenarios" / "faults.yaml").read_text())
    data["chains"] = [chain for chain in data["chains"] if chain["functions"] == ["fw", "tm"]]
    data["traffic"]["initial_requests"] = 2
    data["replication"]["share_s"] = 0.2
    (tmp_path / "shared.yaml").write_text(yaml.safe_dump(data))
    results = tmp_path / "results"
    done = deftbed(
        "faults", str(tmp_path / "shared.yaml"), "--count", "3", "--kinds", "kill-primary",
        "--json", "--results", str(results),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((results / "faults.json").read_text())["faults"]
    episode = next(row["episode"] for row in rows if row["invalid"] is None)
    assert any("-h1-" in row["target"] for row in rows if row["episode"] == episode)
    record = read_episode(results / episode)
    dumps = {}
    for request in (0, 1):
        dump = record.final_primary(f"r{request}-h1")
        assert dump is not None
        dumps[str(dump["group"])] = dump
    handled = sum(int(dump["log_index"]) - len(dump["losses"]) for dump in dumps.values())
    check_views(dumps, handled)
    shutil.rmtree(results)
