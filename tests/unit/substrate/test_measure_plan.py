"""A measurement fits its link: no probe waits for another, no train overflows the queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.scenario.impairments import Impairments
from testbed.scenario.trace import load_trace
from testbed.scenario.types import NS_PER_S, Link
from testbed.substrate.links.line_queue import DROPPED, serialised_at
from testbed.substrate.measure_plan import (
    LEAST_PROBES,
    PROBE_BYTES,
    PROBES,
    TRAIN_BYTES,
    TRAIN_FRAMES,
    TRAIN_S,
    Measurement,
    measurement_of,
    wire_ns,
)


def link(rate_bps: int, queue_bytes: int = 250_000, jitter_ns: int = 0) -> Link:
    return Link(0, 1, 5_000_000, rate_bps, queue_bytes, Impairments(jitter_ns=jitter_ns))


def sent(asked: Link, times_ns: list[int], l2_bytes: int) -> list[int]:
    """How long each frame waits for those before it; DROPPED if the queue refuses it."""
    busy_ns, waits = 0, []
    for at_ns in times_ns:
        end_ns = serialised_at(at_ns, busy_ns, l2_bytes, asked.rate_bps, asked.queue_bytes)
        if end_ns == DROPPED:
            waits.append(DROPPED)
            continue
        waits.append(end_ns - at_ns - l2_bytes * 8 * NS_PER_S // asked.rate_bps)
        busy_ns = end_ns
    return waits


@settings(deadline=None)  # the queue is compiled
@given(
    rate_bps=st.integers(1_000, 40_000_000_000),
    queue_bytes=st.integers(1, 10_000_000),
    jitter_ns=st.integers(0, 100_000_000),
    directions=st.integers(1, 1000),
)
def test_every_link_carries_what_measures_it(
    rate_bps: int, queue_bytes: int, jitter_ns: int, directions: int
) -> None:
    asked = link(rate_bps, queue_bytes, jitter_ns)
    plan = measurement_of(asked, directions)
    assert LEAST_PROBES <= plan.probes <= PROBES and plan.frames <= TRAIN_FRAMES
    probes = [number * plan.probe_gap_ns for number in range(plan.probes)]
    assert set(sent(asked, probes, PROBE_BYTES)) == {0}
    assert plan.probe_gap_ns >= 2 * jitter_ns
    if not plan.trains:
        assert queue_bytes < 2.5 * PROBE_BYTES
        return
    assert plan.train_frames >= 2 and PROBE_BYTES <= plan.train_bytes <= TRAIN_BYTES
    assert DROPPED not in sent(asked, [0] * plan.train_frames, plan.train_bytes)
    slowest_ns = max(TRAIN_S * NS_PER_S, wire_ns(asked, 2 * PROBE_BYTES))
    assert plan.trains * wire_ns(asked, plan.train_frames * plan.train_bytes) <= slowest_ns


@pytest.mark.parametrize(
    ("rate_bps", "queue_bytes", "expected"),
    [
        (100_000_000, 250_000, Measurement(40, 2_000_000, 1, 120, 1400)),
        (200_000, 250_000, Measurement(40, 8_000_000, 1, 17, 1400)),
        (10_000, 250_000, Measurement(12, 160_000_000, 1, 8, 156)),
        (100_000_000, 3_000, Measurement(40, 2_000_000, 60, 2, 1200)),
    ],
)
def test_slow_links_and_short_queues(
    rate_bps: int, queue_bytes: int, expected: Measurement
) -> None:
    assert measurement_of(link(rate_bps, queue_bytes), 2) == expected


def test_a_trace_is_probed_unless_it_is_silent_for_long(tmp_path: Path) -> None:
    cases = (("1\n2\n10\n", 40), (10 * "1\n" + "5000\n", 0), (10 * "5000\n" + "5001\n", 0))
    for number, (text, probes) in enumerate(cases):
        path = tmp_path / f"trace-{number}"
        path.write_text(text)
        trace = load_trace(str(path))
        asked = Link(0, 1, 0, round(trace.mean_bps), 250_000, trace=trace)
        plan = measurement_of(asked, 2)
        assert (plan.probes, plan.trains) == (probes, 0)
