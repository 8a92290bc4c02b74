"""Two real edges with a chain of no function between them: real UDP and TCP through the kernel."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.results.events import read_events
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.socket import FRAME_BYTES, FrameSocket
from testbed.vnf.functions.packet import checksum
from testbed.vnf.replication.types import Stamp
from tests.emulation.dataplane_lab import INTERFACE, Lab, until

pytestmark = pytest.mark.emulation

PATH, REVERSE = 2, 3
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 5001
TCP_BYTES = 1 << 20
TIMEOUT_S = 20.0


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as made:
        for node, address in enumerate(ADDRESSES):
            config = {
                **made.common(f"edge-{node}"),
                "mac": made.host(f"user{node}"),
                "tun": "tun0",
                "tun_address": address,
                "epoch": 0,
            }
            made.start(f"user{node}", "testbed.vnf.edge", config)
        made.order("edge-1", "accept-path", path=PATH, hop=0, reverse=REVERSE)
        made.order("edge-0", "accept-path", path=REVERSE, hop=0, reverse=PATH)
        match = {"protocol": None, "destination": ADDRESSES[1], "destination_port": PORT}
        made.order("edge-0", "add-path", request=0, path=PATH, reverse=REVERSE, hops=0, match=match)
        yield made


def endpoint(lab: Lab, node: int, kind: int, port: int = 0) -> socket.socket:
    """A socket of user host `node`."""
    with lab.inside(f"user{node}"):
        made = socket.socket(socket.AF_INET, kind)
    made.settimeout(TIMEOUT_S)
    if port:
        made.bind((ADDRESSES[node], port))
    return made


def test_udp_goes_there_and_answers_come_back(lab: Lab) -> None:
    asker = endpoint(lab, 0, socket.SOCK_DGRAM)
    answerer = endpoint(lab, 1, socket.SOCK_DGRAM, PORT)
    for number in range(50):
        asker.sendto(b"ask %d" % number, (ADDRESSES[1], PORT))
        data, sender = answerer.recvfrom(100)
        assert data == b"ask %d" % number
        assert sender[0] == ADDRESSES[0]
        answerer.sendto(b"answer %d" % number, sender)
        assert asker.recv(100) == b"answer %d" % number
    there, back = lab.end("edge-0")["counters"], lab.end("edge-1")["counters"]
    assert there["paths"] == {
        str(PATH): {"sent": 50},
        str(REVERSE): {"delivered": 50, "duplicates": 0},
    }
    assert back["paths"] == {
        str(PATH): {"delivered": 50, "duplicates": 0},
        str(REVERSE): {"sent": 50},
    }
    for counters in (there, back):
        errors = {name: count for name, count in counters.items() if name != "paths" and count}
        assert errors == {}
    deliveries = [event["path"] for event in read_events(lab.folder / "events.jsonl")]
    assert deliveries == [PATH, REVERSE]


def test_tcp_transfers_a_megabyte_intact(lab: Lab) -> None:
    listener = endpoint(lab, 1, socket.SOCK_STREAM, PORT)
    listener.listen()
    data = os.urandom(TCP_BYTES)
    received = hashlib.sha256()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(TIMEOUT_S)
        while block := connection.recv(1 << 16):
            received.update(block)
        connection.sendall(received.digest())
        connection.close()

    server = threading.Thread(target=serve)
    server.start()
    client = endpoint(lab, 0, socket.SOCK_STREAM)
    client.connect((ADDRESSES[1], PORT))
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    assert client.recv(64) == hashlib.sha256(data).digest()
    server.join(TIMEOUT_S)
    with lab.inside("user1"):
        counters = Path("/proc/thread-self/net/snmp").read_text()
    tcp = [line.split() for line in counters.splitlines() if line.startswith("Tcp:")]
    assert dict(zip(*tcp, strict=True))["InCsumErrors"] == "0"


def test_what_no_path_takes_is_counted_and_a_removed_path_takes_nothing(lab: Lab) -> None:
    sender = endpoint(lab, 0, socket.SOCK_DGRAM)
    receiver = endpoint(lab, 1, socket.SOCK_DGRAM, PORT)
    sender.sendto(b"other port", (ADDRESSES[1], PORT + 1))
    sender.sendto(b"other host", ("10.77.0.9", PORT))
    sender.sendto(b"right", (ADDRESSES[1], PORT))
    assert receiver.recv(100) == b"right"
    assert lab.order("edge-0", "stats")["unclassified"] == 2
    lab.order("edge-0", "remove-path", path=PATH)
    sender.sendto(b"removed", (ADDRESSES[1], PORT))
    until(lambda: lab.order("edge-0", "stats")["unclassified"] == 3, "third unclassified packet")
    # The answerer's edge remembers the way back until it is told to forget the path.
    receiver.sendto(b"answer", (ADDRESSES[0], sender.getsockname()[1]))
    assert sender.recv(100) == b"answer"
    lab.order("edge-1", "remove-path", path=REVERSE)
    receiver.sendto(b"answer", (ADDRESSES[0], sender.getsockname()[1]))
    until(lambda: lab.order("edge-1", "stats")["unclassified"] == 1, "answer without a way back")


def test_duplicates_and_stale_epochs_are_suppressed_and_a_new_epoch_is_taken(lab: Lab) -> None:
    receiver = endpoint(lab, 1, socket.SOCK_DGRAM, PORT)
    mac = lab.host("injector")
    with lab.inside("injector"):
        frames = FrameSocket(INTERFACE)
    prefixes = [nsh.header_prefix(PATH, 0, member, nsh.mac_bytes(mac)) for member in (0, 1)]

    def inject(epoch: int, seq: int, text: bytes) -> None:
        for prefix in prefixes:
            frames.send(nsh.encode(prefix, Stamp(PATH, 7, 1, epoch, seq), datagram(text)))

    for epoch, seq in ((0, 0), (0, 2), (0, 1), (1, 0), (0, 3), (1, 1)):
        inject(epoch, seq, b"%d %d" % (epoch, seq))
    got = [receiver.recv(100) for _ in range(5)]
    assert got == [b"0 0", b"0 2", b"0 1", b"1 0", b"1 1"]

    def counted() -> bool:
        path = lab.order("edge-1", "stats")["paths"][str(PATH)]
        return bool(path == {"delivered": 5, "duplicates": 7})

    until(counted, "every frame counted")
    assert select.select([receiver], [], [], 0)[0] == []
    frames.send(nsh.encode(prefixes[0], Stamp(PATH, 7, 1, 1, 2), b"\x60" + datagram(b"")[1:]))
    until(lambda: lab.order("edge-1", "stats")["malformed"] == 1, "malformed frame counted")
    frames.close()


def test_a_frame_socket_sees_its_targets_alone_and_counts_what_overflows(lab: Lab) -> None:
    macs = [nsh.mac_bytes(lab.host(name)) for name in ("sender", "taker")]
    with lab.inside("sender"):
        sender = FrameSocket(INTERFACE, [(9, 1), (9, 2)])
    with lab.inside("taker"):
        taker = FrameSocket(INTERFACE, [(9, 1), (10, 2)])

    def send(path: int, hop: int, member: int) -> None:
        prefix = nsh.header_prefix(path, hop, member, macs[0])
        sender.send(nsh.encode(prefix, Stamp(path, hop, 0, 0, member), datagram(b"")))

    def taken() -> list[tuple[int, int, int]]:
        until(lambda: bool(select.select([taker], [], [], 0)[0]), "a frame")
        found = []
        while select.select([taker], [], [], 0)[0]:
            frame = nsh.decode(taker.recv(FRAME_BYTES))
            assert frame is not None
            found.append((frame.stamp.path, frame.hop, frame.member))
        return found

    hops = [(9, 1, 0), (9, 2, 0), (10, 1, 1), (10, 2, 1), (9, 1, 255), (11, 1, 0)]
    for hop in hops:
        send(*hop)
    assert taken() == [(9, 1, 0), (10, 2, 1), (9, 1, 255)]
    taker.set_targets([(11, 1)])
    for hop in hops:
        send(*hop)
    assert taken() == [(11, 1, 0)]
    # The sender asked for hops of path 9 too, and does not see its own frames.
    assert select.select([sender], [], [], 0)[0] == []
    assert taker.kernel_drops() == 0
    for _ in range(20_000):
        send(11, 1, 0)
    until(lambda: taker.kernel_drops() > 0, "overflow counted")
    drops = taker.kernel_drops()
    assert len(taken()) + drops == 20_000
    assert taker.kernel_drops() == drops  # the kernel's count starts anew; ours does not
    sender.close()
    taker.close()


def datagram(payload: bytes) -> bytes:
    """A UDP packet to the receiver, without a UDP checksum."""
    udp = struct.pack("!HHHH", 4000, PORT, 8 + len(payload), 0)
    addresses = b"".join(map(socket.inet_aton, ADDRESSES))
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0)
    total = checksum(head + addresses)
    return head[:10] + total.to_bytes(2, "big") + addresses + udp + payload
