"""One direction of a link as a queue: when does a frame leave, or is it dropped?

A direction is a FIFO with one sender of `rate_bps` L2 bits per second, room for `queue_bytes` L2
bytes (the rest of the frame that is being sent included) and a propagation delay behind it.
With a trace, opportunities of 1500 bytes stand in place of the rate. Pure and in integers, so
that the compiled loop of `line_io` and a test run the same code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from testbed.compiled import compiled
from testbed.scenario.trace import OPPORTUNITY_BYTES

DROPPED = -1
_BITS_NS = 8_000_000_000
"""Bits of a byte times nanoseconds of a second."""
_MS_NS = 1_000_000


@compiled
def serialised_at(
    arrival_ns: int, busy_until_ns: int, l2_bytes: int, rate_bps: int, queue_bytes: int
) -> int:
    """When the frame's last bit is on the wire, the next `busy_until_ns`, or DROPPED.

    An idle direction takes any frame.
    """
    backlog_ns = busy_until_ns - arrival_ns
    if backlog_ns <= 0:
        return arrival_ns + l2_bytes * _BITS_NS // rate_bps
    # A byte of backlog lasts 8e9/rate ns; comparing products spares the rounding of a division.
    if backlog_ns * rate_bps > (queue_bytes - l2_bytes) * _BITS_NS:
        return DROPPED
    return busy_until_ns + l2_bytes * _BITS_NS // rate_bps


@compiled
def opportunity_ns(times_ms: NDArray[np.int64], begin_ns: int, number: int) -> int:
    """When opportunity `number` of a trace is that begins at `begin_ns` and repeats for ever."""
    count = len(times_ms)
    rounds, place = number // count, number % count
    return int(begin_ns + (rounds * times_ms[count - 1] + times_ms[place]) * _MS_NS)


@compiled
def first_opportunity(times_ms: NDArray[np.int64], begin_ns: int, at_ns: int) -> int:
    """The number of the first opportunity that is not before `at_ns`."""
    elapsed_ns = at_ns - begin_ns
    if elapsed_ns <= 0:
        return 0
    count = len(times_ms)
    period_ns = times_ms[count - 1] * _MS_NS
    rounds = (elapsed_ns - 1) // period_ns
    wanted_ns = elapsed_ns - rounds * period_ns
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if times_ms[middle] * _MS_NS >= wanted_ns:
            high = middle
        else:
            low = middle + 1
    return int(rounds * count + low)


@compiled
def delivered_at(
    first: int, number: int, left_bytes: int, frame_bytes: int, queue_bytes: int
) -> tuple[int, int]:
    """The opportunity that delivers a frame's last byte, and what is left of it; DROPPED if none.

    `first` is the first opportunity from the frame's arrival on; `number` the one that the frames
    before it end in, with `left_bytes` left. A frame may take several, and several may share one,
    as in mahimahi; what no frame that has come by then wants is lost.
    """
    if number < first:
        number, left_bytes = first, OPPORTUNITY_BYTES
    waiting = (number - first + 1) * OPPORTUNITY_BYTES - left_bytes
    if waiting > 0 and waiting + frame_bytes > queue_bytes:
        return DROPPED, 0
    while frame_bytes > left_bytes:
        frame_bytes -= left_bytes
        number += 1
        left_bytes = OPPORTUNITY_BYTES
    return number, left_bytes - frame_bytes


LAG_BUCKETS = 80
"""Buckets of the lag histogram: below 1 us, then each a quarter wider than the last, to 40 s."""


@compiled
def lag_bucket(lag_ns: int) -> int:
    """The bucket of a lag."""
    bucket = 0
    limit_ns = 1_000
    while lag_ns >= limit_ns and bucket < LAG_BUCKETS - 1:
        bucket += 1
        limit_ns += limit_ns >> 2
    return bucket


def bucket_limits_ns() -> list[int]:
    """The upper limits of the buckets; what lies above the last is in the last bucket too."""
    limits = [1_000]
    while len(limits) < LAG_BUCKETS:
        limits.append(limits[-1] + (limits[-1] >> 2))
    return limits


def percentile_ns(counts: list[int], share: float) -> int:
    """The upper limit of the bucket in which `share` (0..1) of the counted lags end; 0 if none."""
    wanted = share * sum(counts)
    if wanted == 0:
        return 0
    seen = 0
    for limit, count in zip(bucket_limits_ns(), counts, strict=True):
        seen += count
        if seen >= wanted:
            return limit
    raise ValueError(f"share = {share!r}: expected 0..1")
