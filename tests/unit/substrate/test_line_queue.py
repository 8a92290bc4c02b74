"""The queue model of one link direction: departure times, tail drop, lag histogram."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.substrate.links.line_queue import (
    DROPPED,
    bucket_limits_ns,
    lag_bucket,
    percentile_ns,
    serialised_at,
)

RATE_BPS = 100_000_000
FRAME_NS = 120_000  # 1500 bytes at 100 Mb/s


def test_an_idle_direction_sends_at_once() -> None:
    assert serialised_at(1_000, 0, 1500, RATE_BPS, 250_000) == 1_000 + FRAME_NS


def test_a_busy_direction_sends_after_what_waits() -> None:
    assert serialised_at(1_000, 50_000, 1500, RATE_BPS, 250_000) == 50_000 + FRAME_NS


def test_an_idle_direction_takes_a_frame_larger_than_its_queue() -> None:
    assert serialised_at(0, 0, 1500, RATE_BPS, 100) == FRAME_NS


def test_the_queue_is_full_to_the_byte() -> None:
    # Half a frame, 750 bytes, is still to be sent.
    assert serialised_at(0, FRAME_NS // 2, 1500, RATE_BPS, 2250) == FRAME_NS * 3 // 2
    assert serialised_at(0, FRAME_NS // 2, 1500, RATE_BPS, 2249) == DROPPED


@settings(deadline=None)  # the first call compiles
@given(
    st.lists(st.tuples(st.integers(0, 500_000), st.integers(60, 1514)), min_size=1, max_size=200),
    st.sampled_from([1_000_000, 10_000_000, 100_000_000, 10_000_000_000]),
    st.integers(1_514, 50_000),
)
def test_any_arrivals_leave_in_order_at_the_rate_and_within_the_queue(
    arrivals: list[tuple[int, int]], rate_bps: int, queue_bytes: int
) -> None:
    now_ns = busy_ns = 0
    sent_bits = 0
    start_ns: int | None = None
    for gap_ns, size in arrivals:
        now_ns += gap_ns
        end_ns = serialised_at(now_ns, busy_ns, size, rate_bps, queue_bytes)
        backlog_bytes = max(0, busy_ns - now_ns) * rate_bps / 8e9
        if end_ns == DROPPED:
            assert backlog_bytes + size > queue_bytes
            continue
        assert backlog_bytes == 0 or backlog_bytes + size <= queue_bytes
        frame_ns = size * 8_000_000_000 // rate_bps
        assert end_ns == max(now_ns, busy_ns) + frame_ns
        start_ns = end_ns - frame_ns if start_ns is None else start_ns
        sent_bits += 8 * size
        # A frame's time is cut to whole nanoseconds, so each may be early by less than one.
        assert sent_bits * 1e9 / rate_bps - len(arrivals) <= end_ns - start_ns
        busy_ns = end_ns


def test_lags_fall_into_the_bucket_below_whose_limit_they_are() -> None:
    limits = bucket_limits_ns()
    assert lag_bucket(0) == 0
    for bucket, limit in enumerate(limits[:-1]):
        assert lag_bucket(limit - 1) == bucket
        assert lag_bucket(limit) == bucket + 1
    assert lag_bucket(10**15) == len(limits) - 1


def test_a_percentile_is_a_limit_that_bounds_its_share() -> None:
    limits = bucket_limits_ns()
    counts = [0] * len(limits)
    assert percentile_ns(counts, 0.99) == 0
    counts[3], counts[10] = 98, 2
    assert percentile_ns(counts, 0.5) == limits[3]
    assert percentile_ns(counts, 0.98) == limits[3]
    assert percentile_ns(counts, 0.99) == limits[10]
