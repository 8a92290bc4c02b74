"""How far a TCP session is, as a middlebox counts it for its timers (RFC 5382 REQ-5)."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.packet import FIN, RST, SYN

SYN_OUT, SYN_IN, FIN_OUT, FIN_IN, RESET = 1, 2, 4, 8, 16
"""Which SYNs, FINs and resets were seen; "out" is the direction of the opening side."""
OPENED = SYN_OUT | SYN_IN
FINISHED = FIN_OUT | FIN_IN


@compiled
def closing(bits: int) -> bool:
    """Whether both sides have finished, or one has reset the session (RFC 7857 2.2)."""
    return bool(bits & RESET) or bits & FINISHED == FINISHED


@compiled
def established(bits: int) -> bool:
    """Whether both sides have opened the session and it is not closing."""
    return bits & OPENED == OPENED and not closing(bits)


@compiled
def next_bits(bits: int, flags: int, inbound: int) -> int:
    """The bits after a segment with `flags`; a SYN after the end starts a new session."""
    if flags & SYN:
        if closing(bits):
            bits = 0
        bits |= SYN_IN if inbound else SYN_OUT
    if flags & FIN:
        bits |= FIN_IN if inbound else FIN_OUT
    return bits | RESET if flags & RST else bits
