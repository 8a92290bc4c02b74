"""One direction of a link as a queue: when does a frame leave, or is it dropped?

A direction is a FIFO with one sender of `rate_bps` L2 bits per second, room for `queue_bytes` L2
bytes (the rest of the frame that is being sent included) and a propagation delay behind it.
Pure and in integers, so that the compiled loop of `line_io` and a test run the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from numba import njit

DROPPED = -1
_BITS_NS = 8_000_000_000
"""Bits of a byte times nanoseconds of a second."""


def _serialised_at(
    arrival_ns: int, busy_until_ns: int, l2_bytes: int, rate_bps: int, queue_bytes: int
) -> int:
    backlog_ns = busy_until_ns - arrival_ns
    if backlog_ns <= 0:
        return arrival_ns + l2_bytes * _BITS_NS // rate_bps
    # A byte of backlog lasts 8e9/rate ns; comparing products spares the rounding of a division.
    if backlog_ns * rate_bps > (queue_bytes - l2_bytes) * _BITS_NS:
        return DROPPED
    return busy_until_ns + l2_bytes * _BITS_NS // rate_bps


serialised_at = cast(Callable[[int, int, int, int, int], int], njit(cache=True)(_serialised_at))
"""(arrival_ns, busy_until_ns, l2_bytes, rate_bps, queue_bytes) -> when the frame's last bit is on
the wire, which is the next `busy_until_ns`, or DROPPED. An idle direction takes any frame."""


def _lag_bucket(lag_ns: int) -> int:
    bucket = 0
    limit_ns = 1_000
    while lag_ns >= limit_ns and bucket < LAG_BUCKETS - 1:
        bucket += 1
        limit_ns += limit_ns >> 2
    return bucket


LAG_BUCKETS = 80
"""Buckets of the lag histogram: below 1 us, then each a quarter wider than the last, to 40 s."""

lag_bucket = cast(Callable[[int], int], njit(cache=True)(_lag_bucket))
"""(lag_ns) -> its bucket."""


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
