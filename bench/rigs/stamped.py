"""Open-loop load of a chain: stamped NSH frames of many flows, each in order; compiled.

Frame i is packet `i // flows` of flow `i % flows`: a UDP packet of a 5-tuple of its own. It carries
its number and sending time like the frames of `bench.rigs.loadgen`, whose receiver takes it at the
chain's end. Each load is an epoch of the stamper, so that what a load before it lost holds nothing
up. `frame_bytes` are those of the user's frame on Ethernet, without FCS; between the hops there
are 32 more, NSH with its metadata.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

import numpy as np

from bench.rigs.loadgen import BATCH, Intake, Received, Sent, clock_ns, load_number, store_number
from bench.rigs.workers import Ready
from testbed.compiled import compiled
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.ring import (
    FRAME_BYTES,
    RX_HEAD,
    PacketRing,
    Ring,
    rx_peek,
    rx_release,
    tx_commit,
    tx_kick,
    tx_slot,
)
from testbed.vnf.dataplane.stamp import Stamp
from testbed.vnf.dataplane.system import now_ns, poll_readable
from testbed.vnf.functions.checksums import put_be16, put_be32
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.memory import copy_bytes, load_u32

PATH, REVERSE_PATH, FIRST_HOP = 4, 5, 1
ETHERNET_BYTES, IP_BYTES, UDP_BYTES = 14, 20, 8
NUMBER_AT = nsh.HEADER_BYTES + IP_BYTES + UDP_BYTES
TIME_AT = NUMBER_AT + 8
LEAST_BYTES = ETHERNET_BYTES + IP_BYTES + UDP_BYTES + 16
EPOCHS = 1 << 16
NUMBER_BITS = 40
"""A frame's number is its epoch and, in these bits, its place in the load."""

_FLOW_AT, _EPOCH_AT, _SEQ_AT, _PORT_AT = 26, 32, 34, nsh.HEADER_BYTES + IP_BYTES
_BUCKET_AT, _BUCKETS = 30, 64
_PORTS, _FIRST_PORT = 16_384, 1024
_SECONDS_IN_SLOT, _NANOSECONDS_IN_SLOT = 16, 20
"""Of struct tpacket2_hdr: the time of arrival, CLOCK_REALTIME."""
_NS_PER_S = 1_000_000_000
_SPIN_NS = 10_000
_GRACE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class StampedLoad:
    """`count` frames at `rate_pps` on `interface`, for hop `FIRST_HOP` of path `PATH`.

    With `nap_ns` the sender looks that often what is due and sleeps in between, as if interrupts
    were coalesced; with 0 each frame leaves when it is due.
    """

    interface: str
    frame_bytes: int
    flows: int
    epoch: int
    count: int
    rate_pps: int
    nap_ns: int = 0
    delay_ns: int = 20_000_000

    @property
    def first(self) -> int:
        """The number of the first frame."""
        return self.epoch << NUMBER_BITS


def templates(frame_bytes: int, flows: int) -> Bytes:
    """Frames [hosts, bytes] of epoch 0, one for each source address that `flows` flows need.

    Raises ValueError for a frame that has no room for number and time.
    """
    if frame_bytes < LEAST_BYTES:
        raise ValueError(f"frame_bytes = {frame_bytes}: expected {LEAST_BYTES} at least")
    prefix = nsh.header_prefix(PATH, FIRST_HOP, 0, nsh.mac_bytes("06:00:00:00:00:01"))
    rows = []
    for host in range(-(-flows // _PORTS)):
        packet = _udp_packet(bytes([10, 0, host, 1]), frame_bytes - ETHERNET_BYTES)
        rows.append(nsh.encode(prefix, Stamp(PATH, 0, 0, 0, 0), packet))
    return np.array([list(row) for row in rows], dtype=np.uint8)


def _udp_packet(source: bytes, length: int) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, 17, 0)
    addresses = source + bytes([10, 99, 0, 1])
    total = sum(struct.unpack("!10H", head + addresses))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))
    udp = struct.pack("!HHHH", _FIRST_PORT, 5001, length - IP_BYTES, 0)
    return (head[:10] + checksum.to_bytes(2, "big") + addresses + udp).ljust(length, b"\0")


def send_stamped(ready: Ready, load: StampedLoad) -> Sent:
    """Send a load; to be run in a worker."""
    frames = templates(load.frame_bytes, load.flows)
    lags = np.zeros(load.count, dtype=np.int64)
    ring = PacketRing(load.interface, rx_frames=32)
    try:
        send_flows(ring.ring, frames, load.flows, 0, 0, 1, 0, 0, lags)  # compiles
        ready()
        start_ns = clock_ns() + load.delay_ns
        sent = send_flows(
            ring.ring,
            frames,
            load.flows,
            load.epoch,
            load.count,
            load.rate_pps,
            start_ns,
            load.nap_ns,
            lags,
        )
        end_ns = clock_ns()
    finally:
        ring.close()
    # With naps a frame may be late by one; what is counted is what comes on top.
    lags = np.maximum(lags - load.nap_ns, 0)
    p50, p99, worst = np.quantile(lags, (0.5, 0.99, 1.0)).astype(int).tolist()
    return Sent(load.count, sent, start_ns, end_ns, p50, p99, worst)


