"""Which flow an IP packet belongs to. Pure; nothing here raises, whatever the bytes.

A directed flow is named by its key: protocol, source, destination, source port, destination port.
That is 13 bytes for IPv4 and 37 for IPv6. ICMP queries and replies have their identifier in place
of both ports, so that a query's key and its reply's mirror each other.

IPv6 extension headers that a host may put before its transport header are walked, at most
`MAX_EXTENSIONS` of them (RFC 8200 4.1 has each once, destination options twice). A routing header
changes nothing: the flow is that of the addresses in the IPv6 header.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
MAX_EXTENSIONS = 8

Refusal: TypeAlias = Literal["malformed", "unclassified", "fragments"]
"""Why a packet has no flow: cut short or no IP; without ports or path; no first fragment known."""

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION_OPTIONS = 0, 43, 44, 60
_EXTENSIONS = frozenset((_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION_OPTIONS))
_IPV4_ADDRESSES, _IPV6_ADDRESSES = 8, 32
_LEAST_TRANSPORT_BYTES = 8
"""UDP and ICMP headers; also what an ICMP error quotes of TCP at least (RFC 792)."""

# By the protocol and the bytes of both addresses: ICMP types with an identifier, and those that
# quote the packet which caused them (RFC 792, RFC 1122 3.2.2; RFC 4443).
_WITH_IDENTIFIER = {
    (ICMP, _IPV4_ADDRESSES): frozenset((0, 8, 13, 14)),
    (ICMPV6, _IPV6_ADDRESSES): frozenset((128, 129)),
}
_ERRORS = {
    (ICMP, _IPV4_ADDRESSES): frozenset((3, 4, 5, 11, 12)),
    (ICMPV6, _IPV6_ADDRESSES): frozenset((1, 2, 3, 4)),
}


class Datagram(NamedTuple):
    """An IP packet as far as its flow needs it.

    addresses   source and destination, 8 or 32 bytes
    l4_at       where the transport header begins, or in a later fragment the data
    offset      of a fragment, in units of 8 bytes; 0 as well in a whole packet
    more        more fragments follow
    name        what all fragments of one datagram share (RFC 791: protocol, addresses and
                identification; RFC 8200 4.5: addresses and identification); b"" if whole
    """

    protocol: int
    addresses: bytes
    l4_at: int
    offset: int
    more: bool
    name: bytes


def flow_key(packet: bytes) -> bytes | None:
    """The directed flow of a whole packet, or None: malformed, a fragment, or without ports."""
    size = len(packet)
    if size < 28:
        return None
    first = packet[0]
    if first == 0x45:  # nearly all packets end here, or in the next branch
        if packet[6] & 0x3F or packet[7]:  # more fragments, or an offset
            return None
        if packet[9] == UDP or packet[9] == TCP:
            return packet[9:10] + packet[12:24]
    elif first >> 4 == 6 and size >= 48 and (packet[6] == UDP or packet[6] == TCP):
        return packet[6:7] + packet[8:44]
    datagram = take_apart(packet)
    if datagram is None or datagram.offset or datagram.more:
        return None
    key = transport_key(packet, datagram)
    return key if isinstance(key, bytes) else None


def reversed_key(key: bytes) -> bytes:
    """The flow of the packets the other way."""
    if len(key) == 13:
        return key[:1] + key[5:9] + key[1:5] + key[11:13] + key[9:11]
    return key[:1] + key[17:33] + key[1:17] + key[35:37] + key[33:35]


def destination_of(key: bytes) -> bytes:
    """The destination address of a flow, 4 or 16 bytes."""
    return key[5:9] if len(key) == 13 else key[17:33]


def take_apart(packet: bytes) -> Datagram | None:
    """The headers of an IP packet down to the transport header; None if it is malformed."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return _ipv4(packet)
    return _ipv6(packet) if version == 6 else None


def transport_key(packet: bytes, datagram: Datagram) -> bytes | Refusal:
    """The key of a packet whose transport header is there (`offset` is 0), or why it has none."""
    protocol, at = datagram.protocol, datagram.l4_at
    if protocol in (UDP, TCP):
        ports = packet[at : at + 4]
    else:
        types = _WITH_IDENTIFIER.get((protocol, len(datagram.addresses)))
        if types is None or (at < len(packet) and packet[at] not in types):
            return "unclassified"
        ports = packet[at + 4 : at + 6] * 2
    if len(packet) < at + _LEAST_TRANSPORT_BYTES:
        return "malformed"
    return protocol.to_bytes(1, "big") + datagram.addresses + ports


def is_icmp_error(packet: bytes, datagram: Datagram) -> bool:
    """True for an ICMP message that quotes a packet; only its first fragment can tell."""
    types = _ERRORS.get((datagram.protocol, len(datagram.addresses)))
    at = datagram.l4_at
    return types is not None and not datagram.offset and at < len(packet) and packet[at] in types


def error_key(packet: bytes, error: Datagram) -> bytes | Refusal:
    """The flow that an ICMP error travels in: that of the packets opposite to the quoted one.

    An error that is not sent to the source of what it quotes belongs to no flow (RFC 1122 3.2.2).
    """
    quoted = packet[error.l4_at + 8 :]
    datagram = take_apart(quoted)
    if datagram is None:
        return "malformed"
    source = datagram.addresses[: len(datagram.addresses) // 2]
    if datagram.offset or source != error.addresses[len(error.addresses) // 2 :]:
        return "unclassified"
    key = transport_key(quoted, datagram)
    return reversed_key(key) if isinstance(key, bytes) else key


def _ipv4(packet: bytes) -> Datagram | None:
    l4_at = (packet[0] & 15) * 4
    if l4_at < 20 or len(packet) < l4_at:
        return None
    addresses = packet[12:20]
    word = packet[6] << 8 | packet[7]
    fragment = word & 0x3FFF
    name = packet[9:10] + addresses + packet[4:6] if fragment else b""
    return Datagram(packet[9], addresses, l4_at, word & 0x1FFF, word & 0x2000 != 0, name)


def _ipv6(packet: bytes) -> Datagram | None:
    if len(packet) < 40:
        return None
    protocol, at, addresses = packet[6], 40, packet[8:40]
    more, name = False, b""
    for _ in range(MAX_EXTENSIONS + 1):
        if protocol not in _EXTENSIONS:
            return Datagram(protocol, addresses, at, 0, more, name)
        if len(packet) < at + 8:
            return None
        following, size = packet[at], 8
        if protocol == _FRAGMENT:
            if name:
                return None  # a fragment of a fragment
            word = packet[at + 2] << 8 | packet[at + 3]
            more, name = word & 1 != 0, addresses + packet[at + 4 : at + 8]
            if word >> 3:
                return Datagram(following, addresses, at + 8, word >> 3, more, name)
        else:
            size += packet[at + 1] * 8
        protocol, at = following, at + size
    return None
