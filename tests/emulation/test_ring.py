"""Packet rings against the kernel: two ends of a veth pair in a namespace of their own."""

from __future__ import annotations

import errno
import gc
import os
import socket
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from bench.rigs.loadgen import clock_ns
from bench.rigs.workers import inside, namespaces, veth
from testbed.compiled import compiled
from testbed.substrate.commands import run
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.ring import (
    FRAME_BYTES,
    RX_CUT,
    TX_DISCARDED,
    TX_ROOM,
    TX_WAITING,
    PacketRing,
    Ring,
    rx_peek,
    rx_release,
    rx_settle,
    tx_commit,
    tx_kick,
    tx_slot,
)
from testbed.vnf.dataplane.socket import FrameSocket
from testbed.vnf.dataplane.system import now_ns, poll_readable, poll_set
from testbed.vnf.state.arrays import Bytes
from testbed.vnf.state.memory import copy_bytes
from tests.support.dataplane_lab import until

pytestmark = pytest.mark.emulation

PATH, HOP = 7, 3
MAC = b"\x06\0\0\0\0\x01"
LARGE_MTU = 4000
_VLAN_TAG = b"\x81\x00\x00\x05"


@pytest.fixture
def space() -> Iterator[str]:
    """A namespace in which a and b, and the larger c and d, are joined."""
    name = f"ring{os.getpid()}"
    with namespaces(name):
        veth((name, "a"), (name, "b"))
        veth((name, "c"), (name, "d"), mtu=LARGE_MTU)
        with inside(name):
            yield name


@pytest.fixture
def ends(space: str) -> Iterator[tuple[PacketRing, PacketRing]]:
    """A sender on a, a receiver on b, with few slots."""
    sender = PacketRing("a", rx_frames=32, tx_frames=64)
    receiver = PacketRing("b", [(PATH, HOP)], rx_frames=64, tx_frames=32)
    yield sender, receiver
    sender.close()
    receiver.close()


def frame(text: bytes = b"", path: int = PATH, hop: int = HOP) -> bytes:
    return nsh.header_prefix(path, hop, 0, MAC) + text.ljust(38, b".")


def put(end: PacketRing, data: bytes) -> bool:
    """Commit a frame, if there is room."""
    at = tx_slot(end.ring)
    if at < 0:
        return False
    end.ring.tx[at : at + len(data)] = np.frombuffer(data, dtype=np.uint8)
    assert tx_commit(end.ring, len(data)) == 0
    return True


def send(end: PacketRing, data: bytes) -> int:
    """Commit and kick; what waits then."""
    assert put(end, data)
    return int(tx_kick(end.ring))


def take(end: PacketRing) -> list[bytes]:
    """All frames that are in the receive ring."""
    found: list[bytes] = []
    while True:
        length, at = rx_peek(end.ring)
        if length < 0:
            return found
        found.append(end.ring.rx[at : at + length].tobytes())
        rx_release(end.ring)


def set_link(name: str, state: str) -> None:
    run(["ip", "link", "set", "dev", name, state])


def shape(name: str, rate: str) -> None:
    """A queue of a thousand bytes at `rate`, after a first burst."""
    shaper = ["tbf", "rate", rate, "burst", "1600", "limit", "1000"]
    run(["tc", "qdisc", "replace", "dev", name, "root", *shaper])


@compiled
def pump(sender: Ring, receiver: Ring, data: Bytes, count: int, until_ns: int) -> int:
    """Number frames, send them in batches, and check that they come in order; -1 if they do not."""
    sent, got = 0, 0
    while got < count and now_ns() < until_ns:
        for _ in range(17):
            at = tx_slot(sender)
            if at < 0 or sent == count:
                break
            copy_bytes(sender.tx, at, data, 0, len(data))
            for i in range(4):
                sender.tx[at + 40 + i] = (sent >> (8 * i)) & 255
            tx_commit(sender, len(data) + sent % 900)
            sent += 1
        tx_kick(sender)
        length, at = rx_peek(receiver)
        while length >= 0:
            number = 0
            for i in range(4):
                number |= int(receiver.rx[at + 40 + i]) << (8 * i)
            if number != got or length != len(data) + got % 900:
                return -1
            got += 1
            rx_release(receiver)
            length, at = rx_peek(receiver)
    return got


@compiled
def spin(receiver: Ring, until_ns: int) -> int:
    """Look for a frame without a pause; its length or -1."""
    while now_ns() < until_ns:
        length, _ = rx_peek(receiver)
        if length >= 0:
            return length
    return -1


def send_later(space: str, data: bytes, after_s: float) -> None:
    with inside(space):
        end = FrameSocket("a")
    time.sleep(after_s)
    end.send(data)


