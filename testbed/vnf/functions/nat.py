"""Network address and port translation behind one public IPv4 address; IPv6 prefix translation.

Behaviour follows RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP):

- Mapping is endpoint-independent (RFC 4787 REQ-1, RFC 5382 REQ-1); the pool has one address, so
  pooling is trivially "paired" (REQ-2). For the assignment of ports see `nat_pool`.
- Filtering is `filtering`: "address-dependent" (the default), "endpoint-independent" or
  "address-and-port-dependent" (RFC 4787 REQ-8, RFC 5382 REQ-3).
- Timers: UDP no less than 2 minutes, 5 recommended (RFC 4787 REQ-5); TCP no less than 2 h 4 min
  once established, no less than 4 min while opening or closing (RFC 5382 REQ-5), and a reset leaves
  it closing (RFC 7857 2.2); ICMP queries no less than 60 s (RFC 5508 REQ-2). Outbound packets
  refresh a UDP or ICMP mapping, inbound ones do not (RFC 4787 REQ-6); both refresh a TCP session.
- ICMP queries are translated by identifier (RFC 5508 REQ-1), ICMP errors together with the packet
  that they quote, without touching the mapping (REQ-4, REQ-5, REQ-6).
- The forward direction rewrites the source, the reverse direction the destination.

Departures: all fragments of IPv4 are dropped as "fragment" (RFC 4787 REQ-14 asks for translation;
only packets over the inner MTU are fragmented here), and a packet to the NAT's own public address
is dropped as "hairpin" (RFC 4787 REQ-9: a chain has no way back from its middle). The NAT never
answers an inbound SYN (RFC 5382 REQ-4 holds). Protocols other than these are "unsupported". A new
session that finds no room among `max_sessions` is dropped as "table-full".

IPv6 needs no NAT (RFC 4864): it passes unchanged unless `public_prefix6` and `internal_prefix6`, of
one length from /16 to /64, ask for stateless prefix translation (see `prefix6`), fragments and
all protocols included. ICMPv6 errors are translated together with the packet that they quote.
Then a source or destination outside the prefixes is "no-mapping", an address without an image
"unmappable".

Several instances may share the public address: see `nat_state` for blocks of ports. One that
claims blocks gets them as it needs them, and a packet that needed one is processed anew when it has
it (see `sharing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.compiled import compiled
from testbed.vnf.functions.effect import drop, forward
from testbed.vnf.functions.function import Call, Function, compiled_process
from testbed.vnf.functions.nat_config import (
    ADDRESS_DEPENDENT,
    ENDPOINT_INDEPENDENT,
    FILTERED,
    HAIRPIN,
    NO_MAPPING,
    NO_PORT,
    TABLE_FULL,
    UNMAPPABLE,
    function_of,
)
from testbed.vnf.functions.nat_pool import claim_block, free_port
from testbed.vnf.functions.nat_state import (
    BLOCK_SHIFT,
    CLAIMS,
    ENDPOINT,
    ENDPOINT_MASK,
    FILTERING,
    INTERNAL_PREFIX,
    NEXT,
    PREFIX_ADJUSTMENT,
    PREFIX_BITS,
    PREFIX_MASK,
    PUBLIC,
    PUBLIC_PREFIX,
    internal_key,
    mapping_key,
    owns,
    session_key,
)
from testbed.vnf.functions.nat_table import (
    Side,
    address_known,
    begin_session,
    renew,
    session_alive,
)
from testbed.vnf.functions.packet import (
    ERROR,
    FRAGMENT,
    ICMP,
    MALFORMED,
    NO_KIND,
    QUERY,
    REPLY,
    TCP,
    UNSUPPORTED,
    View,
    parse,
)
from testbed.vnf.functions.prefix6 import in_prefix, mappable, translate
from testbed.vnf.functions.quoted import parse_quoted
from testbed.vnf.functions.rewrite import (
    KEEP_PORT,
    set_destination,
    set_source,
    sum_icmp_anew,
)
from testbed.vnf.functions.table import find_live
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.records import Records, find


@compiled
def _outbound(call: Call, view: View) -> int:
    if view.destination_low == call.config[PUBLIC]:
        return drop(call.effect, HAIRPIN)
    protocol = view.protocol
    internal = view.source_low << 16 | view.source_port
    remote = view.destination_low << 16 | (view.destination_port if view.has_ports else 0)
    row = find(call.records, internal_key(protocol, internal))
    known = row >= 0
    port = int(call.records.values[row, 0]) if known else -1
    session = find(call.records, session_key(protocol, port, remote)) if known else -1
    if not session_alive(call.records, session, call.now_ns):
        known = known and _keeps_port(call.records, call.config, protocol, port, call.now_ns)
        if not known:
            port = free_port(
                call.records, call.effect, call.config, protocol, internal, call.now_ns
            )
            if port < 0:
                if call.config[CLAIMS]:
                    claim_block(call.records, call.effect, call.config, protocol, internal)
                return drop(call.effect, NO_PORT)
            session = -1
    side = Side(protocol, port, internal, remote, view.tcp_flags, 0)
    if session >= 0:
        renew(call.records, call.effect, call.config, session, side, call.now_ns)
    elif not begin_session(call.records, call.effect, call.config, side, known, call.now_ns):
        return drop(call.effect, TABLE_FULL)
    set_source(call.packet, view, 0, call.config[PUBLIC], port)
    return forward(call.effect, view.length)


@compiled
def _keeps_port(records: Records, config: Words, protocol: int, port: int, now_ns: int) -> bool:
    """Whether a mapping lives, or may come to life again: its port lies in an owned block."""
    if find_live(records, mapping_key(protocol, port), now_ns) >= 0:
        return True
    return owns(records, config, port >> config[BLOCK_SHIFT])


@compiled
def _inbound(call: Call, view: View) -> int:
    if view.destination_low != call.config[PUBLIC]:
        return drop(call.effect, NO_MAPPING)
    protocol, port = view.protocol, view.destination_port
    remote = view.source_low << 16 | (view.source_port if view.has_ports else 0)
    session = find(call.records, session_key(protocol, port, remote))
    if session_alive(call.records, session, call.now_ns):
        internal = call.records.values[session, ENDPOINT] & ENDPOINT_MASK
    else:
        mapping = find_live(call.records, mapping_key(protocol, port), call.now_ns)
        if mapping < 0:
            return drop(call.effect, NO_MAPPING)
        filtering = call.config[FILTERING]
        if filtering != ENDPOINT_INDEPENDENT and not (
            filtering == ADDRESS_DEPENDENT
            and address_known(
                call.records,
                protocol,
                port,
                call.records.values[mapping, NEXT],
                view.source_low,
                call.now_ns,
            )
        ):
            return drop(call.effect, FILTERED)
        internal = call.records.values[mapping, ENDPOINT] & ENDPOINT_MASK
    if protocol == TCP:
        side = Side(protocol, port, internal, remote, view.tcp_flags, 1)
        if session >= 0:
            renew(call.records, call.effect, call.config, session, side, call.now_ns)
        elif not begin_session(call.records, call.effect, call.config, side, True, call.now_ns):
            return drop(call.effect, TABLE_FULL)
    set_destination(call.packet, view, 0, internal >> 16, internal & 0xFFFF)
    return forward(call.effect, view.length)


@compiled
def _error_in(call: Call, view: View) -> int:
    """An error that quotes a packet which this NAT sent out (RFC 5508 REQ-4)."""
    quoted = parse_quoted(call.packet, view)
    if quoted.status:
        return drop(call.effect, MALFORMED)
    if view.destination_low != call.config[PUBLIC] or quoted.source_low != call.config[PUBLIC]:
        return drop(call.effect, NO_MAPPING)
    row = find_live(call.records, mapping_key(quoted.protocol, quoted.source_port), call.now_ns)
    if row < 0:
        return drop(call.effect, NO_MAPPING)
    internal = call.records.values[row, ENDPOINT] & ENDPOINT_MASK
    set_source(call.packet, quoted, 0, internal >> 16, internal & 0xFFFF)
    set_destination(call.packet, view, 0, internal >> 16, KEEP_PORT)
    sum_icmp_anew(call.packet, view)
    return forward(call.effect, view.length)


@compiled
def _error_out(call: Call, view: View) -> int:
    """An error that quotes a packet which this NAT let in (RFC 5508 REQ-5)."""
    quoted = parse_quoted(call.packet, view)
    if quoted.status:
        return drop(call.effect, MALFORMED)
    internal = quoted.destination_low << 16 | quoted.destination_port
    row = find(call.records, internal_key(quoted.protocol, internal))
    if row < 0:
        return drop(call.effect, NO_MAPPING)
    port = call.records.values[row, 0]
    if find_live(call.records, mapping_key(quoted.protocol, port), call.now_ns) < 0:
        return drop(call.effect, NO_MAPPING)
    set_destination(call.packet, quoted, 0, call.config[PUBLIC], port)
    set_source(call.packet, view, 0, call.config[PUBLIC], KEEP_PORT)
    sum_icmp_anew(call.packet, view)
    return forward(call.effect, view.length)


@compiled
def _prefix(packet: Bytes, view: View, reverse: int, effect: Words, config: Words) -> int:
    """Translate the prefixes of an IPv6 packet and of what it quotes; transports do not notice."""
    if config[PREFIX_BITS] == 0:
        return forward(effect, view.length)
    mask = config[PREFIX_MASK]
    if not reverse and in_prefix(view.destination_high, config[PUBLIC_PREFIX], mask):
        return drop(effect, HAIRPIN)
    reason = _prefix_at(packet, view, reverse, reverse, config)
    if reason == 0 and view.icmp_kind == ERROR:
        # The quoted packet went the other way. Its checksum holds, so no other need be looked at.
        quoted = parse_quoted(packet, view)
        reason = MALFORMED if quoted.status else 0
        if reason == 0:
            reason = _prefix_at(packet, quoted, reverse, 1 - reverse, config)
    return drop(effect, reason) if reason else forward(effect, view.length)


@compiled
def _prefix_at(packet: Bytes, view: View, reverse: int, place: int, config: Words) -> int:
    """Translate the source (place 0) or destination (1) of a packet; gives a reason or 0."""
    bits, mask = config[PREFIX_BITS], config[PREFIX_MASK]
    old, new = config[INTERNAL_PREFIX], config[PUBLIC_PREFIX]
    adjustment = config[PREFIX_ADJUSTMENT]
    if reverse:
        old, new, adjustment = new, old, 0xFFFF - adjustment
    high = view.destination_high if place else view.source_high
    at = view.at + (24 if place else 8)
    if not in_prefix(high, old, mask):
        return NO_MAPPING
    if not mappable(packet, at, bits):
        return UNMAPPABLE
    translate(packet, at, bits, mask, new, adjustment)
    return 0


@compiled_process
def _process(call: Call) -> int:
    """Translate one packet; see the module's text for the rules."""
    view = parse(call.packet, call.length)
    if view.status:
        return drop(call.effect, view.status)
    if view.version == 6:
        return _prefix(call.packet, view, call.reverse, call.effect, call.config)
    if view.fragment:
        return drop(call.effect, FRAGMENT)
    if view.protocol == ICMP:
        if view.icmp_kind == ERROR:
            if call.reverse:
                return _error_in(call, view)
            return _error_out(call, view)
        if view.icmp_kind != (REPLY if call.reverse else QUERY):
            return drop(call.effect, UNSUPPORTED if view.icmp_kind == NO_KIND else NO_MAPPING)
    elif not view.has_ports:
        return drop(call.effect, UNSUPPORTED)
    if call.reverse:
        return _inbound(call, view)
    return _outbound(call, view)


def make(config: Mapping[str, Any]) -> Function:
    """A NAT; for the keys see `nat_config.function_of`. Raises InputError."""
    return function_of(_process, config)
