"""Capture files in pcap and pcapng: frames with their time, link type and length. Pure.

draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng: both byte orders, micro- and nanoseconds, link
types with a frame check sequence, several sections and interfaces, resolution and offset of times.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from testbed.scenario.errors import DeftbedError

_NS_PER_S = 1_000_000_000
_PCAP = {
    b"\xa1\xb2\xc3\xd4": (">", 1000), b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1), b"\x4d\x3c\xb2\xa1": ("<", 1),
}  # fmt: skip
"""How a pcap file begins: byte order, and nanoseconds in the smaller unit of time."""
_SECTION, _INTERFACE, _PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_ORDERS = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_RESOLUTION, _FCS, _OFFSET, _FLAGS = 9, 13, 14, 2
"""Options of an interface, and the flags of an enhanced packet."""
MAX_FRAME_BYTES = 1 << 20


class CaptureError(DeftbedError):
    """What a capture should have and has not: `expected` says it in words."""

    exit_status = 2


class Frame(NamedTuple):
    """A captured frame without its check sequence; `wire_bytes` is what it had on the wire."""

    time_ns: int
    link_type: int
    content: bytes
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class _Interface:
    link_type: int
    fcs_bytes: int = 0
    ticks_per_s: int = 1_000_000
    offset_s: int = 0


@dataclass(slots=True)
class _Section:
    order: str
    interfaces: list[_Interface] = field(default_factory=list)


def frames(content: bytes) -> Iterator[Frame]:
    """The frames of a file in its order; raises CaptureError for what is none, or not whole."""
    if content[:4] in _PCAP:
        yield from _pcap(content, *_PCAP[content[:4]])
    elif content[:4] == _SECTION.to_bytes(4):
        yield from _pcapng(content)
    else:
        raise CaptureError("a capture in pcap or pcapng")


def _read(layout: str, content: bytes, at: int) -> tuple[int, ...]:
    """Numbers at a place of the file."""
    if at + struct.calcsize(layout) > len(content):
        raise CaptureError(f"a whole capture in pcap or pcapng: it is cut at byte {len(content)}")
    return struct.unpack_from(layout, content, at)


def _part(content: bytes, at: int, length: int) -> bytes:
    if at + length > len(content):
        raise CaptureError(f"a whole capture in pcap or pcapng: it is cut at byte {len(content)}")
    return content[at : at + length]


def _pcap(content: bytes, order: str, ns: int) -> Iterator[Frame]:
    (network,) = _read(order + "I", content, 20)
    # The upper bits: whether the length of the check sequence is given, and its length.
    fcs_bytes = 2 * (network >> 28) if network >> 26 & 1 else 0
    at = 24
    while at < len(content):
        seconds, parts, captured, wire_bytes = _read(order + "4I", content, at)
        frame = _part(content, at + 16, _checked(captured))
        time_ns = seconds * _NS_PER_S + parts * ns
        yield _frame(time_ns, network & 0xFFFF, frame, wire_bytes, fcs_bytes)
        at += 16 + captured


def _checked(captured: int) -> int:
    if captured > MAX_FRAME_BYTES:
        raise CaptureError(f"frames of at most {MAX_FRAME_BYTES} bytes")
    return captured


def _frame(time_ns: int, link_type: int, frame: bytes, wire_bytes: int, fcs_bytes: int) -> Frame:
    if fcs_bytes:
        wire_bytes = max(0, wire_bytes - fcs_bytes)
        frame = frame[:wire_bytes]
    return Frame(time_ns, link_type, frame, wire_bytes)


def _pcapng(content: bytes) -> Iterator[Frame]:
    section, at = _Section("<"), 0
    while at < len(content):
        kind = _read(section.order + "I", content, at)[0]
        if kind == _SECTION:
            magic = _part(content, at + 8, 4)
            if magic not in _ORDERS:
                raise CaptureError("a capture in pcapng with a byte order")
            section = _Section(_ORDERS[magic])
        (length,) = _read(section.order + "I", content, at + 4)
        if length < 12 or length % 4:
            raise CaptureError(f"a capture in pcapng whose blocks have a length (byte {at + 4})")
        body = _part(content, at, length)[8:-4]
        if kind == _INTERFACE:
            section.interfaces.append(_interface(section.order, body))
        elif kind == _SIMPLE:
            raise CaptureError("packets that have a time")
        elif kind in (_PACKET, _ENHANCED):
            yield _packet(section, kind, body)
        at += length


def _interface(order: str, body: bytes) -> _Interface:
    (link_type,) = _read(order + "H", body, 0)
    options = _options(order, body[8:])
    resolution = options.get(_RESOLUTION, b"\x06")[:1] or b"\x06"
    base, power = (2 if resolution[0] & 0x80 else 10), resolution[0] & 0x7F
    # The draft counts in bits, its own example and Wireshark in bytes.
    fcs = int.from_bytes(options.get(_FCS, b"")[:1])
    fcs_bytes = fcs if fcs <= 8 else fcs // 8
    offset = options.get(_OFFSET, b"").ljust(8, b"\0")[:8]
    (offset_s,) = struct.unpack(order + "q", offset)
    return _Interface(link_type, fcs_bytes, base**power, offset_s)


def _options(order: str, content: bytes) -> dict[int, bytes]:
    """The value of each option, the first of those that stand twice."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(content):
        code, length = struct.unpack_from(order + "HH", content, at)
        if code == 0:
            break
        found.setdefault(code, content[at + 4 : at + 4 + length])
        at += 4 + (length + 3) // 4 * 4
    return found


def _packet(section: _Section, kind: int, body: bytes) -> Frame:
    order = section.order
    number = _read(order + ("I" if kind == _ENHANCED else "H"), body, 0)[0]
    high, low, captured, wire_bytes = _read(order + "4I", body, 4)
    if number >= len(section.interfaces):
        raise CaptureError(f"packets of the interfaces that the capture names, not of {number}")
    interface = section.interfaces[number]
    frame = _part(body, 20, _checked(captured))
    fcs_bytes = interface.fcs_bytes
    flags = _options(order, body[20 + (captured + 3) // 4 * 4 :]).get(_FLAGS, b"")
    if len(flags) == 4:
        fcs_bytes = (struct.unpack(order + "I", flags)[0] >> 5 & 0xF) or fcs_bytes
    time_ns = (high << 32 | low) * _NS_PER_S // interface.ticks_per_s
    time_ns += interface.offset_s * _NS_PER_S
    return _frame(time_ns, interface.link_type, frame, wire_bytes, fcs_bytes)
