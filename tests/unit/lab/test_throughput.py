"""The search finds what a chain carries, and TCP's metrics are those of RFC 6349 by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.lab.throughput.chain_under_test import even_schedule
from testbed.lab.throughput.search import LEAST_PPS, Trial, search
from testbed.lab.throughput.tcp import IperfError, tcp_metrics


def chain_of(capacity_pps: float, sender_pps: float = 1e12) -> Any:
    """A chain that carries `capacity_pps` and no more, and a sender that can do `sender_pps`."""

    def carry_out(rate_pps: float) -> Trial:
        sent = round(rate_pps * 60)
        return Trial(rate_pps, sent, min(sent, round(capacity_pps * 60)), rate_pps <= sender_pps)

    return carry_out


@given(st.floats(2, 1e5), st.floats(1.01, 50), st.sampled_from([0.3, 0.1, 0.02, 0.001]))
def test_the_rate_found_passes_and_one_just_above_fails(
    capacity: float, above: float, resolution: float
) -> None:
    found = search(chain_of(capacity), capacity * above, resolution)
    assert found.limit == "loss" and found.failed_pps is not None
    if found.rate_pps is None:
        assert found.failed_pps < LEAST_PPS
        return
    half_a_packet = 0.5 / 60
    assert found.rate_pps <= capacity + 2 * half_a_packet
    assert found.failed_pps >= capacity - 2 * half_a_packet
    assert found.failed_pps - found.rate_pps <= resolution * found.failed_pps
    passed = [trial.rate_pps for trial in found.trials if trial.passed(0.0)]
    assert found.rate_pps == max(passed)


def test_the_highest_rate_is_tried_first_and_ends_the_search_if_it_passes() -> None:
    found = search(chain_of(1e9), 1000.0, 0.01)
    assert (found.rate_pps, found.failed_pps, found.limit) == (1000.0, None, "highest rate tried")
    assert len(found.trials) == 1


def test_a_late_sender_is_no_loss_of_the_chain() -> None:
    found = search(chain_of(1e9, sender_pps=300.0), 1000.0, 0.01)
    assert found.limit == "sender"
    assert found.rate_pps == pytest.approx(300, rel=0.011)


def test_some_loss_may_be_acceptable() -> None:
    strict, mild = (search(chain_of(100.0), 1000.0, 0.001, loss) for loss in (0.0, 0.2))
    assert strict.rate_pps == pytest.approx(100, rel=0.002)
    assert mild.rate_pps == pytest.approx(125, rel=0.002)


def test_nothing_passes() -> None:
    dead = search(lambda rate: Trial(rate, 100, 0, True), 1000.0, 0.1)
    assert dead.rate_pps is None
    assert Trial(5.0, 0, 0, True).loss_ratio == 1.0 and not Trial(5.0, 0, 0, True).passed(0.5)
    for bad in ((0.0, 0.1, 0.0), (1.0, 0.0, 0.0), (1.0, 0.1, 1.0)):
        with pytest.raises(ValueError, match="expected"):
            search(chain_of(1.0), *bad)


def test_a_schedule_is_even_and_has_every_packet() -> None:
    schedule = even_schedule(300.0, 2.0, 4, 1000)
    assert len(schedule) == 600
    gaps = np.diff(schedule["scheduled_ns"])
    assert schedule["scheduled_ns"][0] == 1000 and gaps.min() >= 3333332 and gaps.max() <= 3333334
    for flow in range(4):
        assert schedule["seq"][schedule["flow"] == flow].tolist() == list(range(150))


def report(**sender: Any) -> dict[str, Any]:
    fields = {
        "bytes": 10_000_000, "retransmits": 100, "min_rtt": 20_000, "mean_rtt": 30_000,
        "max_snd_cwnd": 90_000, "seconds": 10.0,
    }  # fmt: skip
    return {
        "start": {"tcp_mss_default": 1000},
        "end": {
            "streams": [{"sender": {**fields, **sender}}],
            "sum_received": {"bits_per_second": 4e6},
        },
    }


def test_tcp_by_hand() -> None:
    found = tcp_metrics(report(min_rtt=15_000), report(), 10e6, 48, None)
    assert found.ideal_bps == pytest.approx(10e6 * 1000 / 1100)
    assert found.throughput_ratio == pytest.approx(4e6 / found.ideal_bps)
    assert found.transfer_time_ratio == pytest.approx(1 / found.throughput_ratio)
    assert found.efficiency_percent == pytest.approx(99.0)  # 100 segments of 1000 B of 10 MB
    assert found.buffer_delay_percent == pytest.approx(100.0)  # 30 ms against 15 ms
    assert found.bandwidth_delay_bytes == pytest.approx(found.ideal_bps * 0.015 / 8)
    assert found.bottleneck == "link"


def test_the_chain_is_the_bottleneck_if_it_carries_less() -> None:
    found = tcp_metrics(report(), report(), 10e6, 48, 800.0)
    assert (found.bottleneck, found.ideal_bps) == ("chain", 800 * 1000 * 8)
    assert found.throughput_ratio == pytest.approx(0.625)


def test_a_transfer_that_failed_is_no_measurement() -> None:
    for bad in ({"error": "unable to connect"}, report(bytes=0), report(min_rtt=0)):
        with pytest.raises(IperfError):
            tcp_metrics(bad, bad, 10e6, 48, None)
