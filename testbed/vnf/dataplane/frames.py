"""NSH frames in compiled code: the same frames as in `nsh`, whose text says what they are."""

from __future__ import annotations

from typing import NamedTuple

from testbed.compiled import compiled
from testbed.vnf.dataplane.nsh import (
    ETHERTYPE_NSH,
    HEADER_BYTES,
    IPV4_BYTES,
    IPV6_BYTES,
    METADATA_BYTES,
    METADATA_CLASS,
    METADATA_TYPE,
)
from testbed.vnf.functions.checksums import be16, be32, byte, put_be16, put_be32
from testbed.vnf.state.arrays import Bytes

FLOW_AT = 26
"""Where a frame says its flow."""
_BASE_HIGH = 0x0FC8
"""Version 0, TTL 63, length 8 words."""
_BASE_HIGH_MASK = 0xF03F
"""Without the TTL, which a switch that knows NSH would count down."""
_MD_TYPE_2 = 2
_IPV4, _IPV6 = 1, 2
_CONTEXT = METADATA_CLASS << 16 | METADATA_TYPE << 8 | METADATA_BYTES


class Head(NamedTuple):
    """The header of a frame; `sound` is 0 if it is not one that `write_head` writes."""

    sound: int
    path: int
    hop: int
    member: int
    flow: int
    bucket: int
    epoch: int
    seq: int


@compiled
def read_head(frame: Bytes, at: int, length: int) -> Head:
    """Take apart the header of the frame in `frame[at : at + length]`.

    The virtual MAC address must agree with the service path header, and what follows must begin
    like a packet of the protocol that the frame says.
    """
    bad = Head(0, 0, 0, 0, 0, 0, 0, 0)
    if length < HEADER_BYTES + IPV4_BYTES:
        return bad
    target = be32(frame, at + 1)
    version = byte(frame, at + HEADER_BYTES)
    next_protocol = byte(frame, at + 17)
    if next_protocol == _IPV4:
        fits = 0x45 <= version <= 0x4F
    else:
        fits = (
            next_protocol == _IPV6
            and 0x60 <= version <= 0x6F
            and length >= HEADER_BYTES + IPV6_BYTES
        )
    if (
        not fits
        or frame[at] != 2
        or be16(frame, at + 12) != ETHERTYPE_NSH
        or be16(frame, at + 14) & _BASE_HIGH_MASK != _BASE_HIGH & _BASE_HIGH_MASK
        or frame[at + 16] != _MD_TYPE_2
        # 255 - hop is hop with its bits turned over.
        or be32(frame, at + 18) != target ^ 0xFF
        or be32(frame, at + 22) != _CONTEXT
    ):
        return bad
    seq = be32(frame, at + 34) << 32 | be32(frame, at + 38)
    return Head(
        1,
        target >> 8,
        target & 0xFF,
        byte(frame, at + 5),
        be32(frame, at + FLOW_AT),
        be16(frame, at + 30),
        be16(frame, at + 32),
        seq,
    )


@compiled
def write_head(frame: Bytes, at: int, source_mac: int, head: Head, version: int) -> None:
    """Write the header of a frame from `head`; `version` is the first byte of the packet."""
    frame[at] = 2
    put_be32(frame, at + 1, head.path << 8 | head.hop)
    frame[at + 5] = head.member
    put_be16(frame, at + 6, source_mac >> 32)
    put_be32(frame, at + 8, source_mac & 0xFFFFFFFF)
    put_be16(frame, at + 12, ETHERTYPE_NSH)
    put_be16(frame, at + 14, _BASE_HIGH)
    frame[at + 16] = _MD_TYPE_2
    frame[at + 17] = _IPV6 if version >= 0x60 else _IPV4
    put_be32(frame, at + 18, head.path << 8 | (255 - head.hop))
    put_be32(frame, at + 22, _CONTEXT)
    put_be32(frame, at + FLOW_AT, head.flow)
    put_be16(frame, at + 30, head.bucket)
    put_be16(frame, at + 32, head.epoch)
    put_be32(frame, at + 34, head.seq >> 32)
    put_be32(frame, at + 38, head.seq & 0xFFFFFFFF)
    put_be32(frame, at + 42, 0)
