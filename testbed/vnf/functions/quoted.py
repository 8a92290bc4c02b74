"""The packets that ICMP errors quote."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.checksums import be16, be32, be64, byte, fold, sum16
from testbed.vnf.functions.packet import (
    MALFORMED,
    OK,
    QUERY,
    REPLY,
    TCP,
    UDP,
    Transport,
    View,
    is_icmp,
    kind_of_icmp,
    no_transport,
    pseudo_sum,
    void_view,
    walk_extensions,
)
from testbed.vnf.state.arrays import Bytes


@compiled
def parse_quoted(packet: Bytes, view: View) -> View:
    """What the ICMP error in `view` quotes, or a view that is MALFORMED if that names no flow.

    IPv4: at least the IP header and 8 bytes are quoted (RFC 792). Refused, by RFC 5508 REQ-3: an
    error whose own checksum is wrong, or whose quoted IP header's checksum is. Its transport
    checksum is not looked at (REQ-3 c). The quoted packet is mostly cut short, so its lengths are
    not checked. IPv6 likewise, without a header checksum (RFC 4443 2.4 c). Errors about errors do
    not exist (RFC 1122 3.2.2, RFC 4443 2.4 e): of ICMP a query or a reply is quoted.
    """
    begin, end = view.l4_at + 8, view.length
    pseudo = pseudo_sum(view, end - view.l4_at) if view.version == 6 else 0
    if view.fragment or fold(sum16(packet, view.l4_at, end, pseudo)) != 0xFFFF:
        return void_view(MALFORMED)
    if end < begin + 20 or byte(packet, begin) >> 4 != view.version:
        return void_view(MALFORMED)
    if view.version == 4:
        return _quoted4(packet, begin, end)
    if end < begin + 40:
        return void_view(MALFORMED)
    return _quoted6(packet, begin, end)


@compiled
def _quoted4(packet: Bytes, begin: int, end: int) -> View:
    l4_at = begin + (byte(packet, begin) & 15) * 4
    if l4_at < begin + 20 or end < l4_at + 8:
        return void_view(MALFORMED)
    fragment = be16(packet, begin + 6)
    if fold(sum16(packet, begin, l4_at, 0)) != 0xFFFF or fragment & 0x1FFF:
        return void_view(MALFORMED)
    protocol = byte(packet, begin + 9)
    transport = _quoted_transport(packet, l4_at, protocol, 4)
    if transport.status:
        return void_view(MALFORMED)
    return View(OK, begin, 4, end, l4_at, l4_at + transport.header, byte(packet, begin + 1),
                protocol, transport.source_port, transport.destination_port, 0, 1,
                int(fragment & 0x2000 != 0), be16(packet, begin + 4),
                int(protocol in (TCP, UDP)), transport.icmp_type,
                transport.icmp_kind, 0, be32(packet, begin + 12), 0,
                be32(packet, begin + 16))  # fmt: skip


@compiled
def _quoted6(packet: Bytes, begin: int, end: int) -> View:
    chain = walk_extensions(packet, begin, end)
    if chain.status or chain.offset or end < chain.l4_at + 8:
        return void_view(MALFORMED)
    protocol = chain.protocol
    transport = _quoted_transport(packet, chain.l4_at, protocol, 6)
    if transport.status:
        return void_view(MALFORMED)
    cut = int(chain.fragment_at >= 0)
    return View(OK, begin, 6, end, chain.l4_at, chain.l4_at + transport.header,
                be16(packet, begin) >> 4 & 0xFF, protocol, transport.source_port,
                transport.destination_port, 0, 1, cut,
                be32(packet, chain.fragment_at + 4) if cut else 0,
                int(protocol in (TCP, UDP)), transport.icmp_type,
                transport.icmp_kind, be64(packet, begin + 8), be64(packet, begin + 16),
                be64(packet, begin + 24), be64(packet, begin + 32))  # fmt: skip


@compiled
def _quoted_transport(packet: Bytes, l4_at: int, protocol: int, version: int) -> Transport:
    """The first 8 bytes of a transport header."""
    if protocol in (TCP, UDP):
        return Transport(OK, 8, be16(packet, l4_at), be16(packet, l4_at + 2), 0, -1, 0)
    if not is_icmp(version, protocol):
        return no_transport(OK)
    icmp_type = byte(packet, l4_at)
    kind = kind_of_icmp(version, icmp_type)
    if kind != QUERY and kind != REPLY:
        return no_transport(MALFORMED)
    identifier = be16(packet, l4_at + 4)
    return Transport(OK, 8, identifier, identifier, 0, icmp_type, kind)
