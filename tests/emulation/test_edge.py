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
from typing import Any

import pytest
from scapy.utils import checksum

from testbed.orchestration.messages.control_client import ControlError
from testbed.records.events import read_events
from testbed.scenario.steering import SHARDS, path_mac, shard_of, with_shard
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.socket import FRAME_BYTES, FrameSocket
from testbed.vnf.dataplane.stamp import Stamp
from testbed.vnf.edge.stamper import BUCKETS
from tests.support.dataplane_lab import INTERFACE, Lab, until
from tests.support.edge_lab import (
    ADDRESSES,
    ADDRESSES6,
    FAMILIES,
    PATH,
    PORT,
    REVERSE,
    TIMEOUT_S,
    V4,
    add_rule,
    address_of,
    endpoint,
    errors_of,
    open_source,
    run_in,
    start_edge,
)

pytestmark = pytest.mark.emulation

TCP_BYTES = 1 << 20


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as made:
        for node in (0, 1):
            mac = made.host(f"user{node}")
            start_edge(made, node, mac, epoch=0)
        made.order("edge-1", "accept-path", path=PATH, hop=0, reverse=REVERSE)
        open_source(made)
        yield made


@FAMILIES
def test_udp_goes_there_and_answers_come_back(lab: Lab, family: socket.AddressFamily) -> None:
    asker = endpoint(lab, 0, socket.SOCK_DGRAM, family=family)
    answerer = endpoint(lab, 1, socket.SOCK_DGRAM, PORT, family)
    for number in range(50):
        asker.sendto(b"ask %d" % number, (address_of(1, family), PORT))
        data, sender = answerer.recvfrom(100)
        assert data == b"ask %d" % number
        assert sender[0] == address_of(0, family)
        answerer.sendto(b"answer %d" % number, sender)
        assert asker.recv(100) == b"answer %d" % number
    there, back = lab.end("edge-0")["counters"], lab.end("edge-1")["counters"]
    assert there["paths"] == {
        str(PATH): {"sent": 50},
        str(REVERSE): {"delivered": 50, "overtaken": 0, "duplicates": 0, "stale": 0},
    }
    assert back["paths"] == {
        str(PATH): {"delivered": 50, "overtaken": 0, "duplicates": 0, "stale": 0},
        str(REVERSE): {"sent": 50},
    }
    # Nothing is unclassified either: the kernel sent nothing of its own accord.
    assert errors_of(there) == errors_of(back) == {}
    events = list(read_events(lab.folder / "events.jsonl"))
    found = [event["path"] for event in events if event["event"] == "first-delivery"]
    assert found == [PATH, REVERSE]
    found = [event["path"] for event in events if event["event"] == "order"]
    assert sorted(found) == [PATH, REVERSE]


@FAMILIES
def test_tcp_transfers_a_megabyte_intact(lab: Lab, family: socket.AddressFamily) -> None:
    listener = endpoint(lab, 1, socket.SOCK_STREAM, PORT, family)
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
    client = endpoint(lab, 0, socket.SOCK_STREAM, family=family)
    client.connect((address_of(1, family), PORT))
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
        return bool(path == {"delivered": 5, "overtaken": 1, "duplicates": 5, "stale": 2})

    until(counted, "every frame counted")
    way = path_mac(PATH, 0, 0)
    frames.send(nsh.probe(way, nsh.mac_bytes(mac), 3))
    heard = {3: [way], 4: []}
    until(
        lambda: {n: lab.order("edge-1", "probes-heard", number=n)["ways"] for n in heard} == heard,
        "the probe",
    )
    assert counted()
    assert select.select([receiver], [], [], 0)[0] == []
    frames.send(nsh.encode(prefixes[0], Stamp(PATH, 7, 1, 1, 2), b"\x60" + datagram(b"")[1:]))
    until(lambda: lab.order("edge-1", "stats")["malformed"] == 1, "malformed frame counted")
    frames.close()


