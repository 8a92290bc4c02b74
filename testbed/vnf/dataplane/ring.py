"""Packet rings: frames go between the kernel and compiled code through shared memory.

TPACKET_V2 (Documentation/networking/packet_mmap.rst): the memory of a socket is an array of slots
of `FRAME_BYTES`, receive slots first. A slot begins with a header (struct tpacket2_hdr) whose
first word says whose the slot is:

    receive   0 the kernel's, TP_STATUS_USER ours: a frame to read, until the word is 0 again
    transmit  0 ours, SEND_REQUEST committed by us, SENDING on its way: the kernel's

A frame with a VLAN tag is received like one without: the kernel takes the tag off before it looks
for a receiver (a plain packet socket shows the same), and what is sent never has one.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import socket
import struct
import weakref
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.dataplane.nsh import ETHERTYPE_NSH
from testbed.vnf.dataplane.socket import (
    PACKET_IGNORE_OUTGOING,
    PACKET_STATISTICS,
    SO_ATTACH_FILTER,
    SO_SNDBUFFORCE,
    SOL_PACKET,
    target_filter,
)
from testbed.vnf.dataplane.system import flush, now_ns, take_error
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.memory import (
    load_acquire,
    load_u16,
    load_u32,
    store_release,
    store_u32,
)

FRAME_BYTES = 2048
"""A slot: header and frame."""
FRAMES_STEP = 32
"""Numbers of slots are multiples of this: the kernel allocates blocks of 64 KiB."""
TX_OFFSET = 32
"""Where a frame to send lies in its slot: TPACKET2_HDRLEN - sizeof(struct sockaddr_ll)."""
TX_ROOM = FRAME_BYTES - TX_OFFSET
"""The longest frame for which a slot has room; the kernel drops what exceeds the MTU."""
STALE_NS = 20_000_000
"""Frames that the interface has refused for so long are given up."""

# Places in the cursors of a ring.
FD, RX_FRAMES, RX_HEAD, RX_CUT = 0, 1, 2, 3
TX_FRAMES, TX_HEAD, TX_WAITING, TX_STUCK_NS, TX_DISCARDED = 4, 5, 6, 7, 8
CURSORS = 9

_ETHERNET_BYTES = 14
_USER = 1
_SEND_REQUEST, _SENDING = 1, 2
_STATUS, _LENGTH, _CAPTURED, _MAC = 0, 4, 8, 12
_AGAIN, _NO_BUFFERS, _NO_MEMORY, _DOWN = errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ENETDOWN

_PACKET_RX_RING, _PACKET_TX_RING, _PACKET_VERSION = 5, 13, 10
_PACKET_LOSS = 14
_TPACKET_V2 = 1
_BLOCK_BYTES = FRAMES_STEP * FRAME_BYTES
_SEND_BUFFER_BYTES = 4 << 20
_REQUEST = struct.Struct("IIII")
_PROGRAM = struct.Struct("@HP")
_INSTRUCTION_BYTES = 8
_STATISTICS = struct.Struct("II")
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Ring(NamedTuple):
    """What compiled code takes: the slots, and `CURSORS` words.

    Words for the reader: RX_CUT frames longer than a slot (skipped), TX_WAITING frames committed
    that the kernel has not taken yet, TX_DISCARDED frames given up (a length that no frame has,
    an interface that is down or refuses). The others are the ring's own.
    """

    rx: Bytes
    tx: Bytes
    cursors: Words


@compiled
def rx_peek(ring: Ring) -> tuple[int, int]:
    """The oldest frame received: its length, and where in `ring.rx` it begins; (-1, 0) if none.

    It stays there until `rx_release`.
    """
    cursors = ring.cursors
    for _ in range(cursors[RX_FRAMES]):
        slot = cursors[RX_HEAD] * FRAME_BYTES
        if load_acquire(ring.rx, slot + _STATUS) & _USER == 0:
            break
        length = load_u32(ring.rx, slot + _CAPTURED)
        if length == load_u32(ring.rx, slot + _LENGTH):
            return length, slot + load_u16(ring.rx, slot + _MAC)
        cursors[RX_CUT] += 1
        rx_release(ring)
    return -1, 0


@compiled
def rx_ahead(ring: Ring, distance: int) -> int:
    """The slot, as a place in `ring.rx`, that is `distance` after the oldest frame's."""
    cursors = ring.cursors
    place = cursors[RX_HEAD] + distance
    return (place if place < cursors[RX_FRAMES] else place - cursors[RX_FRAMES]) * FRAME_BYTES


