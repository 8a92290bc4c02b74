"""A load balancer: consistent hashing to backends, and a table of connections.

What comes to `virtual_address` belongs to the service if it is TCP or UDP (of `protocol` and to
`port` where these are given), or an ICMP query. A new connection is hashed by its 5-tuple to an
entry of a Maglev table (see `maglev`), so that every instance with the same backends decides
alike. The connection table then keeps it at its backend when backends come and go.

- Forward, the destination becomes the backend's address; in reverse, the source of what the backend
  answers becomes the virtual address. Ports stay. IPv4 and IPv6, as `virtual_address` is.
- Idle times: TCP 2 h 4 min once established, 4 min while opening or closing (RFC 5382 REQ-5), UDP
  5 min (RFC 4787 REQ-5), ICMP queries 60 s (RFC 5508 REQ-2); packets of both directions refresh.
  A connection of which the middle is seen first counts as established. A SYN on a connection that
  has ended makes a new one, which is hashed anew.
- The table is bounded by `max_connections`. Where it is full, the connection that would expire
  first of a few makes room: if that was still in use, hashing finds its backend again as long as
  the backends are the same.
- ICMP errors are translated with the packet that they quote, in both directions, and touch nothing.
- Fragments (the ports are in the first one alone) to the virtual address and from backends are
  dropped as "fragment". An ICMP error to the virtual address about no connection is dropped as
  "no-connection", one with a bad checksum as "malformed".
- Everything else passes unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.compiled import compiled
from testbed.vnf.functions.effect import begin_put, drop, forward
from testbed.vnf.functions.function import Call, Function, compiled_process
from testbed.vnf.functions.lb_config import (
    BACKENDS,
    CONNECTION,
    ICMP_NS,
    MAX_CONNECTIONS,
    NO_CONNECTION,
    PORT,
    PROTOCOL,
    SLOT,
    TABLE,
    TABLE_SIZE,
    TCP_ESTABLISHED_NS,
    TCP_TRANSITORY_NS,
    UDP_NS,
    VERSION,
    VIRTUAL_HIGH,
    VIRTUAL_LOW,
    function_of,
)
from testbed.vnf.functions.packet import (
    ACK,
    ERROR,
    FRAGMENT,
    MALFORMED,
    QUERY,
    REPLY,
    SYN,
    TCP,
    UDP,
    View,
    parse,
)
from testbed.vnf.functions.quoted import parse_quoted
from testbed.vnf.functions.rewrite import (
    KEEP_PORT,
    set_destination,
    set_source,
    sum_icmp_anew,
)
from testbed.vnf.functions.table import EXPIRES, REFRESH_NS, admit, find_live, refreshed
from testbed.vnf.functions.tcp_sessions import OPENED, closing, established, next_bits
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import Key, Records, find

BITS, BACKEND_HIGH, BACKEND_LOW = 1, 2, 3
"""Words of a connection's value, after the time at which it expires."""
_VALUE_WORDS = 4


@compiled
def connection_key(
    view: View, protocol: int, client_port: int, port: int, high: int, low: int
) -> Key:
    """The key of a client's connection to a port of the virtual address."""
    zero = port & 0
    head = CONNECTION << 56 | protocol << 48 | client_port << 16 | port
    if view.version == 4:
        return head, low, zero, zero, zero
    return head, high, low, zero, zero


@compiled
def entry_of(config: Words, key: Key) -> int:
    """The backend of a new connection: the entry of the Maglev table that its 5-tuple hashes to."""
    mixed = key[0] * 0x2545F4914F6CDD1D ^ key[1] * 0x1B873593CC9E2D51 ^ key[2] * 0x38B34AE5A1E38B93
    mixed = (mixed ^ (mixed >> 32)) * 0x2127599BF4325C37
    mixed = (mixed ^ (mixed >> 29)) * 0x52DCE729DA3ED2F5
    mixed = (mixed ^ (mixed >> 32)) & 0x7FFFFFFFFFFFFFFF
    return int(config[config[TABLE] + mixed % config[TABLE_SIZE]])


