"""AF_XDP in copy mode between two interfaces: for comparison with the rings, in `bench.rings`.

An AF_XDP socket owns a whole queue of an interface, so one interface cannot serve several
processes with it. Both sockets share their frames (UMEM): a frame goes from the fill ring to the
receive ring of one interface, to the transmit and completion rings of the other, and back. The
layout of the rings is that of Documentation/networking/af_xdp.rst.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import socket
import struct
import time
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from bench.rigs.forwarders import PATIENCE_NS, QUIET_NS, Forwarded
from bench.rigs.workers import Ready
from testbed.compiled import compiled
from testbed.vnf.dataplane.system import flush, poll_readable, poll_set
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.memory import load_acquire, load_u32, store_release, store_u32

FRAMES = 4096
_BYTES = 2048
_AF_XDP, _SOL_XDP = 44, 283
_MMAP_OFFSETS, _RX, _TX, _UMEM, _FILL, _COMPLETION = 1, 2, 3, 4, 5, 6
_PAGE_OFFSETS = {_RX: 0, _TX: 0x80000000, _FILL: 0x100000000, _COMPLETION: 0x180000000}
_ORDER = (_RX, _TX, _FILL, _COMPLETION)
_SHARED, _COPY = 1, 2
_MAP_CREATE, _PROG_LOAD, _LINK_CREATE = 0, 5, 28
_XSKMAP, _PROG_XDP, _ATTACH_XDP, _UPDATE = 17, 6, 37, 2
_BPF_CALLS = {"x86_64": 321, "aarch64": 280}
_INSTRUCTION = struct.Struct("=BBhi")
_BATCH = 64
PRODUCER, CONSUMER, ENTRIES = 0, 1, 2
_LOW = 0xFFFFFFFF

_libc = ctypes.CDLL(None, use_errno=True)


class XdpRing(NamedTuple):
    """A ring's memory, and where in it its two indices and its entries are."""

    memory: Bytes
    places: Words


class XdpRings(NamedTuple):
    """What the loop works on."""

    fill: XdpRing
    receive: XdpRing
    transmit: XdpRing
    completion: XdpRing