@compiled
def rx_frame(ring: Ring, slot: int) -> int:
    """Where the frame in a slot begins; -1 if there is none."""
    if load_acquire(ring.rx, slot + _STATUS) & _USER == 0:
        return -1
    return slot + load_u16(ring.rx, slot + _MAC)


@compiled
def rx_release(ring: Ring) -> None:
    """Give the slot of the frame that `rx_peek` showed back to the kernel."""
    cursors = ring.cursors
    head = cursors[RX_HEAD]
    store_release(ring.rx, head * FRAME_BYTES + _STATUS, 0)
    cursors[RX_HEAD] = head + 1 if head + 1 < cursors[RX_FRAMES] else 0


@compiled
def rx_settle(ring: Ring) -> int:
    """To be called when a poll says readable and `rx_peek` has nothing: 0, or -errno.

    Takes the error that an interface leaves when it goes down; without it, polls would return at
    once from then on. Receiving goes on by itself when the interface is up again.
    """
    return take_error(ring.cursors[FD])


@compiled
def tx_slot(ring: Ring) -> int:
    """Where in `ring.tx` to write the next frame, with room for `TX_ROOM` bytes; -1 if full."""
    slot = ring.cursors[TX_HEAD] * FRAME_BYTES
    if load_acquire(ring.tx, slot + _STATUS) & (_SEND_REQUEST | _SENDING) != 0:
        return -1
    return slot + TX_OFFSET


@compiled
def tx_commit(ring: Ring, length: int) -> int:
    """The frame that was written where `tx_slot` said is complete; `tx_kick` sends it.

    Returns 0, or -1 for a length that no frame can have: it is discarded.
    """
    cursors = ring.cursors
    if length < _ETHERNET_BYTES or length > TX_ROOM:
        cursors[TX_DISCARDED] += 1
        return -1
    head = cursors[TX_HEAD]
    store_u32(ring.tx, head * FRAME_BYTES + _LENGTH, length)
    store_release(ring.tx, head * FRAME_BYTES + _STATUS, _SEND_REQUEST)
    cursors[TX_HEAD] = head + 1 if head + 1 < cursors[TX_FRAMES] else 0
    cursors[TX_WAITING] += 1
    return 0


@compiled
def tx_kick(ring: Ring) -> int:
    """Send all that was committed, in one system call, without waiting.

    Returns how many frames the kernel has not taken: 0 as a rule. To be called again then, also
    when nothing was committed since. What an interface refuses for `STALE_NS`, and what is
    committed while it is down, is discarded, as a plain socket would lose it.
    """
    cursors = ring.cursors
    waiting = cursors[TX_WAITING]
    if waiting == 0:
        return 0
    result = flush(cursors[FD])
    if result == -_DOWN:
        # Perhaps the memory of a time when the interface was down, which this call took away.
        result = flush(cursors[FD])
    _count_taken(ring)
    if cursors[TX_WAITING] == 0:
        cursors[TX_STUCK_NS] = 0
    elif result < 0 and result != -_AGAIN and result != -_NO_BUFFERS and result != -_NO_MEMORY:
        _discard(ring)
    elif cursors[TX_WAITING] < waiting or cursors[TX_STUCK_NS] == 0:
        cursors[TX_STUCK_NS] = now_ns()
    elif now_ns() - cursors[TX_STUCK_NS] > STALE_NS:
        _discard(ring)
    return cursors[TX_WAITING]


@compiled
def _oldest_waiting(cursors: Words) -> int:
    slot = cursors[TX_HEAD] - cursors[TX_WAITING]
    return slot if slot >= 0 else slot + cursors[TX_FRAMES]


@compiled
def _count_taken(ring: Ring) -> None:
    cursors = ring.cursors
    # The kernel takes them in order: mostly all, which the youngest tells.
    youngest = cursors[TX_HEAD] - 1 if cursors[TX_HEAD] > 0 else cursors[TX_FRAMES] - 1
    if load_acquire(ring.tx, youngest * FRAME_BYTES + _STATUS) & _SEND_REQUEST == 0:
        cursors[TX_WAITING] = 0
    for _ in range(cursors[TX_WAITING]):
        slot = _oldest_waiting(cursors)
        if load_acquire(ring.tx, slot * FRAME_BYTES + _STATUS) & _SEND_REQUEST != 0:
            return
        cursors[TX_WAITING] -= 1


