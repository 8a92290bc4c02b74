"""What links of a host carry follows from what was measured, in words that name both rates."""

from __future__ import annotations

from testbed.records.fidelity_checks import LinkFigures
from testbed.scenario.model import ToleranceSpec
from testbed.substrate.greatest_rate import GreatestRate, greatest_of

MBPS = 1_000_000
TOLERANCES = ToleranceSpec(link_rate_share=0.05)


def figures(asked_mbps: int, measured_mbps: float | None) -> LinkFigures:
    return LinkFigures(
        name=f"link of {asked_mbps}",
        asked_delay_ns=1_000_000,
        asked_jitter_ns=0,
        asked_rate_bps=asked_mbps * MBPS,
        asked_loss=0.0,
        loss_memory=0.0,
        probes=39,
        delay_p50_ns=1_000_000,
        rate_bps=None if measured_mbps is None else measured_mbps * MBPS,
        train_ns=1_000_000,
        sent=160,
        lost=0,
    )


def test_a_rate_is_carried_if_both_directions_get_it() -> None:
    measured = [figures(500, 499), figures(200, 200), figures(200, 198), figures(500, 420)]
    found = greatest_of(measured, TOLERANCES, "userspace")
    assert found == GreatestRate("userspace", 200 * MBPS, 500 * MBPS, 420 * MBPS)
    assert str(found).startswith("up to 200 Mb/s by userspace; 500 Mb/s gave 420 Mb/s")


def test_a_rate_above_one_that_fails_counts_for_nothing() -> None:
    measured = [figures(100, 70), figures(200, 200)]
    assert greatest_of(measured, TOLERANCES, "netem").carried_bps == 0
    nothing_came = [figures(100, 100), figures(200, None)]
    assert greatest_of(nothing_came, TOLERANCES, "netem").measured_bps == 0.0


def test_all_that_was_tried_may_be_carried() -> None:
    found = greatest_of([figures(100, 100)], TOLERANCES, "netem")
    assert (found.carried_bps, found.failed_bps) == (100 * MBPS, None)
    assert "the greatest rate tried" in str(found)