def test_a_ring_receives_its_targets_alone_and_not_what_its_host_sends(space: str) -> None:
    sender = PacketRing("a", [(9, 1), (9, 2)], rx_frames=32, tx_frames=32)
    plain = FrameSocket("a")
    receiver = PacketRing("b", [(9, 1), (10, 2)], rx_frames=32, tx_frames=32)
    hops = [(9, 1), (9, 2), (10, 1), (10, 2), (11, 1)]
    frames = [frame(b"%d %d" % hop, *hop) for hop in hops]
    for data in frames:
        assert send(sender, data) == 0
        plain.send(data)
    assert take(receiver) == [frames[0], frames[0], frames[3], frames[3]]
    receiver.set_targets([(11, 1)])
    for data in frames:
        assert send(sender, data) == 0
    assert take(receiver) == [frames[4]]
    assert take(sender) == []
    assert receiver.kernel_drops() == 0
    # An Ethernet type that is not NSH, with the right destination.
    plain.send(frames[4][:12] + b"\x08\x00" + frames[4][14:])
    assert take(receiver) == []
    for end in (sender, plain, receiver):
        end.close()


def test_frames_stay_whole_and_in_order_over_many_turns_of_the_rings(
    ends: tuple[PacketRing, PacketRing],
) -> None:
    sender, receiver = ends
    data = np.frombuffer(frame(), dtype=np.uint8).copy()
    got = pump(sender.ring, receiver.ring, data, 20_000, clock_ns() + 20_000_000_000)
    assert got == 20_000
    assert receiver.kernel_drops() == 0


def test_a_full_receive_ring_drops_counts_and_goes_on(
    ends: tuple[PacketRing, PacketRing],
) -> None:
    sender, receiver = ends
    frames = [frame(b"%d" % number) for number in range(100)]
    for data in frames:
        assert send(sender, data) == 0
    assert receiver.kernel_drops() == 36
    assert receiver.kernel_drops() == 36  # the kernel's count starts anew; ours does not
    assert take(receiver) == frames[:64]
    for data in frames[:3]:
        assert send(sender, data) == 0
    assert take(receiver) == frames[:3]
    assert receiver.kernel_drops() == 36


def test_a_full_transmit_ring_says_so_until_it_is_kicked(
    ends: tuple[PacketRing, PacketRing],
) -> None:
    sender, receiver = ends
    frames = [frame(b"%d" % number) for number in range(64)]
    assert all(put(sender, data) for data in frames)
    assert not put(sender, frames[0])
    assert take(receiver) == []
    assert tx_kick(sender.ring) == 0
    assert take(receiver) == frames
    assert put(sender, frames[0])


def test_a_bad_frame_does_not_stop_the_ring(ends: tuple[PacketRing, PacketRing]) -> None:
    sender, receiver = ends
    good = frame(b"good")
    for length in (-1, 0, 13, TX_ROOM + 1, 1 << 40):
        assert tx_slot(sender.ring) >= 0
        assert tx_commit(sender.ring, length) == -1
    assert sender.ring.cursors[TX_DISCARDED] == 5
    for _ in range(200):
        # The kernel refuses what exceeds the MTU, between good ones.
        assert put(sender, good)
        assert put(sender, frame().ljust(TX_ROOM))
        assert put(sender, good)
        assert tx_kick(sender.ring) == 0
        assert take(receiver) == [good, good]
    assert sender.ring.cursors[TX_DISCARDED] == 5


def test_a_tagged_frame_is_received_like_one_without_a_tag(
    ends: tuple[PacketRing, PacketRing],
) -> None:
    _, receiver = ends
    data = frame(b"tagged")
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.bind(("a", 0))
    raw.send(data[:12] + _VLAN_TAG + data[12:])
    raw.close()
    assert take(receiver) == [data]


def test_a_frame_longer_than_a_slot_is_skipped_and_counted(space: str) -> None:
    receiver = PacketRing("d", [(PATH, HOP)], rx_frames=32, tx_frames=32)
    sender = FrameSocket("c")
    longest = frame().ljust(FRAME_BYTES - 66)
    for data in (longest, longest + b"x", frame().ljust(3000), frame(b"next")):
        sender.send(data)
    assert take(receiver) == [longest, frame(b"next")]
    assert receiver.ring.cursors[RX_CUT] == 2
    sender.close()
    receiver.close()


def test_a_frame_that_comes_while_compiled_code_looks_is_seen(
    space: str, ends: tuple[PacketRing, PacketRing]
) -> None:
    _, receiver = ends
    assert spin(receiver.ring, 0) == -1
    other = get_context("fork").Process(target=send_later, args=(space, frame(), 0.05))
    other.start()
    assert spin(receiver.ring, clock_ns() + 20_000_000_000) == len(frame())
    other.join()


