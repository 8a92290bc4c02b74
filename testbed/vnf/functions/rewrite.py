"""Endpoints of packets rewritten in place, with every checksum that covers them (RFC 3022 4.1)."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.checksums import (
    checksum,
    difference16,
    difference32,
    difference64,
    put_adjusted,
    put_be16,
    put_be32,
    put_be64,
    sum16,
)
from testbed.vnf.functions.packet import (
    ICMP,
    QUERY,
    REPLY,
    UDP,
    View,
    l4_checksum_at,
)
from testbed.vnf.state.arrays import Bytes

KEEP_PORT = -1
"""In place of a port: it stays."""


@compiled
def set_source(packet: Bytes, view: View, high: int, low: int, port: int) -> None:
    """Write another source address and, unless it is KEEP_PORT, another port or identifier."""
    difference = _put_address(packet, view, 0, view.source_high, view.source_low, high, low)
    _put_port(packet, view, 0, view.source_port, port, difference)


@compiled
def set_destination(packet: Bytes, view: View, high: int, low: int, port: int) -> None:
    """Write another destination address and, unless it is KEEP_PORT, port or identifier."""
    difference = _put_address(
        packet, view, 1, view.destination_high, view.destination_low, high, low
    )
    _put_port(packet, view, 2, view.destination_port, port, difference)


@compiled
def sum_icmp_anew(packet: Bytes, view: View) -> None:
    """Compute the checksum of an ICMP message whose quote was rewritten."""
    at = view.l4_at + 2
    initial = 0
    if view.version == 6:  # the pseudo-header (RFC 4443 2.3), with the addresses as they are now
        initial = sum16(packet, view.at + 8, view.at + 40, view.protocol + view.length - view.l4_at)
    put_be16(packet, at, 0)
    put_be16(packet, at, checksum(packet, view.l4_at, view.length, initial))


@compiled
def _put_address(
    packet: Bytes, view: View, place: int, old_high: int, old_low: int, high: int, low: int
) -> int:
    """Write the source (place 0) or destination (1); gives the difference for checksums."""
    if view.version == 4:
        difference = difference32(old_low, low)
        put_be32(packet, view.at + 12 + 4 * place, low)
        put_adjusted(packet, view.at + 10, difference, False)
        return difference
    put_be64(packet, view.at + 8 + 16 * place, high)
    put_be64(packet, view.at + 16 + 16 * place, low)
    return difference64(old_high, high) + difference64(old_low, low)


@compiled
def _put_port(
    packet: Bytes, view: View, offset: int, old: int, new: int, address_difference: int
) -> None:
    """Write a port at `offset`, or an ICMP identifier, and adjust the transport checksum."""
    # ICMP of IPv4 alone has no pseudo-header (RFC 792).
    difference = 0 if view.version == 4 and view.protocol == ICMP else address_difference
    if new != KEEP_PORT:
        if view.has_ports:
            put_be16(packet, view.l4_at + offset, new)
            difference += difference16(old, new)
        elif view.icmp_kind == QUERY or view.icmp_kind == REPLY:
            put_be16(packet, view.l4_at + 4, new)
            difference += difference16(old, new)
    at = l4_checksum_at(view)
    # A quoted packet may end before its checksum.
    if at >= 0 and at + 2 <= view.length and difference:
        put_adjusted(packet, at, difference, view.protocol == UDP)
