"""TCP connections as a firewall between the two ends sees them (RFC 9293 3.3.2).

"Forward" is the side that opened the connection.
"""

from __future__ import annotations

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.functions.packet import ACK, FIN, RST, SYN
from testbed.vnf.state.arrays import Array

SYN_SENT, SYN_RECEIVED, ESTABLISHED, FIN_FORWARD, FIN_REVERSE, FIN_BOTH, CLOSED = range(1, 8)
ASKED = 8
"""The first number free for pseudo-states of other protocols."""

_SIGNIFICANT = SYN | ACK | FIN | RST
"""PSH, URG, ECE and CWR do not matter here."""

_KINDS = {
    SYN: "syn",
    SYN | ACK: "syn-ack",
    ACK: "ack",
    FIN | ACK: "fin",
}
"""Flag combinations that make sense, besides resets."""

_FORWARD = {
    (SYN_SENT, "syn"): SYN_SENT,
    (SYN_RECEIVED, "syn"): SYN_RECEIVED,
    (SYN_RECEIVED, "ack"): ESTABLISHED,
    (SYN_RECEIVED, "fin"): FIN_FORWARD,
    (ESTABLISHED, "ack"): ESTABLISHED,
    (ESTABLISHED, "fin"): FIN_FORWARD,
    (FIN_FORWARD, "ack"): FIN_FORWARD,
    (FIN_FORWARD, "fin"): FIN_FORWARD,
    (FIN_REVERSE, "ack"): FIN_REVERSE,
    (FIN_REVERSE, "fin"): FIN_BOTH,
    (FIN_BOTH, "ack"): FIN_BOTH,
    (FIN_BOTH, "fin"): FIN_BOTH,
    (FIN_BOTH, "syn"): SYN_SENT,
    (CLOSED, "syn"): SYN_SENT,
}
_REVERSE = {
    (SYN_SENT, "syn-ack"): SYN_RECEIVED,
    (SYN_RECEIVED, "syn-ack"): SYN_RECEIVED,
    # Data before the handshake's last step: TCP Fast Open (RFC 7413 2).
    (SYN_RECEIVED, "ack"): SYN_RECEIVED,
    (SYN_RECEIVED, "fin"): FIN_REVERSE,
    # The last step of the handshake was lost behind this firewall (RFC 9293 3.5).
    (ESTABLISHED, "syn-ack"): ESTABLISHED,
    (ESTABLISHED, "ack"): ESTABLISHED,
    (ESTABLISHED, "fin"): FIN_REVERSE,
    (FIN_FORWARD, "ack"): FIN_FORWARD,
    (FIN_FORWARD, "fin"): FIN_BOTH,
    (FIN_REVERSE, "ack"): FIN_REVERSE,
    (FIN_REVERSE, "fin"): FIN_REVERSE,
    (FIN_BOTH, "ack"): FIN_BOTH,
    (FIN_BOTH, "fin"): FIN_BOTH,
}


def _transitions() -> Array:
    """[reverse, state, significant flags]: the next state, 0 where the packet does not fit."""
    table = np.zeros((2, ASKED, _SIGNIFICANT + 1), np.int64)
    table[:, 1:, [RST, RST | ACK]] = CLOSED
    for side, following in enumerate((_FORWARD, _REVERSE)):
        for flags, kind in _KINDS.items():
            for state in range(1, ASKED):
                table[side, state, flags] = following.get((state, kind), 0)
    return table


_TRANSITIONS = _transitions()


@compiled
def is_opening(flags: int) -> bool:
    """True for the packet that opens a connection: SYN without ACK, FIN or RST."""
    return flags & _SIGNIFICANT == SYN


@compiled(forceinline=True)
def next_state(state: int, flags: int, reverse: int) -> int:
    """The state after a packet with `flags` from one side; 0 if it does not fit."""
    if state < SYN_SENT or state > CLOSED:
        return 0
    return int(_TRANSITIONS[1 if reverse else 0, state, flags & _SIGNIFICANT])
