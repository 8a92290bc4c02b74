"""Intrusion detection and prevention: payload signatures and a port-scan detector.

Signatures: all patterns are searched at once (see `automaton`) in what follows the transport
header (or the IP headers, for protocols without one and for fragments after the first). A rule
drops the packet ("signature") or only counts it; a packet counts a rule once, and at most
`MAX_NOTED` rules.

A pattern that is cut by the border of two TCP segments is found if they come in order: where a
segment ends within a pattern, the automaton's state and the next sequence number are kept for
`STREAM_NS`, and the segment that has this number goes on from there, when it is sent again, too.
Not found: a pattern over a border at which segments came out of order or overlap, or over the
border of two fragments or two UDP datagrams. At most `max_streams` such states are kept; the
oldest among those looked at makes room.

Port scans (see `port_scans`): a source that asks for more than `scan_ports` different pairs of
destination and port within `scan_window_s` is blocked for `scan_block_s`; the packet that exceeds
is dropped as "port-scan", what comes from that source afterwards as "blocked". Asking is a TCP SYN
(RFC 9293 3.5), or any UDP packet in the forward direction: an answer goes to a port that its
receiver chose, and must not make a server a scanner. At most `max_sources` sources are watched;
beyond, the one whose window or block ends first among those looked at makes room.

Records: COUNT_TAG + rule -> packets that matched it (this instance's own contribution, mergeable);
STREAM_TAG, `flow_key` -> expires_ns, sequence number, state; and those of `port_scans`, `table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.functions import automaton
from testbed.vnf.functions.automaton import (
    ROOT,
    first_rule_state,
    is_state,
    next_rule_state,
    rule_at,
    walk,
)
from testbed.vnf.functions.checksums import be32
from testbed.vnf.functions.config import check_keys, integer
from testbed.vnf.functions.effect import (
    FILL,
    HEADER_WORDS,
    begin_put,
    drop,
    forward,
    put,
)
from testbed.vnf.functions.function import Call, Function, compiled_process
from testbed.vnf.functions.packet import (
    ACK,
    FIN,
    OK,
    REASONS,
    RST,
    SYN,
    TCP,
    UDP,
    View,
    flow_key,
    parse,
)
from testbed.vnf.functions.port_scans import Limits, ask, is_blocked, source_key
from testbed.vnf.functions.signatures import DEFAULT_SIGNATURES, read_signatures
from testbed.vnf.functions.table import EXPIRES, admit, plain_key, table_records
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.records import KEY_WORDS, Key, Records, find

STREAM_TAG, STREAM_SLOT_TAG, COUNT_TAG = 0x01, 0x02, 0x40
NEXT_SEQUENCE, STATE = EXPIRES + 1, EXPIRES + 2
STREAM_NS = 60_000_000_000

MAX_NOTED = 32
"""Rules that one packet counts; more that match still drop it."""

SIGNATURE, PORT_SCAN, BLOCKED = len(REASONS), len(REASONS) + 1, len(REASONS) + 2

_NS_PER_S: Final = 1_000_000_000
_KEYS = (
    "patterns",
    "scan_ports",
    "scan_window_s",
    "scan_block_s",
    "max_sources",
    "max_pairs",
    "max_streams",
)
_SCAN_PORTS, _WINDOW_NS, _BLOCK_NS, _MAX_SOURCES, _MAX_PAIRS, _MAX_STREAMS, RULES = range(7)
_ACTIONS = 7
"""In the configuration: a word for each rule, 1 if it drops, and then the automaton."""

_COUNT_WORDS = 3
"""What the put of a rule's count takes in an effect: its head, one word of key, the value."""


@compiled
def _asks(view: View, reverse: int) -> bool:
    if view.has_ports == 0:
        return False
    if view.protocol == TCP:
        return view.tcp_flags & (SYN | ACK | FIN | RST) == SYN
    return view.protocol == UDP and reverse == 0


@compiled
def _kept(records: Records, row: int, sequence: int, now_ns: int, config: Words, at: int) -> int:
    """The state with which a segment begins."""
    if row < 0:
        return ROOT
    stream = records.values[row]
    if stream[EXPIRES] <= now_ns or stream[NEXT_SEQUENCE] != sequence:
        return ROOT
    return int(stream[STATE]) if is_state(config, at, stream[STATE]) else ROOT


@compiled
def _keep(
    records: Records,
    effect: Words,
    key: Key,
    row: int,
    sequence: int,
    state: int,
    now_ns: int,
    config: Words,
) -> None:
    if row < 0:
        admit(records, effect, STREAM_SLOT_TAG, key, config[_MAX_STREAMS], now_ns, True)
    at = begin_put(effect, key, EXPIRES, 3)
    if at >= 0:
        effect[at + EXPIRES] = now_ns + STREAM_NS
        effect[at + NEXT_SEQUENCE] = sequence
        effect[at + STATE] = state


