"""IPv4 headers as the functions need them, and checksums that follow a rewrite.

One's complement sums (RFC 1071) are taken as remainders modulo 0xFFFF: 2**16 = 1 there, so the
sum of any number of 16 bit words is the remainder of the whole byte string read as one integer.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

ICMP, TCP, UDP = 1, 6, 17
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})
"""ICMP types that quote the packet which caused them (RFC 792, RFC 1122 3.2.2)."""
ICMP_QUERIES = {8: 0, 13: 14}
"""Query type -> reply type; both carry an identifier at offset 4 (RFC 792, RFC 5508 3)."""
ICMP_REPLIES = {0: 8, 14: 13}

MALFORMED, UNSUPPORTED, FRAGMENT = "malformed", "unsupported", "fragment"

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_PORTS = struct.Struct("!HHHH")
_LEAST_L4_BYTES = {ICMP: 8, TCP: 20, UDP: 8}
_L4_CHECKSUM_AT = {ICMP: 2, TCP: 16, UDP: 6}


class Packet(NamedTuple):
    """An IPv4 packet taken apart; offsets are bytes from the start of `raw`.

    `raw` ends where the IP total length says (link padding is cut off). `key` is the directed
    flow: protocol, source, destination, and 4 bytes of ports, which are zero for protocols
    without ports and for fragments after the first. `payload_at` is the first byte after the
    TCP, UDP or ICMP header, or after the IP header for everything else.
    """

    raw: bytes
    l4_at: int
    payload_at: int
    tos: int
    protocol: int
    source: bytes
    destination: bytes
    key: bytes
    tcp_flags: int
    first: bool
    fragment: bool
    has_ports: bool

    @property
    def reverse_key(self) -> bytes:
        """The key of packets the other way."""
        return reverse_of(self.key)

    @property
    def icmp_type(self) -> int:
        """The ICMP type, or -1 for another protocol and for fragments after the first."""
        return self.raw[self.l4_at] if self.protocol == ICMP and self.first else -1


def parse(raw: bytes) -> Packet | str:
    """Take a packet apart, or say why not: "malformed" or "unsupported" (IPv6).

    Checks what RFC 1122 3.2.1 and RFC 1812 5.2.2 ask for (version, header length, total length,
    header checksum), the lengths in UDP (RFC 768) and TCP (RFC 9293 3.1) headers, and refuses
    fragments that split a transport header (RFC 1858 3, RFC 3128).
    """
    length = len(raw)
    if length < 20:
        return UNSUPPORTED if length and raw[0] >> 4 == 6 else MALFORMED
    first, tos, total, _, frag, _, protocol, _, source, destination = _IPV4.unpack_from(raw)
    if first >> 4 != 4:
        return UNSUPPORTED if first >> 4 == 6 and length >= 40 else MALFORMED
    l4_at = (first & 15) * 4
    if l4_at < 20 or total < l4_at or total > length:
        return MALFORMED
    if int.from_bytes(raw[:l4_at], "big") % 0xFFFF:
        return MALFORMED
    if total < length:
        raw = raw[:total]
    offset = frag & 0x1FFF
    key = raw[9:10] + raw[12:20]
    least = _LEAST_L4_BYTES.get(protocol)
    if offset or least is None:
        if (offset == 1 and protocol == TCP) or offset * 8 + total - l4_at > 0xFFFF:
            return MALFORMED
        return Packet(raw, l4_at, l4_at, tos, protocol, source, destination,
                      key + b"\0\0\0\0", 0, not offset, frag & 0x3FFF != 0, False)  # fmt: skip
    l4_bytes = total - l4_at
    if l4_bytes < least:
        return MALFORMED
    flags = 0
    header = 8
    if protocol == UDP:
        udp_bytes = _PORTS.unpack_from(raw, l4_at)[2]
        if udp_bytes < 8 or (udp_bytes > l4_bytes and not frag & 0x2000):
            return MALFORMED
    elif protocol == TCP:
        header = (raw[l4_at + 12] >> 4) * 4
        if header < 20 or header > l4_bytes:
            return MALFORMED
        flags = raw[l4_at + 13]
    ports = raw[l4_at : l4_at + 4] if protocol != ICMP else _icmp_ports(raw, l4_at)
    return Packet(raw, l4_at, l4_at + header, tos, protocol, source, destination,
                  key + ports, flags, True, frag & 0x2000 != 0, protocol != ICMP)  # fmt: skip


def _icmp_ports(raw: bytes, l4_at: int) -> bytes:
    """The identifier in both places, so that a query and its reply have keys that mirror."""
    kind = raw[l4_at]
    if kind in ICMP_QUERIES or kind in ICMP_REPLIES:
        identifier = raw[l4_at + 4 : l4_at + 6]
        return identifier + identifier
    return b"\0\0\0\0"


class Quoted(NamedTuple):
    """The start of the packet that an ICMP error quotes; offsets are in the outer packet."""

    at: int
    l4_at: int
    protocol: int
    source: bytes
    destination: bytes
    key: bytes
    l4_bytes: int


def parse_quoted(packet: Packet) -> Quoted | None:
    """What an ICMP error quotes, or None if that cannot name a flow.

    At least the IP header and 8 bytes are quoted (RFC 792). Dropped, by RFC 5508 REQ-3: an error
    whose own checksum is wrong, or whose quoted IP header's checksum is. Its transport checksum
    is not looked at (REQ-3 c). The quoted packet is mostly cut short, so lengths are not checked.
    """
    raw = packet.raw
    at = packet.l4_at + 8
    if packet.fragment or len(raw) < at + 28 or not checksum_ok(raw[packet.l4_at :]):
        return None
    l4_at = at + (raw[at] & 15) * 4
    if raw[at] >> 4 != 4 or l4_at < at + 20 or len(raw) < l4_at + 8:
        return None
    if not checksum_ok(raw[at:l4_at]) or int.from_bytes(raw[at + 6 : at + 8], "big") & 0x1FFF:
        return None
    protocol = raw[at + 9]
    if protocol == ICMP:
        # Errors about errors do not exist (RFC 1122 3.2.2): a query or a reply is quoted.
        if raw[l4_at] not in ICMP_QUERIES and raw[l4_at] not in ICMP_REPLIES:
            return None
        ports = _icmp_ports(raw, l4_at)
    elif protocol in (TCP, UDP):
        ports = raw[l4_at : l4_at + 4]
    else:
        ports = b"\0\0\0\0"
    key = raw[at + 9 : at + 10] + raw[at + 12 : at + 20] + ports
    return Quoted(at, l4_at, protocol, raw[at + 12 : at + 16], raw[at + 16 : at + 20], key,
                  len(raw) - l4_at)  # fmt: skip


def reverse_of(key: bytes) -> bytes:
    """The directed flow key of packets the other way."""
    return key[:1] + key[5:9] + key[1:5] + key[11:13] + key[9:11]


def checksum_ok(data: bytes) -> bool:
    """True if `data`, with its checksum in it, sums to minus zero (RFC 1071)."""
    return checksum(data) == 0


def checksum(data: bytes) -> int:
    """The checksum of `data`, in which the checksum field is 0 (RFC 1071)."""
    if len(data) & 1:
        data += b"\0"
    total = int.from_bytes(data, "big")
    return 0xFFFF ^ (total % 0xFFFF or (0xFFFF if total else 0))


def adjust(before: int, old: bytes, new: bytes) -> int:
    """The checksum after `old` became `new` (same even length): RFC 1624, equation 3.

    HC' = ~(~HC + ~m + m'), which, unlike RFC 1141's form, never gives 0xFFFF by mistake.
    """
    bits = 8 * len(old)
    total = (
        (before ^ 0xFFFF)
        + (int.from_bytes(old, "big") ^ ((1 << bits) - 1))
        + int.from_bytes(new, "big")
    )
    return 0xFFFF ^ (total % 0xFFFF or (0xFFFF if total else 0))


def put_adjusted(buffer: bytearray, at: int, old: bytes, new: bytes, udp: bool = False) -> None:
    """Adjust the checksum at `at` in place; a UDP checksum of 0 means none and stays (RFC 768)."""
    value = buffer[at] << 8 | buffer[at + 1]
    if udp and not value:
        return
    value = adjust(value, old, new)
    if udp and not value:
        value = 0xFFFF  # 0 would say that there is no checksum (RFC 768)
    buffer[at] = value >> 8
    buffer[at + 1] = value & 0xFF


def l4_checksum_at(protocol: int) -> int:
    """The offset of the checksum in a TCP, UDP or ICMP header."""
    return _L4_CHECKSUM_AT[protocol]


def with_tos(raw: bytes, tos: int) -> bytes:
    """The packet with another DSCP/ECN byte and the header checksum that goes with it."""
    buffer = bytearray(raw)
    buffer[1] = tos
    put_adjusted(buffer, 10, raw[:2], bytes(buffer[:2]))
    return bytes(buffer)
