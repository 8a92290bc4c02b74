"""A stateful packet filter for IPv4 and IPv6.

New connections begin in the forward direction, and only there; rules decide about the first
packet of each, first match first, else `default` ("allow" unless configured). The reverse
direction carries packets of known connections alone (RFC 6092 REC-11, REC-31: endpoints may rely on
simple stateful filtering, here with address-and-port-dependent filtering).

- TCP follows the connection's states (RFC 9293 3.3.2) by the flags that each side has sent. A
  packet that does not fit, or whose flags make no sense together, is dropped as "invalid-state".
  Sequence numbers are not tracked. Simultaneous open is not supported.
- UDP, ICMP queries and other protocols have a pseudo-state: asked, answered.
- ICMP errors pass if the packet that they quote belongs to a live connection and went the other
  way (RFC 6092 REC-10, RFC 5508 REQ-3 for their checksums, RFC 4890 4.3.1); they change no state.
  Other ICMP messages, neighbour discovery among them, do not cross: "unsupported".
- Fragments: the first one carries the ports and is treated as a packet; the others pass if the
  first one has passed (same addresses, identification, in IPv4 protocol, within `FRAGMENT_NS`,
  RFC 1122 3.3.2, RFC 8200 4.5), else they are dropped as "fragment". Out-of-order fragments are so
  lost. A fragment that splits a transport header is malformed (RFC 1858, RFC 3128, RFC 7112).

The table holds `max_connections`; when it is full of live connections, new ones are dropped as
"table-full", and the old ones go on.

Records: the flow key of the initiator -> expires_ns, state; the key of a cut up packet ->
expires_ns; and the slots of both tables, see `table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.functions.config import check_keys, choice, integer
from testbed.vnf.functions.effect import begin_put, drop, forward, put
from testbed.vnf.functions.firewall_rules import allowed, read_rules
from testbed.vnf.functions.function import Call, Function, compiled_process
from testbed.vnf.functions.packet import (
    ERROR,
    FRAGMENT,
    MALFORMED,
    QUERY,
    REASONS,
    REPLY,
    TCP,
    UNSUPPORTED,
    View,
    flow_key,
    fragment_key,
    is_icmp,
    parse,
    reverse_key,
)
from testbed.vnf.functions.quoted import parse_quoted
from testbed.vnf.functions.table import (
    EXPIRES,
    REFRESH_NS,
    admit,
    find_live,
    refreshed,
    table_records,
)
from testbed.vnf.functions.tcp_states import (
    ASKED,
    CLOSED,
    ESTABLISHED,
    SYN_SENT,
    is_opening,
    next_state,
)
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.records import KEY_WORDS, Key, Records, find

INVALID_STATE, NO_CONNECTION, DENIED, TABLE_FULL = range(len(REASONS), len(REASONS) + 4)
ANSWERED = ASKED + 1
FRAGMENT_NS = 60_000_000_000
MAX_FRAGMENTED = 1024
_NS_PER_S = 1_000_000_000
_TRANSITORY_NS = 4 * 60 * _NS_PER_S
"""No less than 4 minutes, which is 2 MSL (RFC 6092 REC-35, RFC 9293 3.4.2)."""
_CLOSED_NS = 10 * _NS_PER_S
_CONNECTION, _CONNECTION_SLOT, _FRAGMENTED, _FRAGMENTED_SLOT = 1, 2, 3, 4
"""Tags of keys."""
_STATE = 1
"""The word of a connection's value after `EXPIRES`."""
_DEFAULT, _MAX_CONNECTIONS, _TCP_NS, _UDP_NS, _ICMP_NS, _RULES = range(6)
"""Places in the configuration; the rules are its end."""
_KEYS = (
    "rules",
    "default",
    "max_connections",
    "tcp_established_timeout_s",
    "udp_timeout_s",
    "icmp_timeout_s",
)


@compiled
def _refused_query(view: View, reverse: int) -> int:
    """Why an ICMP message that is no error may not pass, or 0: the forward side asks."""
    if view.icmp_kind != QUERY and view.icmp_kind != REPLY:
        return UNSUPPORTED
    if (view.icmp_kind == REPLY) == (reverse != 0):
        return 0
    return NO_CONNECTION if reverse else INVALID_STATE


@compiled(forceinline=True)
def _connection(
    view: View, reverse: int, now_ns: int, records: Records, effect: Words, config: Words
) -> int:
    """0 if the packet's connection lets it pass, and what that changes; else the reason."""
    key = reverse_key(view, _CONNECTION) if reverse else flow_key(view, _CONNECTION)
    row = find(records, key)
    is_tcp = view.protocol == TCP
    if row < 0 or records.values[row, EXPIRES] <= now_ns:
        return _opened(view, key, row, reverse, now_ns, records, effect, config)
    state = records.values[row, _STATE]
    following = state
    if is_tcp:
        following = next_state(state, view.tcp_flags, reverse)
        if following == 0:
            return INVALID_STATE
    elif reverse:
        following = ANSWERED
    # A SYN after the end begins anew; rules that let in its like still let it in.
    expires_ns = now_ns + _timeout(view, following, config) + REFRESH_NS
    if following != state:
        _write(effect, key, expires_ns, following)
    elif refreshed(records, row, expires_ns):
        put(effect, key, EXPIRES, expires_ns)
    return 0