@compiled
def _note(records: Records, effect: Words, rule: int, first_count: int, noted: int) -> int:
    """Count a rule unless this packet has counted it already; how many rules it has counted."""
    key = plain_key(COUNT_TAG, rule)
    if noted >= MAX_NOTED:
        return noted
    for number in range(noted):
        if effect[HEADER_WORDS + first_count + number * _COUNT_WORDS + 1] == key[0]:
            return noted
    row = find(records, key)
    put(effect, key, 0, (records.values[row, 0] if row >= 0 else 0) + 1)
    return noted + 1


@compiled
def _search(
    packet: Bytes, view: View, now_ns: int, records: Records, effect: Words, config: Words
) -> bool:
    """Whether some rule that drops matches; counts all that match."""
    at = _ACTIONS + config[RULES]
    stream = view.has_ports == 1 and view.protocol == TCP and view.fragment == 0
    state, row, sequence = ROOT, -1, 0
    key = flow_key(view, STREAM_TAG)
    if stream:
        sequence = be32(packet, view.l4_at + 4) + (view.tcp_flags >> 1 & 1)  # SYN counts
        row = find(records, key)
        state = _kept(records, row, sequence & 0xFFFFFFFF, now_ns, config, at)
    dropping, first_count, noted = False, effect[FILL], 0
    place, found = view.payload_at, 1
    while found:
        state, place, found = walk(packet, place, view.length, state, config, at)
        number = first_rule_state(config, at, state) if found else 0
        while number:
            rule = rule_at(config, at, number)
            dropping = dropping or config[_ACTIONS + rule] == 1
            noted = _note(records, effect, rule, first_count, noted)
            number = next_rule_state(config, at, number)
    # A segment that is dropped will be sent again, and must meet the state that it met now.
    if stream and state != ROOT and not dropping:
        sequence = (sequence + view.length - view.payload_at) & 0xFFFFFFFF
        _keep(records, effect, key, row, sequence, state, now_ns, config)
    return dropping


@compiled_process
def _process(call: Call) -> int:
    """Inspect one packet; see the module's text for the rules."""
    view = parse(call.packet, call.length)
    if view.status != OK:
        return drop(call.effect, view.status)
    source_row = find(call.records, source_key(view))
    if is_blocked(call.records, source_row, call.now_ns):
        return drop(call.effect, BLOCKED)
    if _asks(view, call.reverse):
        limits = Limits(
            call.config[_SCAN_PORTS],
            call.config[_WINDOW_NS],
            call.config[_BLOCK_NS],
            call.config[_MAX_SOURCES],
            call.config[_MAX_PAIRS],
        )
        if ask(call.records, call.effect, view, source_row, call.now_ns, limits):
            return drop(call.effect, PORT_SCAN)
    searched = call.config[RULES] > 0 and view.payload_at < view.length
    if searched and _search(call.packet, view, call.now_ns, call.records, call.effect, call.config):
        return drop(call.effect, SIGNATURE)
    return forward(call.effect, view.length)


def make(config: Mapping[str, Any]) -> Function:
    """Keys: `patterns`, `scan_ports`, `scan_window_s`, `scan_block_s` and bounds of tables.

    A pattern is text, "hex:..." or {"name", "pattern", "action": "drop" | "alert"}; without
    `patterns` the built-in ones hold, and [] searches for nothing. The default of `scan_ports`,
    100, is more than the flows of any request. The bounds are `max_sources`, `max_pairs` and
    `max_streams`. Raises InputError.
    """
    check_keys("idps", config, _KEYS)
    signatures = DEFAULT_SIGNATURES
    if "patterns" in config:
        signatures = read_signatures(config["patterns"])
    bounds = [
        integer("idps", config, key, default, 1, 1 << 24)
        for key, default in (
            ("max_sources", 65_536),
            ("max_pairs", 65_536),
            ("max_streams", 65_536),
        )
    ]
    header = [
        integer("idps", config, "scan_ports", 100, 1, 10_000),
        integer("idps", config, "scan_window_s", 10, 1, 86_400) * _NS_PER_S,
        integer("idps", config, "scan_block_s", 60, 1, 86_400) * _NS_PER_S,
        *bounds,
        len(signatures),
        *(int(signature.drop) for signature in signatures),
    ]
    patterns = [signature.pattern for signature in signatures]
    return Function(
        name="idps",
        process=_process,
        config=np.concatenate(
            [np.array(header, np.int64), automaton.build(patterns, "idps.patterns")]
        ),
        reasons=(*REASONS, "signature", "port-scan", "blocked"),
        capacity=sum(bound + table_records(bound) for bound in bounds) + len(signatures),
        value_words=KEY_WORDS,
    )