@compiled
def _to_virtual(config: Words, view: View) -> bool:
    return (
        view.version == config[VERSION]
        and view.destination_low == config[VIRTUAL_LOW]
        and view.destination_high == config[VIRTUAL_HIGH]
    )


@compiled
def _served(config: Words, protocol: int, port: int) -> bool:
    """Whether the service has this TCP or UDP port."""
    return (config[PROTOCOL] == 0 or config[PROTOCOL] == protocol) and (
        config[PORT] == 0 or config[PORT] == port
    )


@compiled
def _from_backend(config: Words, view: View) -> bool:
    """Whether the source is a backend's address."""
    if view.version == config[VERSION]:
        for at in range(BACKENDS, config[TABLE], 2):
            if view.source_high == config[at] and view.source_low == config[at + 1]:
                return True
    return False


@compiled
def _timeout_ns(config: Words, protocol: int, bits: int) -> int:
    if protocol == TCP:
        return config[TCP_ESTABLISHED_NS] if established(bits) else config[TCP_TRANSITORY_NS]
    return config[UDP_NS] if protocol == UDP else config[ICMP_NS]


@compiled
def _keep(
    records: Records, effect: Words, config: Words, key: Key, row: int, bits: int, now_ns: int,
    protocol: int,
) -> None:  # fmt: skip
    """Note a packet of a connection; most write nothing."""
    expires_ns = now_ns + _timeout_ns(config, protocol, bits) + REFRESH_NS
    if bits != records.values[row, BITS] or refreshed(records, row, expires_ns):
        at = begin_put(effect, key, EXPIRES, 2)
        if at >= 0:
            effect[at] = expires_ns
            effect[at + 1] = bits


@compiled
def _connect(
    records: Records, effect: Words, config: Words, key: Key, row: int, view: View, now_ns: int
) -> int:
    """Make a connection, in the place of one that has ended if there is a row; gives its backend's
    place in the configuration."""
    backend = BACKENDS + 2 * entry_of(config, key)
    bits = 0
    if view.protocol == TCP:
        bits = 0 if view.tcp_flags & SYN else OPENED
        bits = next_bits(bits, view.tcp_flags, 0)
    if row < 0:
        admit(records, effect, SLOT, key, config[MAX_CONNECTIONS], now_ns, True)
    at = begin_put(effect, key, 0, _VALUE_WORDS)
    if at >= 0:
        effect[at + EXPIRES] = now_ns + _timeout_ns(config, view.protocol, bits) + REFRESH_NS
        effect[at + BITS] = bits
        effect[at + BACKEND_HIGH] = config[backend]
        effect[at + BACKEND_LOW] = config[backend + 1]
    return backend


@compiled
def _to_backend(call: Call, view: View) -> int:
    key = connection_key(view, view.protocol, view.source_port, view.destination_port,
                         view.source_high, view.source_low)  # fmt: skip
    row = find(call.records, key)
    alive = row >= 0 and call.records.values[row, EXPIRES] > call.now_ns
    bits = call.records.values[row, BITS] if alive else 0
    if alive and view.protocol == TCP:
        opening = view.tcp_flags & (SYN | ACK) == SYN
        alive = not (opening and closing(bits))
        bits = next_bits(bits, view.tcp_flags, 0)
    if alive:
        high, low = call.records.values[row, BACKEND_HIGH], call.records.values[row, BACKEND_LOW]
        _keep(call.records, call.effect, call.config, key, row, bits, call.now_ns, view.protocol)
    else:
        backend = _connect(call.records, call.effect, call.config, key, row, view, call.now_ns)
        high, low = call.config[backend], call.config[backend + 1]
    set_destination(call.packet, view, high, low, KEEP_PORT)
    return forward(call.effect, view.length)


