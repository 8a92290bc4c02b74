"""Draws the fate of each frame on the wire; every run of a seed draws the same.

The n-th frame that comes to a direction of a link draws its numbers from (stream, n, purpose)
alone, not from a generator that others draw from too. So the fate of a frame depends neither on
time nor on what happens elsewhere: the same seed loses frames of the same numbers. The hash is
SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014). Pure.
"""

from __future__ import annotations

import numpy as np

from testbed.compiled import compiled

LOSS, STATE_LOSS, STATE, JITTER, REORDER, DUPLICATE, START = 0, 1, 2, 3, 4, 5, 6
"""What a number is drawn for."""
_PURPOSES = 8

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_UNIT = 1.0 / (1 << 53)


def stream_of(seed: int, link: int, forward: bool) -> int:
    """The stream of a direction of a link: a signed 64 bit number."""
    words = np.random.SeedSequence([seed, link, int(forward)]).generate_state(1, np.uint64)
    return int(words.astype(np.int64)[0])


@compiled
def draw(stream: int, number: int, purpose: int) -> float:
    """A number of 0 <= x < 1 for frame `number` of a stream."""
    z = np.uint64(stream) + np.uint64(number * _PURPOSES + purpose + 1) * _GOLDEN
    z = (z ^ (z >> _S30)) * _FIRST
    z = (z ^ (z >> _S27)) * _SECOND
    z = z ^ (z >> _S31)
    return float(z >> _S11) * _UNIT


@compiled
def next_state(stream: int, number: int, bad: int, to_bad: float, to_good: float) -> int:
    """Gilbert and Elliott's state after frame `number`: 1 is bad."""
    chance = draw(stream, number, STATE)
    if bad:
        return 0 if chance < to_good else 1
    return 1 if chance < to_bad else 0


@compiled
def first_state(stream: int, bad_share: float) -> int:
    """The state before the first frame, drawn from the stationary shares."""
    return 1 if draw(stream, 0, START) < bad_share else 0


@compiled
def jitter_ns(stream: int, number: int, delay_ns: int, within_ns: int) -> int:
    """What is added to the delay: uniform within +-`within_ns`, but no delay is below 0."""
    if within_ns == 0:
        return 0
    added = int((2.0 * draw(stream, number, JITTER) - 1.0) * within_ns)
    return max(added, -delay_ns)
