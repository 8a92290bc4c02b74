"""The payload of a test packet: its identity, its due time, and filler up to its size.

Big-endian: magic "DTB1", request u32, flow u32, seq u64, scheduled_ns i64, then what a replayed
packet held, then filler. Filler bytes are above 0x7f, so that no text signature of a function
matches by chance, and are the same for the same (request, flow, seq) in every run.
"""

from __future__ import annotations

import struct

import numpy as np

MAGIC = b"DTB1"
HEADER = struct.Struct("!4sIIQq")
IP_UDP_BYTES = 28
"""An IPv4 header without options, and a UDP header."""
MIN_L3_BYTES = IP_UDP_BYTES + HEADER.size
MAX_L3_BYTES = 1500

_BLOCK_BYTES = 1 << 16
_FLOW_STRIDE = 7919
_SEQ_STRIDE = 1543


class PayloadMaker:
    """Makes the UDP payloads of one request's packets of `l3_bytes` each.

    Raises ValueError if the header does not fit or the size is above `MAX_L3_BYTES`.
    """

    def __init__(self, request: int, l3_bytes: int) -> None:
        if not MIN_L3_BYTES <= l3_bytes <= MAX_L3_BYTES:
            raise ValueError(f"l3_bytes = {l3_bytes}: expected {MIN_L3_BYTES} to {MAX_L3_BYTES}")
        self._request = request
        self._filler_bytes = l3_bytes - MIN_L3_BYTES
        rng = np.random.default_rng(request)
        self._block = rng.integers(128, 256, _BLOCK_BYTES + MAX_L3_BYTES, np.uint8).tobytes()

    def make(
        self,
        flow: int,
        seq: int,
        scheduled_ns: int,
        l3_bytes: int | None = None,
        content: bytes = b"",
    ) -> bytes:
        """The payload of one packet: a size of its own if given, and content before the filler."""
        filler_bytes = self._filler_bytes if l3_bytes is None else l3_bytes - MIN_L3_BYTES
        filler_bytes -= len(content)
        at = (flow * _FLOW_STRIDE + seq * _SEQ_STRIDE) % _BLOCK_BYTES
        header = HEADER.pack(MAGIC, self._request, flow, seq, scheduled_ns)
        return header + content + self._block[at : at + filler_bytes]


def parse(payload: bytes | bytearray | memoryview) -> tuple[int, int, int, int] | None:
    """(request, flow, seq, scheduled_ns) of a payload, or None if it is not one of ours."""
    if len(payload) < HEADER.size:
        return None
    magic, request, flow, seq, scheduled_ns = HEADER.unpack_from(payload)
    return (request, flow, seq, scheduled_ns) if magic == MAGIC else None