@compiled
def _from_service(call: Call, view: View) -> int:
    key = connection_key(view, view.protocol, view.destination_port, view.source_port,
                         view.destination_high, view.destination_low)  # fmt: skip
    row = find_live(call.records, key, call.now_ns)
    if row < 0 or not _is_backend(call.records, row, view.source_high, view.source_low):
        return forward(call.effect, view.length)
    bits = call.records.values[row, BITS]
    if view.protocol == TCP:
        bits = next_bits(bits, view.tcp_flags, 1)
    _keep(call.records, call.effect, call.config, key, row, bits, call.now_ns, view.protocol)
    set_source(call.packet, view, call.config[VIRTUAL_HIGH], call.config[VIRTUAL_LOW], KEEP_PORT)
    return forward(call.effect, view.length)


@compiled
def _is_backend(records: Records, row: int, high: int, low: int) -> bool:
    """Whether this is the address of the connection's backend."""
    return records.values[row, BACKEND_HIGH] == high and records.values[row, BACKEND_LOW] == low


@compiled
def _error_to_backend(call: Call, view: View) -> int:
    """An error about an answer of the service."""
    quoted = parse_quoted(call.packet, view)
    if quoted.status:
        return drop(call.effect, MALFORMED)
    key = connection_key(view, quoted.protocol, quoted.destination_port, quoted.source_port,
                         quoted.destination_high, quoted.destination_low)  # fmt: skip
    row = find_live(call.records, key, call.now_ns)
    ours = (
        quoted.source_high == call.config[VIRTUAL_HIGH]
        and quoted.source_low == call.config[VIRTUAL_LOW]
    )
    if row < 0 or not ours:
        return drop(call.effect, NO_CONNECTION)
    high, low = call.records.values[row, BACKEND_HIGH], call.records.values[row, BACKEND_LOW]
    set_source(call.packet, quoted, high, low, KEEP_PORT)
    set_destination(call.packet, view, high, low, KEEP_PORT)
    sum_icmp_anew(call.packet, view)
    return forward(call.effect, view.length)


@compiled
def _error_to_client(call: Call, view: View) -> int:
    """An error about a packet to a backend, from the backend itself or from a router on the way."""
    quoted = parse_quoted(call.packet, view)
    if quoted.status:
        return drop(call.effect, MALFORMED)
    key = connection_key(view, quoted.protocol, quoted.source_port, quoted.destination_port,
                         quoted.source_high, quoted.source_low)  # fmt: skip
    row = find_live(call.records, key, call.now_ns)
    if row < 0 or not _is_backend(
        call.records, row, quoted.destination_high, quoted.destination_low
    ):
        return forward(call.effect, view.length)
    high, low = call.config[VIRTUAL_HIGH], call.config[VIRTUAL_LOW]
    set_destination(call.packet, quoted, high, low, KEEP_PORT)
    if _is_backend(call.records, row, view.source_high, view.source_low):
        set_source(call.packet, view, high, low, KEEP_PORT)
    sum_icmp_anew(call.packet, view)
    return forward(call.effect, view.length)


@compiled_process
def _process(call: Call) -> int:
    """Balance one packet; see the module's text for the rules."""
    view = parse(call.packet, call.length)
    if view.status:
        return drop(call.effect, view.status)
    if call.reverse:
        if view.fragment:
            if _from_backend(call.config, view):
                return drop(call.effect, FRAGMENT)
        elif view.version == call.config[VERSION]:
            if view.icmp_kind == ERROR:
                return _error_to_client(call, view)
            if view.has_ports or view.icmp_kind == REPLY:
                return _from_service(call, view)
    elif _to_virtual(call.config, view):
        if view.fragment:
            return drop(call.effect, FRAGMENT)
        if view.icmp_kind == ERROR:
            return _error_to_backend(call, view)
        served = view.has_ports and _served(call.config, view.protocol, view.destination_port)
        if served or view.icmp_kind == QUERY:
            return _to_backend(call, view)
    return forward(call.effect, view.length)


def make(config: Mapping[str, Any]) -> Function:
    """A load balancer; for the keys see `lb_config.function_of`. Raises InputError."""
    return function_of(_process, config)