@compiled
def _opened(
    view: View,
    key: Key,
    row: int,
    reverse: int,
    now_ns: int,
    records: Records,
    effect: Words,
    config: Words,
) -> int:
    """As `_connection`, without a live one; `row` is that of an expired one, or -1."""
    is_tcp = view.protocol == TCP
    if reverse:
        return NO_CONNECTION
    if is_tcp and not is_opening(view.tcp_flags):
        return INVALID_STATE
    if not allowed(config, _RULES, view, config[_DEFAULT]):
        return DENIED
    if row < 0:
        limit = config[_MAX_CONNECTIONS]
        if not admit(records, effect, _CONNECTION_SLOT, key, limit, now_ns, False):
            return TABLE_FULL
    following = SYN_SENT if is_tcp else ASKED
    _write(effect, key, now_ns + _timeout(view, following, config) + REFRESH_NS, following)
    return 0


@compiled(forceinline=True)
def _timeout(view: View, state: int, config: Words) -> int:
    if view.protocol == TCP:
        if state == ESTABLISHED:
            return int(config[_TCP_NS])
        return _CLOSED_NS if state == CLOSED else _TRANSITORY_NS
    return int(config[_ICMP_NS] if is_icmp(view.version, view.protocol) else config[_UDP_NS])


@compiled
def _write(effect: Words, key: Key, expires_ns: int, state: int) -> None:
    at = begin_put(effect, key, EXPIRES, 2)
    if at >= 0:
        effect[at] = expires_ns
        effect[at + 1] = state


@compiled
def _related(
    packet: Bytes, view: View, reverse: int, now_ns: int, records: Records, effect: Words
) -> int:
    quoted = parse_quoted(packet, view)
    if quoted.status:
        return drop(effect, MALFORMED)
    # An error goes against the packet that it quotes.
    key = flow_key(quoted, _CONNECTION) if reverse else reverse_key(quoted, _CONNECTION)
    if find_live(records, key, now_ns) < 0:
        return drop(effect, NO_CONNECTION)
    return forward(effect, view.length)


@compiled
def _expect_fragments(view: View, now_ns: int, records: Records, effect: Words) -> None:
    key = fragment_key(view, _FRAGMENTED)
    if find(records, key) < 0:
        admit(records, effect, _FRAGMENTED_SLOT, key, MAX_FRAGMENTED, now_ns, True)
    put(effect, key, EXPIRES, now_ns + FRAGMENT_NS)


@compiled_process
def _process(call: Call) -> int:
    """Filter one packet; see the module's text for the rules."""
    view = parse(call.packet, call.length)
    if view.status:
        return drop(call.effect, view.status)
    if view.first == 0:
        live = find_live(call.records, fragment_key(view, _FRAGMENTED), call.now_ns) >= 0
        return forward(call.effect, view.length) if live else drop(call.effect, FRAGMENT)
    if view.icmp_type >= 0:
        if view.icmp_kind == ERROR:
            return _related(call.packet, view, call.reverse, call.now_ns, call.records, call.effect)
        refused = _refused_query(view, call.reverse)
        if refused:
            return drop(call.effect, refused)
    reason = _connection(view, call.reverse, call.now_ns, call.records, call.effect, call.config)
    if reason:
        return drop(call.effect, reason)
    if view.fragment:
        _expect_fragments(view, call.now_ns, call.records, call.effect)
    return forward(call.effect, view.length)


def make(config: Mapping[str, Any]) -> Function:
    """Keys: `rules`, `default`, `max_connections`, `..._timeout_s`.

    A rule has `action` (allow, deny) and optionally `protocol` (any, icmp, tcp, udp), `source`,
    `destination` (networks, of either version) and `destination_port` or `destination_ports`
    (ports and [low, high]). Lower bounds of timers: RFC 6092 REC-14 (UDP 2 min), REC-35 (TCP
    2 h 4 min), RFC 5508 REQ-2 (ICMP 60 s). Raises InputError.
    """
    check_keys("fw", config, _KEYS)

    def timer(key: str, default: int, low: int) -> int:
        return integer("fw", config, key, default, low, 7 * 86_400) * _NS_PER_S

    rules = read_rules(config.get("rules", ()))
    default = choice("fw", config, "default", "allow", ("allow", "deny")) == "allow"
    connections = integer("fw", config, "max_connections", 65_536, 1, 1 << 24)
    words = [
        int(default),
        connections,
        timer("tcp_established_timeout_s", 7440, 7440),
        timer("udp_timeout_s", 300, 120),
        timer("icmp_timeout_s", 60, 60),
        *rules,
    ]
    return Function(
        name="fw",
        process=_process,
        config=np.array(words, np.int64),
        reasons=(*REASONS, "invalid-state", "no-connection", "denied", "table-full"),
        capacity=sum(limit + table_records(limit) for limit in (connections, MAX_FRAGMENTED)),
        value_words=KEY_WORDS,
    )
