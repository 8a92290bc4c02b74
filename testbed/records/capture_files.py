"""Reads the number of packets and drops of a capture from its pcapng file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_LITTLE = 0x1A2B3C4D
_RESOLUTION, _RECEIVED, _DROPPED = 9, 4, 5
"""Options: of an interface its clock's resolution, of its statistics the counters."""


def read_captures(folder: Path) -> list[dict[str, Any]]:
    """An entry for each pcapng file in `folder`, by name (see `describe`)."""
    return [describe(path) for path in sorted(folder.glob("*.pcapng"))]


def describe(path: Path) -> dict[str, Any]:
    """What a capture holds.

    file, bytes; packets, how many it holds; dropped, how many the kernel or the interface dropped
    (None if the capture was cut short); resolution_digits, 9 for nanoseconds; complete, whether
    it was ended in order. Format: draft-ietf-opsawg-pcapng.
    """
    packets, dropped, digits = 0, None, 6
    for kind, body in _blocks(path.read_bytes()):
        if kind == _PACKET:
            packets += 1
        elif kind == _INTERFACE:
            digits = dict(_options(body[8:])).get(_RESOLUTION, b"\6")[0]
        elif kind == _STATISTICS:
            counted = dict(_options(body[12:]))
            if _DROPPED in counted:
                dropped = (dropped or 0) + int.from_bytes(counted[_DROPPED], "little")
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "packets": packets,
        "dropped": dropped,
        "resolution_digits": digits,
        "complete": dropped is not None,
    }


def _blocks(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Whole blocks: type and body. A block that was cut short ends it."""
    at = 0
    while at + 12 <= len(content):
        kind, length = struct.unpack_from("<II", content, at)
        if kind == _SECTION and struct.unpack_from("<I", content, at + 8)[0] != _LITTLE:
            raise ValueError("a big-endian section: expected what dumpcap writes on this host")
        if length < 12 or at + length > len(content):
            return
        yield kind, content[at + 8 : at + length - 4]
        at += length


def _options(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(body):
        code, length = struct.unpack_from("<HH", body, at)
        if code == 0:
            return
        yield code, body[at + 4 : at + 4 + length]
        at += 4 + (length + 3) // 4 * 4
