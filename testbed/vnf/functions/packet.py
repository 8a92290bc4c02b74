"""Raw IPv4 and IPv6 packets, taken apart without allocation.

`parse` gives a `View`: a tuple of integers, which compiled code keeps in registers. Offsets are
bytes from the start of the buffer. Every read is behind a look at the length.
"""

from __future__ import annotations

from typing import NamedTuple

from testbed.compiled import compiled
from testbed.vnf.functions.checksums import (
    adjust16,
    be16,
    be32,
    be64,
    byte,
    fold,
    put_be16,
    sum16,
    sum_of_word,
)
from testbed.vnf.state.arrays import Bytes
from testbed.vnf.state.records import Key

ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

OK, MALFORMED, UNSUPPORTED, FRAGMENT = 0, 1, 2, 3
REASONS = ("", "malformed", "unsupported", "fragment")
"""Names of the codes above: a function's own reasons for drops follow them, from
`len(REASONS)` on, so that `View.status` is a reason as it is."""

NO_KIND, QUERY, REPLY, ERROR = 0, 1, 2, 3
"""Kinds of ICMP messages: queries and replies have an identifier at offset 4 (echo and, in IPv4,
timestamp: RFC 792, RFC 4443), errors quote the packet that caused them (RFC 1122 3.2.2,
RFC 4443 2.1). Whatever else there is has no kind."""

MAX_EXTENSIONS = 8
"""IPv6 extension headers that are walked; a longer chain is unsupported."""

_HOP_BY_HOP, _ROUTING, _FRAGMENT_HEADER, _DESTINATION = 0, 43, 44, 60
_EXTENSIONS = (_HOP_BY_HOP, _ROUTING, _FRAGMENT_HEADER, _DESTINATION)


class View(NamedTuple):
    """A packet taken apart; if `status` is not OK, it says why not and the rest is void.

    at            where the IP header begins: 0 but for quoted packets
    length        where the packet ends; link padding lies beyond. A quoted packet that was cut
                  short ends where the quote does
    l4_at         the transport header, or whatever follows the IP headers
    payload_at    what follows a TCP, UDP or ICMP header; l4_at for everything else
    tos           traffic class
    protocol      of the transport header. A later fragment of IPv6: the next header that its
                  fragment header names, which may be an extension header
    source_port, destination_port
                  for ICMP queries and replies the identifier, in both; else 0
    first         1 unless this is a fragment after the first
    fragment      1 if this is a fragment of a packet that was cut up
    fragment_id   the identification that fragments of one packet share
    has_ports     1 for TCP and UDP, but for fragments after the first
    icmp_type     -1 for other protocols and for fragments after the first
    icmp_kind     NO_KIND, QUERY, REPLY or ERROR
    source_high ... destination_low
                  addresses as signed words; IPv4 addresses in the low word, the high one 0
    """

    status: int
    at: int
    version: int
    length: int
    l4_at: int
    payload_at: int
    tos: int
    protocol: int
    source_port: int
    destination_port: int
    tcp_flags: int
    first: int
    fragment: int
    fragment_id: int
    has_ports: int
    icmp_type: int
    icmp_kind: int
    source_high: int
    source_low: int
    destination_high: int
    destination_low: int


class Transport(NamedTuple):
    """What a transport header says; `header` is its length, 0 if it is opaque."""

    status: int
    header: int
    source_port: int
    destination_port: int
    tcp_flags: int
    icmp_type: int
    icmp_kind: int


class Chain(NamedTuple):
    """Where the extension headers of an IPv6 packet end; `fragment_at` is -1 without fragments."""

    status: int
    l4_at: int
    protocol: int
    fragment_at: int
    offset: int
    more: int


