"""What a function says about a packet: its new length, why it was dropped, how the state changes.

An effect is an array of words: a header, then `FILL` words of operations (see
`testbed.vnf.state.records`). A function reads the state as it was before the packet; its operations
are applied after it, in the order in which they were written.
"""

from __future__ import annotations

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.functions.sharing import FIRST_LINEARIZABLE, TAG_SHIFT
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import ERASE, KEY_WORDS, PUT, Key

LENGTH, REASON, FILL, OVERFLOW, SHARED = 0, 1, 2, 3, 4
"""Places in an effect; OVERFLOW counts operations that found no room, SHARED those on
linearizable records (`testbed.vnf.functions.sharing`)."""

HEADER_WORDS = 5
OPERATION_WORDS = 508
"""Room for the operations of one packet."""

DROP, FORWARD = 0, 1
"""Verdicts."""


def new_effect() -> Words:
    """An effect without operations."""
    return np.zeros(HEADER_WORDS + OPERATION_WORDS, np.int64)


@compiled
def clear(effect: Words) -> None:
    """Make the effect empty."""
    for word in range(HEADER_WORDS):
        effect[word] = 0


@compiled
def forward(effect: Words, length: int) -> int:
    """The packet goes on, as the first `length` bytes of its buffer."""
    effect[LENGTH] = length
    return FORWARD


@compiled
def drop(effect: Words, reason: int) -> int:
    """The packet ends here; `reason` is a place in the function's list of reasons."""
    effect[LENGTH] = 0
    effect[REASON] = reason
    return DROP


@compiled
def begin_put(effect: Words, key: Key, first: int, count: int) -> int:
    """Set `count` words of the record's value, from word `first` on.

    Returns where in `effect` the caller writes these words, or -1 if there is no room for them: the
    operation is then left out and counted.
    """
    at = _operation(effect, PUT, key, first, count)
    if at >= 0:
        effect[FILL] += count
    return at


@compiled
def put(effect: Words, key: Key, first: int, value: int) -> None:
    """Set one word of the record's value; a record that is not there is made, of zeros."""
    at = begin_put(effect, key, first, 1)
    if at >= 0:
        effect[at] = value


@compiled
def erase(effect: Words, key: Key) -> None:
    """Forget the record."""
    _operation(effect, ERASE, key, 0, 0)


@compiled
def _operation(effect: Words, kind: int, key: Key, first: int, count: int) -> int:
    words = KEY_WORDS
    while words > 0 and key[words - 1] == 0:
        words -= 1
    at = HEADER_WORDS + effect[FILL]
    if at + 1 + words + count > len(effect):
        effect[OVERFLOW] += 1
        return -1
    if key[0] >> TAG_SHIFT >= FIRST_LINEARIZABLE:
        effect[SHARED] += 1
    effect[at] = kind | words << 8 | first << 16 | count << 32
    for word in range(words):
        effect[at + 1 + word] = key[word]
    effect[FILL] += 1 + words
    return at + 1 + words
