"""What the fidelity benchmark makes of a load's outcome."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.fidelity import Case, cases, line_of
from bench.rigs.line_rig import Outcome
from bench.rigs.loadgen import Sent

MS = 1_000_000


def outcome(case: Case, numbers: np.ndarray, took_ns: np.ndarray, count: int) -> Outcome:
    """Frames that were sent in time and took so long, beside their time on the wire."""
    sent_ns = numbers * 1_000_000_000 // case.load_pps
    wire_ns = case.frame_bytes * 8 * 1_000_000_000 // case.link.rate_bps
    sent = Sent(count, count, 0, 0, 0, 0, 0)
    return Outcome(sent, numbers, sent_ns, sent_ns + took_ns + wire_ns, 0, None)


def first(kind: str, **changes: object) -> Case:
    found = next(case for case in cases() if case.kind == kind)
    return replace(found, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("late_us", "lost", "within"), [(90, 0, True), (110, 0, False), (20, 1, False)]
)
def test_a_delay_is_off_by_what_frames_are_late(late_us: int, lost: int, within: bool) -> None:
    case = first("delay")
    numbers = np.arange(1000 - lost)
    took_ns = np.full(len(numbers), case.link.delay_ns + late_us * 1000)
    figures = case.look(case, outcome(case, numbers, took_ns, 1000))
    assert figures["delay_error_p50_us"] == pytest.approx(late_us)
    assert figures["lost"] == lost
    assert case.keeps(case, figures) is within


@pytest.mark.parametrize(("share", "within"), [(1.02, True), (0.96, False)])
def test_a_rate_is_that_of_the_frames_that_come(share: float, within: bool) -> None:
    case = first("rate")
    gap_ns = case.frame_bytes * 8 * 1e9 / case.link.rate_bps / share
    came_ns = (np.arange(400) * gap_ns).astype(np.int64)
    seen = outcome(case, np.arange(400), np.zeros(400, dtype=np.int64), 400)
    figures = case.look(case, replace(seen, came_ns=came_ns))
    assert figures["rate_error_ratio"] == pytest.approx(share - 1, abs=1e-4)
    assert case.keeps(case, figures) is within


def test_losses_and_bursts_are_counted() -> None:
    case = first("burst-loss")
    kept = np.setdiff1d(np.arange(1000), [3, 4, 5, 100, 200, 201])
    figures = case.look(case, outcome(case, kept, np.zeros(994, dtype=np.int64), 1000))
    assert figures["loss_measured"] == pytest.approx(0.006)
    assert figures["burst_frames"] == pytest.approx(2.0)


def test_a_line_has_medians_and_spreads() -> None:
    line = line_of({"kind": "delay"}, [{"x_us": 3.0}, {"x_us": 1.0}, {"x_us": 2.0}], True)
    assert line["figures"] == {"x_us": 2.0} and line["spread"] == {"x_us": [1.0, 3.0]}
    assert (line["bench"], line["runs"], line["within"]) == ("fidelity", 3, True)