@FAMILIES
def test_fragments_cross_and_are_put_together(lab: Lab, family: socket.AddressFamily) -> None:
    asker = endpoint(lab, 0, socket.SOCK_DGRAM, family=family)
    answerer = endpoint(lab, 1, socket.SOCK_DGRAM, PORT, family)
    for size in (4000, 10, 60_000):
        data = os.urandom(size)
        asker.sendto(data, (address_of(1, family), PORT))
        got, sender = answerer.recvfrom(1 << 16)
        assert got == data
        answerer.sendto(data[::-1], sender)
        assert asker.recv(1 << 16) == data[::-1]
    there, back = lab.end("edge-0")["counters"], lab.end("edge-1")["counters"]
    assert errors_of(there) == errors_of(back) == {}
    assert there["paths"][str(PATH)]["sent"] == back["paths"][str(PATH)]["delivered"] > 40


@FAMILIES
def test_echoes_cross_whole_and_in_fragments(lab: Lab, family: socket.AddressFamily) -> None:
    add_rule(lab, address_of(1, family), None)
    protocol, request, reply = (1, 8, 0) if family == V4 else (58, 128, 129)
    with lab.inside("user0"):
        asker = socket.socket(family, socket.SOCK_RAW, protocol)
    asker.settimeout(TIMEOUT_S)
    asker.bind((address_of(0, family), 0))
    for number, size in enumerate((56, 3000, 56)):
        head = struct.pack("!HHH", 0, 77, number)
        echo = bytes([request, 0]) + head + os.urandom(size)
        if family == V4:  # the kernel sums up ICMPv6 alone
            echo = echo[:2] + checksum(echo).to_bytes(2, "big") + echo[4:]
        asker.sendto(echo, (address_of(1, family), 0))
        got = asker.recv(1 << 16)[20 if family == V4 else 0 :]
        assert (got[0], got[4:]) == (reply, echo[4:])
    asker.close()
    assert errors_of(lab.order("edge-0", "stats")) == errors_of(lab.order("edge-1", "stats")) == {}


@FAMILIES
def test_an_icmp_error_comes_back_through_the_chain(lab: Lab, family: socket.AddressFamily) -> None:
    asker = endpoint(lab, 0, socket.SOCK_DGRAM, family=family)
    asker.connect((address_of(1, family), PORT))
    asker.send(b"nobody listens")
    with pytest.raises(ConnectionRefusedError):
        asker.recv(100)
    assert lab.order("edge-1", "stats")["paths"][str(REVERSE)]["sent"] == 1
    assert errors_of(lab.order("edge-1", "stats")) == {}


def test_a_quiet_device_has_its_addresses_and_no_others(lab: Lab) -> None:
    shown = run_in(lab, "user0", "ip", "-6", "-o", "address", "show", "dev", "tun0")
    assert f"{ADDRESSES6[0]}/128" in shown and "fe80" not in shown
    names = ("accept_ra", "autoconf", "router_solicitations", "dad_transmits", "disable_ipv6")
    paths = [f"/proc/sys/net/ipv6/conf/tun0/{name}" for name in names]
    assert run_in(lab, "user0", "cat", *paths).split() == ["0"] * len(names)