@compiled
def _discard(ring: Ring) -> None:
    """Take back what waits. The kernel's own place in the ring is at the oldest of it."""
    cursors = ring.cursors
    first = _oldest_waiting(cursors)
    cursors[TX_DISCARDED] += cursors[TX_WAITING]
    for _ in range(cursors[TX_WAITING]):
        store_release(ring.tx, _oldest_waiting(cursors) * FRAME_BYTES + _STATUS, 0)
        cursors[TX_WAITING] -= 1
    cursors[TX_HEAD] = first
    cursors[TX_STUCK_NS] = 0


class PacketRing:
    """A packet socket on `interface` with rings of `rx_frames` and `tx_frames` slots.

    Receives NSH frames for the (path, hop) pairs of `targets`, or those that `set_targets` asked
    for last; what this host sends is not received. Needs CAP_NET_RAW and
    CAP_NET_ADMIN. Raises OSError if the interface is missing, ValueError for numbers of slots
    that are not positive multiples of `FRAMES_STEP`.
    """

    def __init__(
        self,
        interface: str,
        targets: Iterable[tuple[int, int]] = (),
        *,
        rx_frames: int = 4096,
        tx_frames: int = 1024,
    ) -> None:
        for frames in (rx_frames, tx_frames):
            if frames <= 0 or frames % FRAMES_STEP:
                raise ValueError(f"{frames} slots: expected a positive multiple of {FRAMES_STEP}")
        self._kernel_drops = 0
        self._bytes = (rx_frames + tx_frames) * FRAME_BYTES
        # Protocol 0 receives nothing: filter and rings are in place before bind() opens the tap.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._set_up(rx_frames, tx_frames)
            self.set_targets(targets)
            slots = self._map()
            self._socket.bind((interface, ETHERTYPE_NSH))
        except (OSError, ValueError):
            self._socket.close()
            raise
        cursors = np.zeros(CURSORS, dtype=np.int64)
        cursors[FD], cursors[RX_FRAMES], cursors[TX_FRAMES] = self.fileno(), rx_frames, tx_frames
        border = rx_frames * FRAME_BYTES
        self.ring = Ring(slots[:border], slots[border:], cursors)
        """For compiled code. After `close` its rings are empty and take nothing."""

    def fileno(self) -> int:
        """The descriptor, for polls."""
        return self._socket.fileno()

    def set_targets(self, targets: Iterable[tuple[int, int]]) -> None:
        """Receive frames for these (path, hop) from now on; frames already in the ring stay."""
        program = target_filter(targets)
        buffer = ctypes.create_string_buffer(program, len(program))
        option = _PROGRAM.pack(len(program) // _INSTRUCTION_BYTES, ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, option)

    def kernel_drops(self) -> int:
        """Frames that the kernel dropped so far because the receive ring was full."""
        # Reading the statistics resets them.
        raw = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size)
        self._kernel_drops += _STATISTICS.unpack(raw)[1]
        return self._kernel_drops

    def close(self) -> None:
        """Close the socket; arrays of the ring stay readable, as long as they are kept.

        Zeros take the place of the rings: the mapping alone would keep the socket receiving, and
        unmapped memory would crash who still looks at it.
        """
        if self.fileno() < 0:
            return
        self.ring.cursors[FD] = -1
        _mmap(self._address, self._bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED, -1)
        self._socket.close()

    def _set_up(self, rx_frames: int, tx_frames: int) -> None:
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, _SEND_BUFFER_BYTES)
        for option, value in (
            (PACKET_IGNORE_OUTGOING, 1),
            (_PACKET_VERSION, _TPACKET_V2),
            # A frame that cannot be sent is skipped, instead of stopping the ring for good.
            (_PACKET_LOSS, 1),
        ):
            self._socket.setsockopt(SOL_PACKET, option, value)
        for option, frames in ((_PACKET_RX_RING, rx_frames), (_PACKET_TX_RING, tx_frames)):
            blocks = frames // FRAMES_STEP
            request = _REQUEST.pack(_BLOCK_BYTES, blocks, FRAME_BYTES, frames)
            self._socket.setsockopt(SOL_PACKET, option, request)

    def _map(self) -> Bytes:
        self._address = _mmap(None, self._bytes, mmap.MAP_SHARED, self.fileno())
        memory = (ctypes.c_uint8 * self._bytes).from_address(self._address)
        # The arrays keep `memory` alive; when the last of them is gone, so is the mapping.
        weakref.finalize(memory, _libc.munmap, self._address, self._bytes)
        return np.frombuffer(memoryview(memory), dtype=np.uint8)


def _mmap(address: int | None, length: int, flags: int, descriptor: int) -> int:
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    mapped = _libc.mmap(address, length, protection, flags | _MAP_NORESERVE, descriptor, 0)
    if mapped is None or mapped == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "packet ring: mmap")
    return int(mapped)
