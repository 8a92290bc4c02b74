"""Frames between the hops of a chain: Ethernet, NSH (RFC 8300), an inner IPv4 or IPv6 packet.

    bytes   field
    0-13    Ethernet: destination = virtual MAC, source = sender's MAC, type 0x894F
    14-17   NSH base header: version 0, TTL 63, length 8 words, MD type 2, next protocol:
            1 (IPv4) or 2 (IPv6), as the version in the inner packet says
    18-21   service path identifier (24 bits, the top 4 the shard), service index (255 - hop)
    22-25   context header: class 0xFFF6 (experimental), type 1, length 20
    26-45   flow u32, bucket u16, epoch u16, seq u64, reserved u32 (all big-endian)
    46-     the inner packet

A probe has the O bit (RFC 8300: operations, administration, maintenance), a number in the place of
the flow, and an empty IPv4 header behind. It takes the way of the frames with the same address, and
no socket for frames of a path is shown it (see `socket`).

The TTL is not decremented: the switches forward by MAC address and do not parse NSH, and the
service index bounds the number of hops already.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from testbed.scenario.steering import FIRST_SERVICE_INDEX, path_mac
from testbed.vnf.dataplane.stamp import Stamp

ETHERTYPE_NSH = 0x894F
HEADER_BYTES = 46
IPV4_BYTES = 20
IPV6_BYTES = 40
METADATA_CLASS = 0xFFF6
METADATA_TYPE = 1
METADATA_BYTES = 20

OPERATIONS_AT, OPERATIONS_BIT = 14, 0x20
"""Where, and with which bit, a frame says that it is a probe."""

_WORDS = 8
_TTL = 63
_MD_TYPE_2 = 2
_NEXT_PROTOCOL_AT = 17
_IPV4, _IPV6 = 1, 2
_BASE = _TTL << 22 | _WORDS << 16 | _MD_TYPE_2 << 8 | _IPV4
_CONTEXT = METADATA_CLASS << 16 | METADATA_TYPE << 8 | METADATA_BYTES
# Everything of the base header but the TTL, which a switch that knows NSH would count down.
_BASE_MASK = 0xFFFFFFFF & ~(63 << 22)
_BASE_IPV4 = _BASE & _BASE_MASK
_BASE_IPV6 = _BASE_IPV4 ^ _IPV4 ^ _IPV6

_FRAME = struct.Struct("!BIB6xHIIIIHHQI")
_PREFIX = struct.Struct("!6s6sHIII")
_STAMP = struct.Struct("!IHHQI")
_PROBE_NUMBER = struct.Struct("!I")
_PROBE_NUMBER_AT = 26


class Frame(NamedTuple):
    """A decoded frame: for `hop` of `stamp.path`, sent by group member `member`."""

    hop: int
    member: int
    stamp: Stamp
    packet: bytes


def mac_bytes(mac: str) -> bytes:
    """The 6 bytes of a MAC address such as "02:00:00:00:00:01"; raises ValueError."""
    data = bytes.fromhex(mac.replace(":", ""))
    if len(data) != 6:
        raise ValueError(f"MAC address {mac!r}: expected 6 bytes in hexadecimal")
    return data


def header_prefix(path: int, hop: int, member: int, source_mac: bytes) -> bytes:
    """The 26 bytes that all frames of a sender for one hop of a path begin with.

    Raises ValueError outside the ranges of `path_mac`.
    """
    service = path << 8 | (FIRST_SERVICE_INDEX - hop)
    destination = mac_bytes(path_mac(path, hop, member))
    return _PREFIX.pack(destination, source_mac, ETHERTYPE_NSH, _BASE, service, _CONTEXT)


def encode(prefix: bytes, stamp: Stamp, packet: bytes) -> bytes:
    """A frame from `header_prefix`, the stamp (its path must be the prefix's) and the packet.

    The prefix says IPv4; for a packet that begins like IPv6 the frame says IPv6.
    """
    if packet[:1] >= b"\x60":
        prefix = prefix[:_NEXT_PROTOCOL_AT] + b"\2" + prefix[_NEXT_PROTOCOL_AT + 1 :]
    return prefix + _STAMP.pack(stamp.flow, stamp.bucket, stamp.epoch, stamp.seq, 0) + packet


def decode(frame: bytes) -> Frame | None:
    """Take a frame apart, or None if it is not one that `encode` writes.

    The virtual MAC address must agree with the service path header, and what follows must begin
    like a packet of the protocol that the frame says. The TTL and the reserved word may be
    anything.
    """
    if len(frame) < HEADER_BYTES + IPV4_BYTES:
        return None
    (local, target, member, ethertype, base, service, context,
     flow, bucket, epoch, seq, _) = _FRAME.unpack_from(frame)  # fmt: skip
    base &= _BASE_MASK
    if (
        # 255 - hop is hop with its bits turned over, in the lowest byte of both words.
        service != target ^ 0xFF
        or context != _CONTEXT
        or ethertype != ETHERTYPE_NSH
        or local != 2
        or not (
            0x45 <= frame[HEADER_BYTES] <= 0x4F
            if base == _BASE_IPV4
            else base == _BASE_IPV6
            and 0x60 <= frame[HEADER_BYTES] <= 0x6F
            and len(frame) >= HEADER_BYTES + IPV6_BYTES
        )
    ):
        return None
    stamp = Stamp(target >> 8, flow, bucket, epoch, seq)
    return Frame(target & 0xFF, member, stamp, frame[HEADER_BYTES:])


def probe(mac: str, source_mac: bytes, number: int) -> bytes:
    """A frame of the harness for the virtual MAC address `mac`; raises ValueError for another."""
    target = mac_bytes(mac)
    if target[0] != 2:
        raise ValueError(f"MAC address {mac!r}: expected one of a hop of a path")
    path, hop, member = int.from_bytes(target[1:4], "big"), target[4], target[5]
    frame = bytearray(header_prefix(path, hop, member, source_mac))
    frame[OPERATIONS_AT] |= OPERATIONS_BIT
    frame += _STAMP.pack(number, 0, 0, 0, 0)
    return bytes(frame) + b"\x45" + bytes(IPV4_BYTES - 1)


def read_probe(frame: bytes) -> tuple[str, int] | None:
    """The virtual MAC address and the number of a frame that `probe` wrote, None for another."""
    if len(frame) < HEADER_BYTES + IPV4_BYTES or not frame[OPERATIONS_AT] & OPERATIONS_BIT:
        return None
    (number,) = _PROBE_NUMBER.unpack_from(frame, _PROBE_NUMBER_AT)
    return frame[:6].hex(":"), number
