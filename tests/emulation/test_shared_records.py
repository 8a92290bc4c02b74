"""Linearizable records with a real FDU and real instances of two groups, under real frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.socket import FRAME_BYTES, FrameSocket
from testbed.vnf.dataplane.stamp import Stamp
from testbed.vnf.functions.nat_state import BLOCK
from testbed.vnf.functions.port_scans import PAIR_TAG
from tests.emulation.test_instance_pair import udp_packet
from tests.support.dataplane_lab import INTERFACE, Lab, until
from tests.support.fdu_lab import MembershipLab

pytestmark = pytest.mark.emulation

PATHS, HOP = (2, 4), 1
LIMIT = 20


@dataclass
class Sharing:
    """Two groups, each of a primary alone, that share a scope."""

    lab: Lab
    fdu: MembershipLab
    frames: FrameSocket
    mac: bytes

    def start(self, number: int, function: str, config: dict[str, Any]) -> None:
        """Start group `number`."""
        name = f"g{number}-m0"
        address = f"10.78.0.{number + 1}"
        fdu = [
            {
                "heartbeat_socket": self.fdu.path(f"heartbeats-{member}"),
                "control_socket": self.fdu.path(member),
            }
            for member in self.fdu.names
        ]
        info = {"name": name, "control_socket": self.lab.socket(name)}
        members = {0: {**info, "address": address, "port": 7000}}
        said = {"epoch": 1, "primary": 0, "backups": [], "learners": [], "confirmed": True}
        mac = self.lab.host(f"server{number}", address)
        self.lab.start(
            f"server{number}",
            "testbed.vnf.process.runtime",
            {
                **self.lab.common(name),
                "group": f"g{number}",
                "member": 0,
                "function": function,
                "function_config": config,
                "scope": "everybody",
                "mac": mac,
                "paths": {
                    "forward": {"path": PATHS[number], "hop": HOP},
                    "reverse": {"path": PATHS[number] + 1, "hop": HOP},
                },
                "replication": {
                    "mode": "pipelined",
                    "batch_packets": 8,
                    "batch_ns": 0,
                    "gap_timeout_ns": 200_000_000,
                    "retransmit_ns": 50_000_000,
                    "lease_ns": 200_000_000,
                    "buffer_packets": 1024,
                    "availability": True,
                },
                "address": address,
                "port": 7000,
                "cpu": None,
                "fdu": fdu,
                "heartbeat_ns": 20_000_000,
                "rx_frames": 1024,
                "tx_frames": 256,
                "core": None,
                "configuration": {**said, "members": members},
            },
        )
        self.fdu.client.create_group(f"g{number}", members, 0, [], "everybody")

    def send(self, number: int, flow: int, packet: bytes) -> None:
        """Send the first packet of a flow to a group."""
        path = PATHS[number]
        prefix = nsh.header_prefix(path, HOP, 0, self.mac)
        self.frames.send(nsh.encode(prefix, Stamp(path, flow, flow % 64, 0, 0), packet))

    def outputs(self) -> list[nsh.Frame]:
        """What has come out since the last call."""
        found: list[nsh.Frame] = []
        while True:
            try:
                frame = nsh.decode(self.frames.recv(FRAME_BYTES))
            except BlockingIOError:
                return found
            assert frame is not None
            found.append(frame)

    def await_outputs(self, count: int) -> list[nsh.Frame]:
        """Wait until so many packets have come out since the last call; these."""
        found: list[nsh.Frame] = []

        def complete() -> bool:
            found.extend(self.outputs())
            return len(found) >= count

        until(complete, f"{count} packets out")
        assert len(found) == count
        return found

    def stats(self, number: int) -> dict[str, Any]:
        return self.lab.order(f"g{number}-m0", "stats")

    def await_handled(self, *counts: int) -> None:
        """Wait until each group has handled so many packets."""
        until(
            lambda: [self.stats(n)["processed"] for n in range(len(counts))] == list(counts),
            f"{counts} packets handled",
        )


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Sharing]:
    (tmp_path / "fdu").mkdir()
    with MembershipLab(tmp_path / "fdu") as fdu, Lab(tmp_path) as lab:
        fdu.client.await_ready(20.0)
        mac = lab.host("driver")
        with lab.inside("driver"):
            frames = FrameSocket(INTERFACE, [(path, HOP + 1) for path in PATHS])
        yield Sharing(lab, fdu, frames, nsh.mac_bytes(mac))


def to_port(port: int) -> bytes:
    """A packet from one source to a port of one destination."""
    packet = bytearray(udp_packet(0, 0))
    packet[22:24] = struct.pack("!H", port)
    return bytes(packet)


def test_a_scanner_that_spreads_over_instances_is_caught_by_all(sharing: Sharing) -> None:
    for number in range(2):
        sharing.start(number, "idps", {"scan_ports": LIMIT, "patterns": []})
    for port in range(LIMIT // 2):
        for number in range(2):
            sharing.send(number, port, to_port(1000 + 100 * number + port))
    sharing.await_handled(LIMIT // 2, LIMIT // 2)
    sharing.await_outputs(LIMIT)
    # Neither has seen more than half of what is too much.
    sharing.send(0, 100, to_port(3000))
    sharing.await_handled(LIMIT // 2 + 1, LIMIT // 2)
    until(lambda: _alike(sharing), "the other knows")
    sharing.send(1, 101, to_port(1100))
    sharing.await_handled(LIMIT // 2 + 1, LIMIT // 2 + 1)
    assert sharing.outputs() == []
    states = [_shared(sharing.lab.end(f"g{number}-m0")) for number in range(2)]
    assert states[0] == states[1]
    assert len([row for row in states[0] if row[0] >> 56 == PAIR_TAG]) == LIMIT


def _alike(sharing: Sharing) -> bool:
    first, second = (sharing.stats(number)["shared_changes"] for number in range(2))
    return bool(first == second)


def _shared(dump: dict[str, Any]) -> list[list[int]]:
    return [row for row in dump["state"] if row[0] >> 56 >= BLOCK]


def test_nats_of_one_address_never_give_out_the_same_port(sharing: Sharing) -> None:
    flows = 40
    for number in range(2):
        config = {"public_address": "100.64.0.1", "blocks": [], "claims_blocks": True}
        sharing.start(number, "nat", {**config, "block_ports": 64, "instance": number})
    for flow in range(flows):
        for number in range(2):
            sharing.send(number, flow, udp_packet(flow, 0))  # the same internal endpoints
    sharing.await_handled(flows, flows)
    found = sharing.await_outputs(2 * flows)
    ports = [int.from_bytes(frame.packet[20:22], "big") for frame in found]
    assert len(set(ports)) == 2 * flows
    # Ports of one parity that fill a block of 64 halfway: two blocks each for 40 flows.
    owners = [sharing.lab.end(f"g{number}-m0") for number in range(2)]
    assert _shared(owners[0]) == _shared(owners[1])


def test_the_death_of_the_leader_of_the_fdu_delays_and_loses_nothing(sharing: Sharing) -> None:
    for number in range(2):
        sharing.start(number, "idps", {"scan_ports": 1000, "patterns": []})
    sharing.send(0, 0, to_port(1))
    sharing.await_handled(1)
    status = sharing.fdu.call(sharing.fdu.names[0], "status")
    sharing.fdu.kill(status["leader"])
    for flow in range(1, 30):
        sharing.send(flow % 2, flow, to_port(1 + flow))
    sharing.await_handled(15, 15)
    states = [_shared(sharing.lab.end(f"g{number}-m0")) for number in range(2)]
    assert len([row for row in states[0] if row[0] >> 56 == PAIR_TAG]) == 30