@compiled
def send_flows(
    ring: Ring,
    frames: Bytes,
    flows: int,
    epoch: int,
    count: int,
    rate_pps: int,
    start_ns: int,
    nap_ns: int,
    lags: Words,
) -> int:
    """Send `count` frames when they are due; how many were sent. Fills `lags` [count] with ns.

    Gives up one second after the last was due.
    """
    nothing = np.zeros(2, dtype=np.int64)
    flat = frames.reshape(frames.size)
    length = frames.shape[1]
    first = epoch << NUMBER_BITS
    done, flow, seq = 0, 0, 0
    while done < count:
        due_ns = start_ns + done * _NS_PER_S // rate_pps
        now = now_ns()
        if now < due_ns:
            if nap_ns > 0:
                poll_readable(nothing, max(nap_ns, due_ns - now))
            elif due_ns - now > _SPIN_NS:
                poll_readable(nothing, due_ns - now - _SPIN_NS // 2)
            continue
        batch = 0
        while batch < BATCH and done < count and due_ns <= now:
            at = tx_slot(ring)
            if at < 0:
                break
            copy_bytes(ring.tx, at, flat, (flow // _PORTS) * length, length)
            put_be32(ring.tx, at + _FLOW_AT, flow)
            put_be16(ring.tx, at + _BUCKET_AT, flow & (_BUCKETS - 1))
            put_be16(ring.tx, at + _EPOCH_AT, epoch)
            store_number(ring.tx, at + _SEQ_AT, seq)
            put_be16(ring.tx, at + _PORT_AT, _FIRST_PORT + (flow & (_PORTS - 1)))
            store_number(ring.tx, at + NUMBER_AT, first + done)
            store_number(ring.tx, at + TIME_AT, now)
            tx_commit(ring, length)
            lags[done] = now - due_ns
            flow += 1
            if flow == flows:
                flow = 0
                seq += 1
            batch += 1
            done += 1
            due_ns = start_ns + done * _NS_PER_S // rate_pps
        if tx_kick(ring) > 0 and now > start_ns + count * _NS_PER_S // rate_pps + _GRACE_NS:
            break
    while tx_kick(ring) > 0:
        pass  # ends: what an interface refuses is given up
    return done


def receive_stamped(ready: Ready, intake: Intake) -> Received:
    """Receive until it is quiet, looking every `intake.nap_ns`; to be run in a worker."""
    columns = [np.zeros(intake.room, dtype=np.int64) for _ in range(3)]
    ring = PacketRing(intake.interface, intake.targets, rx_frames=intake.rx_frames, tx_frames=32)
    try:
        receive_napping(ring.ring, 0, 0, intake.nap_ns, *columns)  # compiles
        ready()
        count = receive_napping(
            ring.ring, intake.patience_ns, intake.quiet_ns, intake.nap_ns, *columns
        )
        drops = ring.kernel_drops()
    finally:
        ring.close()
    since_boot_ns = time.time_ns() - time.monotonic_ns()
    numbers, sent_ns, received_ns = (column[:count] for column in columns)
    return Received(numbers, sent_ns, received_ns - since_boot_ns, drops)


@compiled
def receive_napping(
    ring: Ring,
    patience_ns: int,
    quiet_ns: int,
    nap_ns: int,
    numbers: Words,
    sent: Words,
    received: Words,
) -> int:
    """Record frames until `quiet_ns` pass without one or there is no room; how many came."""
    nothing = np.zeros(2, dtype=np.int64)
    count = 0
    until = now_ns() + patience_ns
    while count < len(numbers):
        length, at = rx_peek(ring)
        if length < 0:
            now = now_ns()
            if now >= until:
                break
            poll_readable(nothing, nap_ns)
            continue
        if length >= TIME_AT + 8:
            slot = ring.cursors[RX_HEAD] * FRAME_BYTES
            seconds = load_u32(ring.rx, slot + _SECONDS_IN_SLOT)
            rest = load_u32(ring.rx, slot + _NANOSECONDS_IN_SLOT)
            numbers[count] = load_number(ring.rx, at + NUMBER_AT)
            sent[count] = load_number(ring.rx, at + TIME_AT)
            received[count] = seconds * _NS_PER_S + rest
            count += 1
        rx_release(ring)
        if count & 63 == 0 or rx_peek(ring)[0] < 0:
            until = now_ns() + quiet_ns
    return count
