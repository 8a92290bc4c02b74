"""WAN optimiser: a payload that its flow has carried before crosses the WAN as a short token.

`role` says which end this is. "encode" replaces, on the forward path, payloads of at least
`min_bytes` that equal an earlier one of the same flow by a token of 24 bytes, and "decode" puts
them back exactly; on the reverse path the two change places. Lengths and checksums are right after
both, and a packet whose checksum was wrong before is as wrong afterwards. "observe", the default,
does to the cache what "encode" does, counts what it would have saved, and changes no packet: the
role of an optimiser that is alone in its chain.

Nothing wrong is ever delivered. The encoder compares contents, never fingerprints alone (see
`content_cache`). The decoder knows a payload by two hashes, 112 bits, and its length, all computed
from what it forwarded itself; a token whose content it lacks, because that packet was lost on the
way, is dropped as "cache-miss". Three rules keep such a loss short:
- TCP: a segment is encoded only if it is beyond all that the flow has sent (see `tcp_progress`), so
  what is sent again is sent in full;
- a content goes in full again after `refresh_s`, for UDP, which sends nothing again;
- the oldest eighth of the cache is not referred to, as the decoder may have stored in a slightly
  different order.

Payload that begins with the marker of tokens by itself is sent behind an escape of 8 bytes. If the
packet would grow beyond 1500 bytes it is dropped as "marked"; to hit the 56 bits of the marker
takes intent. Fragments, other protocols and UDP datagrams shorter than their packet go on
unchanged, at both ends. Between the two ends, functions see tokens: what searches payload or cuts
packets belongs outside.

Records: those of `content_cache` and `tcp_progress`; COUNTS_TAG -> packets replaced (put back),
bytes saved (put back), tokens missed: this instance's own contribution, mergeable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.functions.checksums import (
    be16,
    be32,
    be64,
    byte,
    difference16,
    fold,
    put_adjusted,
    put_be16,
    put_be64,
    sum16,
)
from testbed.vnf.functions.config import check_keys, choice, integer
from testbed.vnf.functions.content_cache import (
    BYTES,
    CHECK,
    MAX_CONTENT_BYTES,
    STORED,
    VALUE_WORDS,
    Fingerprint,
    belongs,
    cache_records,
    content_key,
    equals,
    fingerprint,
    hash_of_flow,
    inserted_after,
    store,
    write_content,
)
from testbed.vnf.functions.effect import begin_put, drop, forward, put
from testbed.vnf.functions.function import MAX_PACKET_BYTES, Call, Function, compiled_process
from testbed.vnf.functions.packet import (
    OK,
    REASONS,
    SYN,
    TCP,
    UDP,
    View,
    flow_key,
    l4_checksum_at,
    parse,
)
from testbed.vnf.functions.table import plain_key
from testbed.vnf.functions.tcp_progress import WAYS, advance, restart
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.records import Key, Records, find

COUNTS_TAG = 0x40
PACKETS, SAVED_BYTES, MISSES = 0, 1, 2

MARKER = 0x574FC391E60BA700
"""The first 7 bytes of a token or an escape; the eighth says which."""
TOKEN, ESCAPE = 0x54, 0x45
TOKEN_BYTES, ESCAPE_BYTES = 24, 8

OBSERVE, ENCODE, DECODE = 0, 1, 2
ROLES = ("observe", "encode", "decode")

CACHE_MISS, MARKED = len(REASONS), len(REASONS) + 1

_FLOW_TAG = 0x04  # of flow keys as the cache knows them; no record has it
_48_BITS = 0xFFFFFFFFFFFF
_ROLE, _MIN_BYTES, _CONTENTS, _SETS, _REFRESH_NS = range(5)


@compiled
def _is_marked(packet: Bytes, begin: int, end: int) -> bool:
    return end - begin >= ESCAPE_BYTES and be64(packet, begin) & ~0xFF == MARKER


@compiled
def _count(records: Records, effect: Words, saved_bytes: int) -> None:
    key = plain_key(COUNTS_TAG, 0)
    row = find(records, key)
    at = begin_put(effect, key, PACKETS, 2)
    if at >= 0:
        effect[at] = 1 + (records.values[row, PACKETS] if row >= 0 else 0)
        effect[at + 1] = saved_bytes + (records.values[row, SAVED_BYTES] if row >= 0 else 0)


@compiled
def _miss(records: Records, effect: Words) -> int:
    key = plain_key(COUNTS_TAG, 0)
    row = find(records, key)
    put(effect, key, MISSES, 1 + (records.values[row, MISSES] if row >= 0 else 0))
    return drop(effect, CACHE_MISS)


@compiled
def _resized(packet: Bytes, view: View, old_sum: int, end: int, effect: Words) -> int:
    """Forward a packet whose payload, of the sum `old_sum`, was replaced and ends at `end`."""
    difference = difference16(fold(old_sum), fold(sum16(packet, view.payload_at, end, 0)))
    old_bytes, new_bytes = view.length - view.l4_at, end - view.l4_at
    of_length = difference16(old_bytes, new_bytes)
    difference += of_length
    udp = view.protocol == UDP
    if udp:
        difference += of_length  # it is in the header and in the pseudo-header
        put_be16(packet, view.l4_at + 4, new_bytes)
    put_adjusted(packet, l4_checksum_at(view), difference, udp)
    if view.version == 4:
        put_be16(packet, 2, end)
        put_adjusted(packet, 10, difference16(view.length, end), False)
    else:
        put_be16(packet, 4, end - 40)
    return forward(effect, end)


@compiled
def _escape(packet: Bytes, view: View, effect: Words) -> int:
    end = view.length + ESCAPE_BYTES
    if end > min(len(packet), MAX_PACKET_BYTES):
        return drop(effect, MARKED)
    old_sum = sum16(packet, view.payload_at, view.length, 0)
    for at in range(view.length - 1, view.payload_at - 1, -1):
        packet[at + ESCAPE_BYTES] = packet[at]
    put_be64(packet, view.payload_at, MARKER | ESCAPE)
    return _resized(packet, view, old_sum, end, effect)


@compiled
def _unescape(packet: Bytes, view: View, effect: Words) -> int:
    old_sum = sum16(packet, view.payload_at, view.length, 0)
    end = view.length - ESCAPE_BYTES
    for at in range(view.payload_at, end):
        packet[at] = packet[at + ESCAPE_BYTES]
    return _resized(packet, view, old_sum, end, effect)


@compiled
def _put_token(packet: Bytes, view: View, hashes: Fingerprint, effect: Words) -> int:
    at = view.payload_at
    old_sum = sum16(packet, at, view.length, 0)
    put_be64(packet, at, MARKER | TOKEN)
    put_be64(packet, at + 8, hashes.key)
    put_be64(packet, at + 16, (view.length - at) << 48 | hashes.check)
    return _resized(packet, view, old_sum, at + TOKEN_BYTES, effect)


@compiled
def _restore(packet: Bytes, view: View, flow: Key, records: Records, effect: Words) -> int:
    """Put back the content that a token stands for."""
    begin = view.payload_at
    row = find(records, content_key(flow, be64(packet, begin + 8)))
    if row < 0:
        return _miss(records, effect)
    content = records.values[row]
    size, check = be16(packet, begin + 16), be64(packet, begin + 16) & _48_BITS
    fits = begin + size <= min(len(packet), MAX_PACKET_BYTES)
    known = content[BYTES] == size and size > 0 and content[CHECK] == check
    if not (fits and known and belongs(content, flow)):
        return _miss(records, effect)
    old_sum = sum16(packet, begin, view.length, 0)
    end = write_content(content, packet, begin)
    _count(records, effect, end - view.length)
    return _resized(packet, view, old_sum, end, effect)


@compiled
def _is_new(
    packet: Bytes, view: View, flow: Key, records: Records, effect: Words, config: Words
) -> bool:
    """Whether a payload is sent for the first time; so is every UDP datagram."""
    if view.protocol != TCP:
        return True
    opening = int(view.tcp_flags & SYN != 0)
    begin = be32(packet, view.l4_at + 4) + opening
    end = begin + view.length - view.payload_at
    return advance(records, effect, hash_of_flow(flow), config[_SETS], begin, end, opening)


@compiled
def _opened(
    packet: Bytes, view: View, flow: Key, records: Records, effect: Words, config: Words
) -> None:
    """A TCP connection without content begins anew."""
    if view.protocol == TCP and view.tcp_flags & SYN:
        sequence = be32(packet, view.l4_at + 4) + 1
        restart(records, effect, hash_of_flow(flow), config[_SETS], sequence)


@compiled
def _same(
    packet: Bytes,
    view: View,
    flow: Key,
    hashes: Fingerprint,
    now_ns: int,
    records: Records,
    effect: Words,
    config: Words,
) -> int:
    """The row of the record that equals the payload; else -1, and from now on there is one."""
    begin, end = view.payload_at, view.length
    key = content_key(flow, hashes.key)
    row = find(records, key)
    if row < 0:
        store(records, effect, flow, hashes, packet, begin, end, now_ns, config[_CONTENTS])
        return -1
    content = records.values[row]
    if belongs(content, flow) and equals(content, packet, begin, end):
        return row
    if content[BYTES]:
        put(effect, key, BYTES, 0)  # two of one fingerprint: neither may be named by it
    return -1


@compiled
def _encode(
    packet: Bytes,
    view: View,
    flow: Key,
    now_ns: int,
    records: Records,
    effect: Words,
    config: Words,
) -> int:
    """Replace what the other end has, and keep what it will have."""
    begin, end = view.payload_at, view.length
    observing = config[_ROLE] == OBSERVE
    if not observing and _is_marked(packet, begin, end):
        return _escape(packet, view, effect)
    if end - begin < config[_MIN_BYTES] or end - begin > MAX_CONTENT_BYTES:
        _opened(packet, view, flow, records, effect, config)
        return forward(effect, end)
    new = _is_new(packet, view, flow, records, effect, config)
    hashes = fingerprint(packet, begin, end)
    row = _same(packet, view, flow, hashes, now_ns, records, effect, config)
    if row < 0 or not new:
        return forward(effect, end)
    content = records.values[row]
    if now_ns - content[STORED] >= config[_REFRESH_NS]:
        put(effect, content_key(flow, hashes.key), STORED, now_ns)
        return forward(effect, end)
    capacity = config[_CONTENTS]
    if inserted_after(records, content, capacity) >= capacity - capacity // 8:
        return forward(effect, end)
    _count(records, effect, end - begin - TOKEN_BYTES)
    return forward(effect, end) if observing else _put_token(packet, view, hashes, effect)


@compiled
def _decode(
    packet: Bytes,
    view: View,
    flow: Key,
    now_ns: int,
    records: Records,
    effect: Words,
    config: Words,
) -> int:
    """Put back what was replaced, and keep what the other end keeps."""
    begin, end = view.payload_at, view.length
    if _is_marked(packet, begin, end):
        kind = byte(packet, begin + 7)
        if kind == ESCAPE:
            return _unescape(packet, view, effect)
        if kind == TOKEN and end - begin == TOKEN_BYTES:
            return _restore(packet, view, flow, records, effect)
        return forward(effect, end)
    if config[_MIN_BYTES] <= end - begin <= MAX_CONTENT_BYTES:
        hashes = fingerprint(packet, begin, end)
        _same(packet, view, flow, hashes, now_ns, records, effect, config)
    return forward(effect, end)


@compiled
def _is_plain(packet: Bytes, view: View) -> bool:
    """Whether the two ends look into a packet: a whole TCP segment or UDP datagram."""
    if view.has_ports == 0 or view.fragment == 1:
        return False
    return view.protocol == TCP or be16(packet, view.l4_at + 4) == view.length - view.l4_at


@compiled_process
def _process(call: Call) -> int:
    """Encode, decode or observe one packet."""
    view = parse(call.packet, call.length)
    if view.status != OK:
        return drop(call.effect, view.status)
    if not _is_plain(call.packet, view):
        return forward(call.effect, view.length)
    flow = flow_key(view, _FLOW_TAG)
    role = call.config[_ROLE]
    if role != OBSERVE and (role == DECODE) != (call.reverse != 0):
        return _decode(call.packet, view, flow, call.now_ns, call.records, call.effect, call.config)
    return _encode(call.packet, view, flow, call.now_ns, call.records, call.effect, call.config)


def make(config: Mapping[str, Any]) -> Function:
    """Keys: `role`, `min_bytes`, `cache_contents`, `max_flows`, `refresh_s`; raises InputError.

    Both ends need the same `min_bytes`, and the decoder a cache no smaller than the encoder's.
    """
    known = ("role", "min_bytes", "cache_contents", "max_flows", "refresh_s")
    check_keys("wo", config, known)
    role = ROLES.index(choice("wo", config, "role", "observe", ROLES))
    min_bytes = integer("wo", config, "min_bytes", 128, 64, MAX_CONTENT_BYTES)
    contents = integer("wo", config, "cache_contents", 4096, 16, 1 << 20)
    max_flows = integer("wo", config, "max_flows", 65_536, 1, 1 << 24)
    refresh_s = integer("wo", config, "refresh_s", 5, 1, 86_400)
    sets = (max_flows + WAYS - 1) // WAYS
    words = [role, min_bytes, contents, sets, refresh_s * 1_000_000_000]
    return Function(
        name="wo",
        process=_process,
        config=np.array(words, np.int64),
        reasons=(*REASONS, "cache-miss", "marked"),
        capacity=cache_records(contents) + sets + 1,
        value_words=VALUE_WORDS,
    )
