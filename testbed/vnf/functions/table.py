"""A table of bounded size inside a state: deterministic, O(1), no scan over the state.

Entries sit in numbered slots. A hand goes round; a new entry looks at the next few slots and
takes the first that is empty or whose entry has expired. If there is none, either the entry that
was idle longest among those looked at makes room (`evict=True`), or the table counts as full.
Keys are `prefix + "#"` (the hand), `prefix + ":" + slot` and whatever key the entry has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from testbed.vnf.state import Delta, Key, Value

LOOKED_AT = 8
"""Slots that a new entry looks at."""
REFRESH_NS = 1_000_000_000
"""Idle timers are written at most this often, and run this much longer, so that a busy flow does
not replicate a new time for every packet and yet never expires early."""


def admit(
    state: Mapping[Key, Value],
    prefix: bytes,
    key: Key,
    capacity: int,
    now_ns: int,
    timing: Callable[[Value], tuple[int, int]],
    evict: bool,
) -> tuple[bool, Delta]:
    """(True, changes that give `key`, which is not in `state`, a slot), or (False, ...) if full.

    `timing(record)` gives (expires_ns, last_used_ns) of an entry. The caller adds its record
    after these changes, and applies them when the table is full too: the hand has moved on.
    """
    hand_key = prefix + b"#"
    hand = cast(int, state.get(hand_key, 0))
    chosen, victim, oldest = -1, b"", 0
    for step in range(min(LOOKED_AT, capacity)):
        slot = (hand + step) % capacity
        holder = cast("bytes | None", state.get(_slot_key(prefix, slot)))
        if holder is None:
            chosen, victim = slot, b""
            break
        expires_ns, last_used_ns = timing(state[holder])
        if expires_ns <= now_ns:
            chosen, victim = slot, holder
            break
        if evict and (chosen < 0 or last_used_ns < oldest):
            chosen, victim, oldest = slot, holder, last_used_ns
    if chosen < 0:
        return False, ((hand_key, (hand + LOOKED_AT) % capacity),)
    placed: Delta = ((_slot_key(prefix, chosen), key), (hand_key, (chosen + 1) % capacity))
    return True, ((victim, None), *placed) if victim else placed


def _slot_key(prefix: bytes, slot: int) -> Key:
    return prefix + b":" + slot.to_bytes(4, "big")