class XdpSocket:
    """An AF_XDP socket with `FRAMES` entries in each ring."""

    def __init__(self, interface: str) -> None:
        self._interface = socket.if_nametoindex(interface)
        self.socket = socket.socket(_AF_XDP, socket.SOCK_RAW, 0)
        self._maps: list[mmap.mmap] = []

    def register(self, frames: mmap.mmap) -> None:
        """Make memory the frames of this socket."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(frames))
        request = struct.pack("=QQIIII", address, len(frames), _BYTES, 0, 0, 0)
        self.socket.setsockopt(_SOL_XDP, _UMEM, request)

    def make_rings(self) -> dict[int, XdpRing]:
        """All four rings."""
        for kind in _ORDER:
            self.socket.setsockopt(_SOL_XDP, kind, FRAMES)
        raw = self.socket.getsockopt(_SOL_XDP, _MMAP_OFFSETS, 128)
        rings = {}
        for number, kind in enumerate(_ORDER):
            producer, consumer, entries, _ = struct.unpack_from("=4Q", raw, 32 * number)
            entry_bytes = 16 if kind in (_RX, _TX) else 8
            # A mapping per ring, of the length that the kernel expects.
            mapped = mmap.mmap(
                self.socket.fileno(),
                entries + FRAMES * entry_bytes,
                flags=mmap.MAP_SHARED | mmap.MAP_POPULATE,
                offset=_PAGE_OFFSETS[kind],
            )
            places = np.array([producer, consumer, entries], dtype=np.int64)
            rings[kind] = XdpRing(np.frombuffer(mapped, dtype=np.uint8), places)
        return rings

    def bind(self, owner: XdpSocket | None = None) -> None:
        """Bind to queue 0, with the frames of `owner`. Raises OSError."""
        flags = _COPY if owner is None else _SHARED
        shared = 0 if owner is None else owner.socket.fileno()
        address = struct.pack("=HHIII", _AF_XDP, flags, self._interface, 0, shared)
        if _libc.bind(self.socket.fileno(), address, len(address)) != 0:
            raise OSError(ctypes.get_errno(), "bind of an AF_XDP socket")

    def redirect(self) -> tuple[int, int, int]:
        """Let the interface give all its frames to this socket, until these are closed."""
        table = _bpf(_MAP_CREATE, struct.pack("=IIII", _XSKMAP, 4, 4, 1))
        program = _bpf(_PROG_LOAD, *_program(table))
        key, value = ctypes.c_uint32(0), ctypes.c_uint32(self.socket.fileno())
        _bpf(
            _UPDATE,
            struct.pack("=IIQQQ", table, 0, ctypes.addressof(key), ctypes.addressof(value), 0),
            key,
            value,
        )
        link = _bpf(_LINK_CREATE, struct.pack("=IIII", program, self._interface, _ATTACH_XDP, 0))
        return table, program, link


def _program(table: int) -> tuple[bytes, object, object]:
    """bpf_redirect_map(table, context->rx_queue_index, XDP_PASS), as a request to load it."""
    code = b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (0x61, 0x12, 16, 0),  # r2 = *(u32 *)(r1 + 16)
            (0x18, 0x11, 0, table),  # r1 = table
            (0, 0, 0, 0),
            (0xB7, 0x03, 0, 2),  # r3 = XDP_PASS
            (0x85, 0, 0, 51),  # call bpf_redirect_map
            (0x95, 0, 0, 0),  # exit
        )
    )
    text, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    count = len(code) // _INSTRUCTION.size
    places = (ctypes.addressof(text), ctypes.addressof(licence))
    return struct.pack("=IIQQIIQ", _PROG_XDP, count, *places, 0, 0, 0), text, licence


def _bpf(command: int, request: bytes, *_kept: object) -> int:
    """bpf(2); what the request points to is kept until it is done."""
    buffer = ctypes.create_string_buffer(request.ljust(128, b"\0"), 128)
    call = _BPF_CALLS[platform.machine()]
    made = _libc.syscall(call, command, buffer, 128)
    if made < 0:
        raise OSError(ctypes.get_errno(), f"bpf command {command}")
    return int(made)


def forward_by_xdp(ready: Ready, inside: str, outside: str) -> Forwarded:
    """AF_XDP sockets in copy mode on both sides; a forwarder as in `bench.rigs.forwarders`."""
    with ExitStack() as stack:
        source, sink = XdpSocket(inside), XdpSocket(outside)
        for end in (source, sink):
            stack.callback(end.socket.close)
        # The kernel holds the pages; what is in them is not looked at here.
        source.register(mmap.mmap(-1, FRAMES * _BYTES))
        incoming, outgoing = source.make_rings(), sink.make_rings()
        source.bind()
        sink.bind(source)
        rings = XdpRings(incoming[_FILL], incoming[_RX], outgoing[_TX], outgoing[_COMPLETION])
        fill_all(rings.fill)
        for descriptor in source.redirect():
            stack.callback(os.close, descriptor)
        polled = poll_set([source.socket.fileno()])
        xdp_loop(rings, sink.socket.fileno(), polled, 0, 0)  # compiles
        ready()
        cpu_ns = time.process_time_ns()
        frames = xdp_loop(rings, sink.socket.fileno(), polled, PATIENCE_NS, QUIET_NS)
        return Forwarded(frames, time.process_time_ns() - cpu_ns, 0)


@compiled
def fill_all(fill: XdpRing) -> None:
    """Give the kernel all frames to receive into."""
    for i in range(FRAMES):
        at = fill.places[ENTRIES] + 8 * i
        store_u32(fill.memory, at, i * _BYTES)
        store_u32(fill.memory, at + 4, 0)
    store_release(fill.memory, fill.places[PRODUCER], FRAMES)


@compiled
def move_frames(rings: XdpRings) -> int:
    """Hand up to `_BATCH` received frames to the transmit ring; how many."""
    source, sink = rings.receive, rings.transmit
    begin = load_u32(source.memory, source.places[CONSUMER])
    ready = (load_acquire(source.memory, source.places[PRODUCER]) - begin) & _LOW
    count = min(ready, _BATCH)
    place = load_u32(sink.memory, sink.places[PRODUCER])
    for i in range(count):
        there = source.places[ENTRIES] + 16 * ((begin + i) % FRAMES)
        here = sink.places[ENTRIES] + 16 * ((place + i) % FRAMES)
        for word in range(0, 12, 4):
            store_u32(sink.memory, here + word, load_u32(source.memory, there + word))
        store_u32(sink.memory, here + 12, 0)
    store_release(source.memory, source.places[CONSUMER], begin + count)
    store_release(sink.memory, sink.places[PRODUCER], place + count)
    return count


@compiled
def recycle(rings: XdpRings) -> None:
    """Frames that were sent can be received into again."""
    source, sink = rings.completion, rings.fill
    begin = load_u32(source.memory, source.places[CONSUMER])
    count = (load_acquire(source.memory, source.places[PRODUCER]) - begin) & _LOW
    place = load_u32(sink.memory, sink.places[PRODUCER])
    for i in range(count):
        there = source.places[ENTRIES] + 8 * ((begin + i) % FRAMES)
        here = sink.places[ENTRIES] + 8 * ((place + i) % FRAMES)
        store_u32(sink.memory, here, load_u32(source.memory, there))
        store_u32(sink.memory, here + 4, load_u32(source.memory, there + 4))
    store_release(source.memory, source.places[CONSUMER], begin + count)
    store_release(sink.memory, sink.places[PRODUCER], place + count)


@compiled
def xdp_loop(rings: XdpRings, sink: int, polled: Words, patience_ns: int, quiet_ns: int) -> int:
    """Forward until it is quiet."""
    count = 0
    wait_ns = patience_ns
    transmit = rings.transmit
    while True:
        moved = move_frames(rings)
        waiting = load_u32(transmit.memory, transmit.places[PRODUCER]) != load_acquire(
            transmit.memory, transmit.places[CONSUMER]
        )
        if waiting:
            flush(sink)  # takes 32 frames at most
        recycle(rings)
        if moved > 0:
            count += moved
            wait_ns = quiet_ns
        elif not waiting and poll_readable(polled, wait_ns) == 0:
            return count