@compiled(forceinline=True)
def void_view(status: int) -> View:
    """What `parse` gives for a packet that it refuses."""
    return View(status, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@compiled(forceinline=True)
def parse(packet: Bytes, length: int) -> View:
    """Take the packet in `packet[:length]` apart, or say why not: MALFORMED or UNSUPPORTED.

    IPv4: what RFC 1122 3.2.1 and RFC 1812 5.2.2 ask for (version, header length, total length,
    header checksum). IPv6: payload length, order and lengths of the extension headers, fragments
    (RFC 8200). Both: the lengths in UDP (RFC 768) and TCP (RFC 9293 3.1) headers, and no fragments
    that split a transport header (RFC 1858 3, RFC 3128, RFC 7112 5).
    """
    if length < 20:
        return void_view(MALFORMED)
    version = byte(packet, 0) >> 4
    if version == 4:
        return _parse4(packet, length)
    if version == 6 and length >= 40:
        return _parse6(packet, length)
    return void_view(MALFORMED)


@compiled(forceinline=True)
def _parse4(packet: Bytes, length: int) -> View:
    l4_at = (byte(packet, 0) & 15) * 4
    total = be16(packet, 2)
    if l4_at < 20 or total < l4_at or total > length:
        return void_view(MALFORMED)
    if fold(_header_sum(packet, l4_at)) != 0xFFFF:
        return void_view(MALFORMED)
    fragment = be16(packet, 6)
    offset = fragment & 0x1FFF
    more = fragment >> 13 & 1
    protocol = byte(packet, 9)
    first = int(offset == 0)
    if offset:
        if (offset == 1 and protocol == TCP) or offset * 8 + total - l4_at > 0xFFFF:
            return void_view(MALFORMED)
        transport = no_transport(OK)
    else:
        transport = _transport(packet, l4_at, total, protocol, 4, more)
    if transport.status:
        return void_view(transport.status)
    ported = first & int(protocol in (TCP, UDP))
    return View(OK, 0, 4, total, l4_at, l4_at + transport.header, byte(packet, 1), protocol,
                transport.source_port, transport.destination_port, transport.tcp_flags, first,
                int(fragment & 0x3FFF != 0), be16(packet, 4), ported, transport.icmp_type,
                transport.icmp_kind, 0, be32(packet, 12), 0, be32(packet, 16))  # fmt: skip


@compiled
def _header_sum(packet: Bytes, end: int) -> int:
    total = sum_of_word(be64(packet, 0)) + sum_of_word(be64(packet, 8)) + be16(packet, 16)
    return sum16(packet, 20, end, total + be16(packet, 18))


@compiled
def _parse6(packet: Bytes, length: int) -> View:
    total = 40 + be16(packet, 4)
    if total > length:
        return void_view(MALFORMED)
    chain = walk_extensions(packet, 0, total)
    if chain.status:
        return void_view(chain.status)
    first = int(chain.offset == 0)
    protocol = chain.protocol
    if first:
        transport = _transport(packet, chain.l4_at, total, protocol, 6, chain.more)
    else:
        split = chain.offset == 1 and protocol == TCP
        transport = no_transport(MALFORMED if split else OK)
    if transport.status:
        return void_view(transport.status)
    cut = int(chain.fragment_at >= 0)
    ported = first & int(protocol in (TCP, UDP))
    return View(OK, 0, 6, total, chain.l4_at, chain.l4_at + transport.header,
                be16(packet, 0) >> 4 & 0xFF, protocol, transport.source_port,
                transport.destination_port, transport.tcp_flags, first, cut,
                be32(packet, chain.fragment_at + 4) if cut else 0, ported, transport.icmp_type,
                transport.icmp_kind, be64(packet, 8), be64(packet, 16), be64(packet, 24),
                be64(packet, 32))  # fmt: skip


@compiled
def _stopped(status: int) -> Chain:
    return Chain(status, 0, 0, -1, 0, 0)


@compiled
def walk_extensions(packet: Bytes, begin: int, end: int) -> Chain:
    """Walk the extension headers (RFC 8200 4) of the IPv6 packet in `packet[begin:end]`.

    Unknown next headers, encryption among them, are opaque transports. A routing header with
    segments left is unsupported: the packet's addresses are not yet those of its ends (RFC 8200
    4.4, 8.1; deprecated for type 0 by RFC 5095). A fragment header on a whole packet ("atomic")
    is walked like any other header (RFC 8200 4.5). Jumbograms (RFC 2675) are unsupported.
    """
    protocol = byte(packet, begin + 6)
    at = begin + 40
    fragment_at, more, seen = -1, 0, 0
    if protocol == _HOP_BY_HOP and be16(packet, begin + 4) == 0:
        return _stopped(UNSUPPORTED)
    for header in range(MAX_EXTENSIONS + 1):
        if protocol not in _EXTENSIONS:
            return Chain(OK, at, protocol, fragment_at, 0, more)
        if at + 8 > end or (protocol == _HOP_BY_HOP and header > 0):
            return _stopped(MALFORMED)
        following = byte(packet, at)
        if protocol == _FRAGMENT_HEADER:
            fields = be16(packet, at + 2)
            offset, more = fields >> 3, fields & 1
            rest = begin + 40 + be16(packet, begin + 4) - at - 8
            over = at - begin - 40 + offset * 8 + rest > 0xFFFF
            if seen or over or (more and rest & 7):
                return _stopped(MALFORMED)
            seen = 1
            if offset or more:
                fragment_at = at
            at += 8
            if offset:
                return Chain(OK, at, following, fragment_at, offset, more)
        else:
            if protocol == _ROUTING and packet[at + 3] != 0:
                return _stopped(UNSUPPORTED)
            at += 8 + 8 * byte(packet, at + 1)
            if at > end:
                return _stopped(MALFORMED)
        protocol = following
    return _stopped(UNSUPPORTED)


@compiled(forceinline=True)
def no_transport(status: int) -> Transport:
    """An opaque transport header, or one that is not there."""
    return Transport(status, 0, 0, 0, 0, -1, 0)


@compiled(forceinline=True)
def _transport(
    packet: Bytes, l4_at: int, end: int, protocol: int, version: int, more: int
) -> Transport:
    """The transport header of a whole packet or a first fragment (`more` follow)."""
    l4_bytes = end - l4_at
    if protocol == UDP:
        if l4_bytes < 8:
            return no_transport(MALFORMED)
        udp_bytes = be16(packet, l4_at + 4)
        if udp_bytes < 8 or (udp_bytes > l4_bytes and more == 0):
            return no_transport(MALFORMED)
        # No checksum is an error in IPv6 (RFC 8200 8.1).
        if version == 6 and be16(packet, l4_at + 6) == 0:
            return no_transport(MALFORMED)
        return Transport(OK, 8, be16(packet, l4_at), be16(packet, l4_at + 2), 0, -1, 0)
    if protocol == TCP:
        if l4_bytes < 20:
            return no_transport(MALFORMED)
        header = (byte(packet, l4_at + 12) >> 4) * 4
        if header < 20 or header > l4_bytes:
            return no_transport(MALFORMED)
        flags = byte(packet, l4_at + 13)
        return Transport(OK, header, be16(packet, l4_at), be16(packet, l4_at + 2), flags, -1, 0)
    if is_icmp(version, protocol):
        if l4_bytes < 8:
            return no_transport(MALFORMED)
        icmp_type = byte(packet, l4_at)
        kind = kind_of_icmp(version, icmp_type)
        identifier = be16(packet, l4_at + 4) if kind in (QUERY, REPLY) else 0
        return Transport(OK, 8, identifier, identifier, 0, icmp_type, kind)
    return no_transport(OK)


@compiled(forceinline=True)
def is_icmp(version: int, protocol: int) -> bool:
    """Whether this is the ICMP of that version."""
    return protocol == (ICMP if version == 4 else ICMP6)


@compiled
def kind_of_icmp(version: int, icmp_type: int) -> int:
    """NO_KIND, QUERY, REPLY or ERROR."""
    if version == 4:
        if icmp_type == 8 or icmp_type == 13:
            return QUERY
        if icmp_type == 0 or icmp_type == 14:
            return REPLY
        error = 3 <= icmp_type <= 5 or icmp_type == 11 or icmp_type == 12
    else:
        if icmp_type == 128:
            return QUERY
        if icmp_type == 129:
            return REPLY
        error = 1 <= icmp_type <= 4
    return ERROR if error else NO_KIND


@compiled(forceinline=True)
def flow_key(view: View, tag: int) -> Key:
    """The directed flow; of two words for IPv4.

    Word 0: the tag, then bits 48-55 the version, 32-39 the protocol, 16-31 and 0-15 the ports of
    source and destination. Then the addresses.
    """
    head = _head(view, tag, view.source_port, view.destination_port)
    if view.version == 4:
        zero = head & 0
        return head, view.source_low << 32 | view.destination_low, zero, zero, zero
    return head, view.source_high, view.source_low, view.destination_high, view.destination_low


@compiled(forceinline=True)
def reverse_key(view: View, tag: int) -> Key:
    """The `flow_key` of packets the other way."""
    head = _head(view, tag, view.destination_port, view.source_port)
    if view.version == 4:
        zero = head & 0
        return head, view.destination_low << 32 | view.source_low, zero, zero, zero
    return head, view.destination_high, view.destination_low, view.source_high, view.source_low


@compiled(forceinline=True)
def _head(view: View, tag: int, source_port: int, destination_port: int) -> int:
    return (
        tag << 56
        | view.version << 48
        | view.protocol << 32
        | source_port << 16
        | (destination_port)
    )


@compiled
def fragment_key(view: View, tag: int) -> Key:
    """What the fragments of one packet share: addresses, identification, in IPv4 the protocol.

    RFC 791 3.2, RFC 8200 4.5. Identification stands where `flow_key` has the ports.
    """
    head = tag << 56 | view.version << 48 | view.fragment_id
    if view.version == 4:
        zero = head & 0
        addresses = view.source_low << 32 | view.destination_low
        return head | view.protocol << 32, addresses, zero, zero, zero
    return head, view.source_high, view.source_low, view.destination_high, view.destination_low


@compiled
def pseudo_sum(view: View, l4_bytes: int) -> int:
    """The sum of a pseudo-header (RFC 768, RFC 9293 3.1, RFC 8200 8.1), for `checksum`."""
    return (
        sum_of_word(view.source_high)
        + sum_of_word(view.source_low)
        + sum_of_word(view.destination_high)
        + sum_of_word(view.destination_low)
        + view.protocol
        + l4_bytes
    )


@compiled
def l4_checksum_at(view: View) -> int:
    """Where the transport header's checksum lies, or -1 if there is none that is known.

    It may lie beyond a quoted packet's end.
    """
    if view.first == 0:
        return -1
    if view.protocol == TCP:
        return view.l4_at + 16
    if view.protocol == UDP:
        return view.l4_at + 6
    return view.l4_at + 2 if is_icmp(view.version, view.protocol) else -1


@compiled
def set_tos(packet: Bytes, view: View, tos: int) -> None:
    """Write another traffic class, and the IPv4 header checksum that goes with it."""
    old = be16(packet, view.at)
    if view.version == 4:
        put_be16(packet, view.at, old & 0xFF00 | tos)
        at = view.at + 10
        put_be16(packet, at, adjust16(be16(packet, at), old, old & 0xFF00 | tos))
    else:
        put_be16(packet, view.at, old & 0xF00F | tos << 4)
