"""What an edge notes of the packets that pass, if its scenario asks for a trace."""

from __future__ import annotations

import struct
import time
from pathlib import Path

from testbed.records.traces import (
    ENTERED,
    HEAD_WORDS,
    MISSED,
    NOTE_BYTES,
    ROW_WORDS,
    ROWS,
    create_trace,
)
from testbed.vnf.dataplane.stamp import Stamp

HEADERS_BYTES = 28
"""An IPv4 header without options, and a UDP header: what comes after says which packet it is."""
_NOTE = struct.Struct(">4q")


class EdgeTrace:
    """Writes rows to a trace file with room for `rows`; raises OSError."""

    def __init__(self, path: Path | str, rows: int, name: str, node: int) -> None:
        about = {"kind": "edge", "name": name, "node": node}
        self._words = create_trace(path, rows, about).data
        self._room = rows

    def entered(self, stamp: Stamp, packet: bytes) -> None:
        """A packet gets on its way, with this stamp."""
        begin = packet[HEADERS_BYTES : HEADERS_BYTES + NOTE_BYTES].ljust(NOTE_BYTES, b"\0")
        self.note(ENTERED, stamp, _NOTE.unpack(begin))

    def note(self, kind: int, stamp: Stamp, note: tuple[int, ...] = (0, 0, 0, 0)) -> None:
        """Note a sight of a packet, now."""
        words = self._words
        count = words[ROWS]
        if count >= self._room:
            words[MISSED] += 1
            return
        row = (time.monotonic_ns(), kind, stamp.path, stamp.flow, stamp.epoch, stamp.seq, *note)
        at = HEAD_WORDS + count * ROW_WORDS
        for place, value in enumerate(row, at):
            words[place] = value
        words[ROWS] = count + 1
