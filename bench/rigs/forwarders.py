"""Forwarders between two interfaces, one for each kind of packet I/O; all loops are compiled.

Each forwards the frames of `TARGETS` from one interface to the other, waits in `ppoll` when there
are none, and ends when none has come for a while. They are run in a worker (`bench.rigs.workers`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import types

from bench.rigs.workers import Ready
from testbed.compiled import compiled
from testbed.vnf.dataplane.ring import (
    PacketRing,
    Ring,
    rx_peek,
    rx_release,
    rx_settle,
    tx_commit,
    tx_kick,
    tx_slot,
)
from testbed.vnf.dataplane.socket import FRAME_BYTES, FrameSocket
from testbed.vnf.dataplane.system import (
    now_ns,
    poll_readable,
    poll_set,
    receive_bytes,
    send_bytes,
)
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.memory import address, copy_bytes

TARGETS = ((4, 1),)
BATCH = 64
SPIN_NS = 100_000
PATIENCE_NS, QUIET_NS = 60_000_000_000, 200_000_000
_MSG_DONTWAIT = 0x40

_recvmmsg: Any = types.ExternalFunction(
    "recvmmsg", types.int32(types.int32, types.intp, types.uint32, types.int32, types.intp)
)
_sendmmsg: Any = types.ExternalFunction(
    "sendmmsg", types.int32(types.int32, types.intp, types.uint32, types.int32)
)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What a forwarder did, and the CPU time of its process meanwhile."""

    frames: int
    cpu_ns: int
    kernel_drops: int


class Messages(NamedTuple):
    """BATCH struct mmsghdr (8 words each), their struct iovec (2 words) and frames."""

    headers: Words
    vectors: Words
    frames: Bytes


def forward_by_ring(ready: Ready, inside: str, outside: str) -> Forwarded:
    """TPACKET_V2 rings on both sides."""
    return _by_ring(ready, inside, outside, 0)


def forward_by_spinning(ready: Ready, inside: str, outside: str) -> Forwarded:
    """The same, but looking for a frame for `SPIN_NS` after the last before it waits."""
    return _by_ring(ready, inside, outside, SPIN_NS)


def _by_ring(ready: Ready, inside: str, outside: str, spin_ns: int) -> Forwarded:
    source, sink = PacketRing(inside, TARGETS, tx_frames=32), PacketRing(outside, rx_frames=32)
    polled = poll_set([source.fileno()])
    try:
        ring_loop(source.ring, sink.ring, polled, spin_ns, 0, 0)  # compiles
        ready()
        cpu_ns = time.process_time_ns()
        frames = ring_loop(source.ring, sink.ring, polled, spin_ns, PATIENCE_NS, QUIET_NS)
        return Forwarded(frames, time.process_time_ns() - cpu_ns, source.kernel_drops())
    finally:
        source.close()
        sink.close()


def forward_by_socket(ready: Ready, inside: str, outside: str) -> Forwarded:
    """A plain packet socket on each side, two system calls a frame."""
    source, sink = FrameSocket(inside, TARGETS), FrameSocket(outside)
    polled = poll_set([source.fileno()])
    buffer = np.zeros(FRAME_BYTES, dtype=np.uint8)
    try:
        socket_loop(source.fileno(), sink.fileno(), polled, buffer, 0, 0)  # compiles
        ready()
        cpu_ns = time.process_time_ns()
        frames = socket_loop(source.fileno(), sink.fileno(), polled, buffer, PATIENCE_NS, QUIET_NS)
        return Forwarded(frames, time.process_time_ns() - cpu_ns, source.kernel_drops())
    finally:
        source.close()
        sink.close()


def forward_by_messages(ready: Ready, inside: str, outside: str) -> Forwarded:
    """A plain packet socket on each side, two system calls for up to `BATCH` frames."""
    source, sink = FrameSocket(inside, TARGETS), FrameSocket(outside)
    polled = poll_set([source.fileno()])
    messages = make_messages()
    try:
        messages_loop(source.fileno(), sink.fileno(), polled, messages, 0, 0)  # compiles
        ready()
        cpu_ns = time.process_time_ns()
        frames = messages_loop(
            source.fileno(), sink.fileno(), polled, messages, PATIENCE_NS, QUIET_NS
        )
        return Forwarded(frames, time.process_time_ns() - cpu_ns, source.kernel_drops())
    finally:
        source.close()
        sink.close()


def make_messages() -> Messages:
    """Message headers that point to a vector and a frame buffer each."""
    headers = np.zeros((BATCH, 8), dtype=np.int64)
    vectors = np.zeros((BATCH, 2), dtype=np.int64)
    frames = np.zeros(BATCH * FRAME_BYTES, dtype=np.uint8)
    index = np.arange(BATCH)
    vectors[:, 0] = frames.ctypes.data + FRAME_BYTES * index
    headers[:, 2] = vectors.ctypes.data + 16 * index
    headers[:, 3] = 1
    return Messages(headers, vectors, frames)


@compiled
def ring_loop(
    source: Ring, sink: Ring, polled: Words, spin_ns: int, patience_ns: int, quiet_ns: int
) -> int:
    """Copy frames from ring to ring; one send for up to `BATCH`, or when no more wait."""
    count = 0
    batch = 0
    spin_until = 0
    wait_ns = patience_ns
    while True:
        length, at = rx_peek(source)
        place = tx_slot(sink) if length >= 0 else -1
        if place >= 0:
            copy_bytes(sink.tx, place, source.rx, at, length)
            rx_release(source)
            tx_commit(sink, length)
            batch += 1
            if batch < BATCH:
                continue
        if batch > 0 or length >= 0:
            tx_kick(sink)
            count += batch
            batch = 0
            wait_ns = quiet_ns
            if spin_ns > 0:
                spin_until = now_ns() + spin_ns
        elif spin_until > 0 and now_ns() < spin_until:
            continue
        elif poll_readable(polled, wait_ns) == 0:
            return count
        elif rx_peek(source)[0] < 0:
            rx_settle(source)


@compiled
def socket_loop(
    source: int, sink: int, polled: Words, buffer: Bytes, patience_ns: int, quiet_ns: int
) -> int:
    """Receive and send a frame at a time."""
    count = 0
    wait_ns = patience_ns
    while True:
        length = receive_bytes(source, buffer, 0, len(buffer))
        if length >= 0:
            send_bytes(sink, buffer, 0, length)
            count += 1
            wait_ns = quiet_ns
        elif poll_readable(polled, wait_ns) == 0:
            return count


@compiled
def messages_loop(
    source: int, sink: int, polled: Words, messages: Messages, patience_ns: int, quiet_ns: int
) -> int:
    """Receive and send what there is, up to `BATCH` frames a call."""
    count = 0
    wait_ns = patience_ns
    headers = address(messages.headers)
    while True:
        for i in range(BATCH):
            messages.vectors[i, 1] = FRAME_BYTES
        read = _recvmmsg(source, headers, BATCH, _MSG_DONTWAIT, 0)
        if read > 0:
            for i in range(read):
                messages.vectors[i, 1] = messages.headers[i, 7] & 0xFFFFFFFF
            _send_all(sink, headers, read)
            count += read
            wait_ns = quiet_ns
        elif poll_readable(polled, wait_ns) == 0:
            return count


@compiled
def _send_all(sink: int, headers: int, count: int) -> None:
    done = 0
    while done < count:
        sent = _sendmmsg(sink, headers + done * 64, count - done, _MSG_DONTWAIT)
        # The call fails for its first message alone, which is lost.
        done += max(sent, 1)
