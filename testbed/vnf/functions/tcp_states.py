"""TCP connections as a firewall between the two ends sees them (RFC 9293 3.3.2).

"Forward" is the side that opened the connection.
"""

from __future__ import annotations

from testbed.vnf.functions.packet import ACK, FIN, RST, SYN

SYN_SENT, SYN_RECEIVED, ESTABLISHED, FIN_FORWARD, FIN_REVERSE, FIN_BOTH, CLOSED = range(1, 8)
ASKED = 8
"""The first number free for pseudo-states of other protocols."""

_KINDS = {
    SYN: "syn",
    SYN | ACK: "syn-ack",
    ACK: "ack",
    FIN | ACK: "fin",
    RST: "rst",
    RST | ACK: "rst",
}
"""Flag combinations that make sense; PSH, URG, ECE and CWR do not matter here."""

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


def is_opening(flags: int) -> bool:
    """True for the packet that opens a connection: SYN without ACK, FIN or RST."""
    return flags & (SYN | ACK | FIN | RST) == SYN


def next_state(state: int, flags: int, reverse: bool) -> int:
    """The state after a packet with `flags` from one side; 0 if it does not fit."""
    kind = _KINDS.get(flags & (SYN | ACK | FIN | RST))
    if kind is None:
        return 0
    if kind == "rst":
        return CLOSED
    return (_REVERSE if reverse else _FORWARD).get((state, kind), 0)
