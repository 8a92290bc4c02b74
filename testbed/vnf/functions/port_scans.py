"""A detector of port scans: sources that ask for many different (destination, port) pairs.

Scanners do not keep to one instance, so what is known of sources is shared by all instances,
linearizably: every record here has a tag of that scope, and an asking that is new is an operation
on the pair's record and on its source's. Asking again for a known pair changes nothing.

A window begins with a source's first asking and does not slide. A pair counts once in a window of
its source. When no slot for a pair is free, it does not count: a crowded table makes no scanner
of anybody.

    tag         key                        value
    SOURCE_TAG  version, source            end, window start_ns, blocked until_ns, pairs
    PAIR_TAG    version, port, both ends   end of the window in which it counted
and the slots of both tables, see `table`.
"""

from __future__ import annotations

from typing import NamedTuple

from testbed.compiled import compiled
from testbed.vnf.functions.effect import begin_put, put
from testbed.vnf.functions.packet import View
from testbed.vnf.functions.table import EXPIRES, admit, expiry
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import Key, Records, find

SOURCE_TAG, SOURCE_SLOT_TAG, PAIR_TAG, PAIR_SLOT_TAG = 0x60, 0x61, 0x62, 0x63
START, BLOCKED_UNTIL, PAIRS = EXPIRES + 1, EXPIRES + 2, EXPIRES + 3


class Limits(NamedTuple):
    """More than `pairs` within `window_ns` block the source for `block_ns`."""

    pairs: int
    window_ns: int
    block_ns: int
    max_sources: int
    max_pairs: int


@compiled
def source_key(view: View) -> Key:
    """The key of what is known about a packet's source."""
    head = SOURCE_TAG << 56 | view.version << 48
    zero = head & 0
    if view.version == 4:
        return head, view.source_low, zero, zero, zero
    return head, view.source_high, view.source_low, zero, zero


@compiled
def pair_key(view: View) -> Key:
    """The key of a source's asking for a destination and port."""
    head = PAIR_TAG << 56 | view.version << 48 | view.destination_port
    if view.version == 4:
        zero = head & 0
        return head, view.source_low << 32 | view.destination_low, zero, zero, zero
    return head, view.source_high, view.source_low, view.destination_high, view.destination_low


@compiled
def is_blocked(records: Records, source_row: int, now_ns: int) -> bool:
    """Whether a source (its row, or -1) is blocked."""
    return source_row >= 0 and records.values[source_row, BLOCKED_UNTIL] > now_ns


@compiled
def ask(
    records: Records, effect: Words, view: View, source_row: int, now_ns: int, limits: Limits
) -> bool:
    """Note that a source asks for something; True if that makes it a scanner, which is blocked."""
    key = source_key(view)
    start_ns, pairs = now_ns, 0
    if source_row >= 0 and now_ns - records.values[source_row, START] < limits.window_ns:
        start_ns, pairs = records.values[source_row, START], records.values[source_row, PAIRS]
    end_ns = start_ns + limits.window_ns
    pair = pair_key(view)
    pair_row = find(records, pair)
    if pair_row >= 0 and expiry(records, pair_row) == end_ns:
        return False
    if pairs >= limits.pairs:
        blocked_until_ns = now_ns + limits.block_ns
        end_ns = max(now_ns + limits.window_ns, blocked_until_ns)
        _put_source(effect, key, end_ns, now_ns, blocked_until_ns, 0)
        return True
    if pair_row < 0 and not admit(
        records, effect, PAIR_SLOT_TAG, pair, limits.max_pairs, now_ns, False
    ):
        return False
    put(effect, pair, EXPIRES, end_ns)
    if pairs:
        put(effect, key, PAIRS, pairs + 1)
        return False
    if source_row < 0:
        admit(records, effect, SOURCE_SLOT_TAG, key, limits.max_sources, now_ns, True)
    _put_source(effect, key, end_ns, start_ns, 0, 1)
    return False


@compiled
def _put_source(
    effect: Words, key: Key, end_ns: int, start_ns: int, blocked_until_ns: int, pairs: int
) -> None:
    at = begin_put(effect, key, EXPIRES, 4)
    if at >= 0:
        effect[at + EXPIRES] = end_ns
        effect[at + START] = start_ns
        effect[at + BLOCKED_UNTIL] = blocked_until_ns
        effect[at + PAIRS] = pairs