def test_an_interface_that_is_down_takes_nothing_and_delivers_nothing_stale(
    ends: tuple[PacketRing, PacketRing],
) -> None:
    sender, receiver = ends
    polled = poll_set([receiver.fileno()])
    set_link("a", "down")
    assert send(sender, frame(b"lost")) == 0
    assert send(sender, frame(b"lost too")) == 0
    assert sender.ring.cursors[TX_DISCARDED] == 2
    set_link("b", "down")
    # The error is taken once; then polls wait again.
    assert poll_readable(polled, 0) == 1
    assert rx_peek(receiver.ring)[0] < 0
    assert rx_settle(receiver.ring) == -errno.ENETDOWN
    assert rx_settle(receiver.ring) == 0
    assert poll_readable(polled, 0) == 0
    set_link("a", "up")
    set_link("b", "up")
    # Until the kernel has noticed that both ends are up, it drops what is sent.
    deadline_ns, found = clock_ns() + 10_000_000_000, list[bytes]()
    while not found and clock_ns() < deadline_ns:
        assert send(sender, frame(b"after")) == 0
        poll_readable(polled, 10_000_000)
        found = take(receiver)
    assert set(found) == {frame(b"after")}


def test_a_queue_that_is_full_holds_frames_back_and_loses_none(
    ends: tuple[PacketRing, PacketRing],
) -> None:
    sender, receiver = ends
    # It takes longer than `STALE_NS`; some ten frames fit into the queue, more pass at once.
    shape("a", "400kbit")
    frames = [frame(b"%d" % number) for number in range(64)]
    assert all(put(sender, data) for data in frames)
    assert 0 < tx_kick(sender.ring) < 64
    got: list[bytes] = []

    def all_came() -> bool:
        tx_kick(sender.ring)
        got.extend(take(receiver))
        return len(got) == 64

    until(all_came, "all frames")
    assert got == frames
    assert sender.ring.cursors[TX_DISCARDED] == 0


def test_what_a_queue_refuses_for_long_is_given_up(ends: tuple[PacketRing, PacketRing]) -> None:
    sender, receiver = ends
    shape("a", "8bit")
    frames = [frame(b"%d" % number) for number in range(64)]
    assert all(put(sender, data) for data in frames)
    waiting = int(tx_kick(sender.ring))
    assert 0 < waiting < 64
    until(lambda: tx_kick(sender.ring) == 0, "refused frames given up")
    assert sender.ring.cursors[TX_DISCARDED] == waiting
    passed = len(take(receiver))
    assert 0 < passed <= 64 - waiting
    run(["tc", "qdisc", "del", "dev", "a", "root"])
    for data in frames:
        assert send(sender, data) == 0
    assert take(receiver) == frames


def test_a_peer_that_is_down_does_not_leave_stale_frames_for_later(
    ends: tuple[PacketRing, PacketRing],
) -> None:
    sender, receiver = ends
    set_link("b", "down")
    assert put(sender, frame(b"old"))
    assert put(sender, frame(b"old too"))
    until(lambda: tx_kick(sender.ring) == 0, "refused frames given up")
    assert sender.ring.cursors[TX_WAITING] == 0
    set_link("b", "up")
    until(lambda: carrier("a"), "carrier")
    assert send(sender, frame(b"new")) == 0
    assert take(receiver) == [frame(b"new")]


def test_a_closed_ring_is_gone_from_the_kernel_and_its_arrays_are_not(
    ends: tuple[PacketRing, PacketRing],
) -> None:
    sender, receiver = ends
    assert send(sender, frame()) == 0
    before = packet_sockets()
    view = receiver.ring
    assert view.rx.any()
    receiver.close()
    receiver.close()
    assert packet_sockets() == before - 1
    assert rx_peek(view) == (-1, 0)
    assert not view.rx.any()
    assert tx_slot(view) >= 0
    assert tx_commit(view, 64) == 0
    assert tx_kick(view) == 0
    assert view.cursors[TX_DISCARDED] == 1


def test_the_memory_of_a_ring_goes_with_the_last_array(space: str) -> None:
    end = PacketRing("b", rx_frames=32, tx_frames=32)
    start = f"{end.ring.rx.ctypes.data:x}-"
    part = end.ring.rx[100:200]
    end.close()
    del end
    gc.collect()
    assert start in Path("/proc/self/maps").read_text()
    assert part.sum() == 0
    del part
    gc.collect()
    assert start not in Path("/proc/self/maps").read_text()


def test_numbers_of_slots_and_interfaces_are_checked(space: str) -> None:
    for frames in (0, -32, 33):
        with pytest.raises(ValueError, match="positive multiple"):
            PacketRing("a", rx_frames=frames)
        with pytest.raises(ValueError, match="positive multiple"):
            PacketRing("a", tx_frames=frames)
    with pytest.raises(OSError, match="No such device"):
        PacketRing("missing")
    with pytest.raises(ValueError, match="hops for one socket"):
        PacketRing("a", [(path, 0) for path in range(801)])
    gc.collect()
    assert packet_sockets() == 0


def packet_sockets() -> int:
    """Packet sockets of the namespace."""
    return len(Path("/proc/thread-self/net/packet").read_text().splitlines()) - 1


def carrier(name: str) -> bool:
    return "LOWER_UP" in run(["ip", "link", "show", "dev", name])