def test_shards_are_taken_by_bucket_and_accepted_when_asked_for(lab: Lab) -> None:
    lab.host("watcher")
    with lab.inside("watcher"):
        watcher = FrameSocket(INTERFACE, [(with_shard(PATH, shard), 0) for shard in range(SHARDS)])
    sender = endpoint(lab, 0, socket.SOCK_DGRAM)
    receiver = endpoint(lab, 1, socket.SOCK_DGRAM, PORT)

    def send(text: bytes) -> Stamp:
        sender.sendto(text, (ADDRESSES[1], PORT))
        until(lambda: bool(select.select([watcher], [], [], 0)[0]), "a frame")
        frame = nsh.decode(watcher.recv(FRAME_BYTES))
        assert frame is not None
        return frame.stamp

    def move(shard: int) -> None:
        shards = {str(bucket): shard for bucket in range(BUCKETS)}
        lab.order("edge-0", "set-shards", path=PATH, shards=shards)

    first = send(b"0")
    move(5)
    lost = send(b"1")  # the kernel filter of the other edge does not pass shard 5 yet
    lab.order("edge-1", "accept-path", path=PATH, hop=0, reverse=REVERSE, shards=[5])
    second = send(b"2")
    move(0)
    third = send(b"3")  # shard 0 was not forgotten
    stamps = [first, lost, second, third]
    assert [shard_of(stamp.path) for stamp in stamps] == [0, 5, 5, 0]
    assert [(stamp.flow, stamp.bucket, stamp.seq) for stamp in stamps] == [
        (first.flow, first.bucket, seq) for seq in range(4)
    ]
    assert [receiver.recv(100) for _ in range(3)] == [b"0", b"2", b"3"]
    assert lab.order("edge-0", "stats")["paths"][str(PATH)] == {"sent": 4}
    counted = {"delivered": 3, "overtaken": 0, "duplicates": 0, "stale": 0}
    assert lab.order("edge-1", "stats")["paths"][str(PATH)] == counted
    lab.order("edge-1", "remove-path", path=PATH)
    send(b"4")
    move(5)
    send(b"5")
    assert lab.order("edge-1", "stats")["paths"] == {str(REVERSE): {"sent": 0}}
    assert select.select([receiver], [], [], 0)[0] == []
    watcher.close()


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("set-shards", {"path": PATH, "shards": {"64": 1}}),
        ("set-shards", {"path": PATH, "shards": {"0": 16}}),
        ("set-shards", {"path": PATH, "shards": {"0": "1"}}),
        ("set-shards", {"path": PATH, "shards": {"x": 1}}),
        ("set-shards", {"path": PATH, "shards": 1}),
        ("set-shards", {"path": with_shard(PATH, 1), "shards": {"0": 1}}),
        ("accept-path", {"path": with_shard(PATH, 1), "hop": 0, "reverse": REVERSE}),
        ("accept-path", {"path": PATH, "hop": 0, "reverse": with_shard(REVERSE, 1)}),
        ("accept-path", {"path": PATH, "hop": 0, "reverse": REVERSE, "shards": [16]}),
        ("remove-path", {"path": "2"}),
    ],
)
def test_a_bad_order_is_refused_and_the_edge_lives_on(
    lab: Lab, op: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(ControlError, match=op):
        lab.order("edge-0", op, **fields)
    sender = endpoint(lab, 0, socket.SOCK_DGRAM)
    receiver = endpoint(lab, 1, socket.SOCK_DGRAM, PORT)
    sender.sendto(b"on", (ADDRESSES[1], PORT))
    assert receiver.recv(100) == b"on"


def test_a_killed_edge_goes_on_in_a_new_epoch(lab: Lab) -> None:
    askers = [endpoint(lab, 0, socket.SOCK_DGRAM) for _ in range(3)]
    answerer = endpoint(lab, 1, socket.SOCK_DGRAM, PORT)
    number = 0

    def talk(order: list[int]) -> None:
        nonlocal number
        for each in order:
            askers[each].sendto(b"%d" % number, (ADDRESSES[1], PORT))
            data, sender = answerer.recvfrom(100)
            assert (data, sender[1]) == (b"%d" % number, askers[each].getsockname()[1])
            answerer.sendto(b"answer %d" % number, sender)
            assert askers[each].recv(100) == b"answer %d" % number
            number += 1

    talk([0, 1, 2] * 5)
    lab.kill("edge-0")
    mac = run_in(lab, "user0", "cat", f"/sys/class/net/{INTERFACE}/address").strip()
    start_edge(lab, 0, mac, epoch=1)
    open_source(lab)
    talk([2, 1, 0] * 5)  # numbers 0 and 2 are each other's now
    counted = {"delivered": 30, "overtaken": 0, "duplicates": 0, "stale": 0}
    assert lab.order("edge-1", "stats")["paths"][str(PATH)] == counted
    mac = lab.host("injector")
    with lab.inside("injector"):
        frames = FrameSocket(INTERFACE)
    prefix = nsh.header_prefix(PATH, 0, 0, nsh.mac_bytes(mac))
    frames.send(nsh.encode(prefix, Stamp(PATH, 9, 1, 0, 0), datagram(b"from before")))
    until(lambda: lab.order("edge-1", "stats")["paths"][str(PATH)]["stale"] == 1, "stale frame")
    assert select.select([answerer], [], [], 0)[0] == []
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
