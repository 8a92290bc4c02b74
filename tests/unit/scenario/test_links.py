"""Links in a scenario file: traces, links that differ, changes, and what netem is told of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.scenario.errors import InputError
from testbed.scenario.impairments import GilbertElliott, Impairments
from testbed.scenario.link_plan import fastest_bps
from testbed.scenario.load import parse_scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.trace import load_trace, parse_trace
from testbed.scenario.types import Link, RunPlan
from testbed.substrate.links.carriers import carrier_changes
from testbed.substrate.links.line_queue import (
    DROPPED,
    delivered_at,
    first_opportunity,
    opportunity_ns,
)
from testbed.substrate.links.link_error import LinkError
from testbed.substrate.links.netem import check_netem, lacking, netem_options
from tests.support.places import SMOKE

MS = 1_000_000
LINK = Link(0, 1, 5_000_000, 10_000_000, 250_000)


def plan(links: str) -> RunPlan:
    text = SMOKE.read_text().replace("links:\n  rate_bps: 50e6", f"links:\n  {links}")
    return make_plan(parse_scenario(text), 1)


def mahimahi(times_ms: list[int], frames: list[tuple[int, int]], until_ms: int) -> list[int]:
    """When frames (arrival_ms, bytes) leave, as mahimahi's link queue does it, step by step."""
    waiting, left_of_first, done = list(frames), 0, []
    for begin in range(0, until_ms, times_ms[-1]):
        for at in (begin + time for time in times_ms):
            room = 1500
            while room > 0 and waiting and waiting[0][0] <= at:
                left_of_first = left_of_first or waiting[0][1]
                used = min(room, left_of_first)
                room -= used
                left_of_first -= used
                if left_of_first == 0:
                    waiting.pop(0)
                    done.append(at)
    return done


@settings(deadline=None)  # the first call compiles
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=12).map(sorted).filter(lambda t: t[-1] > 0),
    st.lists(st.tuples(st.integers(0, 15), st.integers(50, 3000)), min_size=1, max_size=25),
)
def test_a_trace_delivers_as_mahimahi_does(times: list[int], gaps: list[tuple[int, int]]) -> None:
    frames, now = [], 0
    for gap, size in gaps:
        now += gap
        frames.append((now, size))
    times_ms = np.array(times, dtype=np.int64)
    number, left, found = -1, 0, []
    for arrival_ms, size in frames:
        first = first_opportunity(times_ms, 0, arrival_ms * MS)
        number, left = delivered_at(first, number, left, size, 1 << 40)
        found.append(opportunity_ns(times_ms, 0, number) // MS)
    expected = mahimahi(times, frames, found[-1] + 2 * times[-1] + 1)
    assert found == expected[: len(found)]


def test_a_queue_before_a_trace_is_bounded_in_bytes() -> None:
    number, left = delivered_at(5, -1, 0, 1500, 3000)
    assert (number, left) == (5, 0)
    assert delivered_at(5, number, left, 1500, 3000) == (6, 0)
    assert delivered_at(5, 6, 0, 1, 3000)[0] == DROPPED
    assert delivered_at(6, 6, 0, 1500, 3000) == (7, 0)


def test_a_trace_has_a_rate_and_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("1\n1\n4\n")
    trace = load_trace(str(path))
    assert trace.mean_bps == pytest.approx(3 * 1500 * 8 / 0.004)
    before = trace.sha256
    path.write_text("1\n2\n4\n")
    assert load_trace(str(path)).sha256 != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\n-2\n", "line 2"),
        ("1\nx\n", "line 2"),
        ("3\n2\n", "at least 3"),
        ("", "no period"),
        ("0\n0\n", "no period"),
    ],
)
def test_a_trace_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_trace(text, "trace")


def test_a_link_that_differs_and_the_others() -> None:
    made = plan(
        "loss: 0.01\n  by_link:\n"
        "    - {between: [east, west], delay_s: 0.02, rate_bps: 2e6, loss: 0.0, jitter_s: 0.001}"
    )
    north, _, direct = made.topology.links
    assert north.impairments == Impairments(loss=0.01)
    assert (direct.delay_ns, direct.rate_bps) == (20 * MS, 2_000_000)
    assert direct.impairments == Impairments(jitter_ns=MS)


def test_changes_say_all_that_holds_from_their_time_on() -> None:
    made = plan(
        "changes:\n"
        "    - {at_s: 3, between: [west, north], up: true}\n"
        "    - {at_s: 1, between: [west, north], rate_bps: 1e6, loss: 0.5}\n"
        "    - {at_s: 2, between: [west, north], up: false}\n"
        "    - {at_s: 4, loss: 0.0}"
    )
    assert [(c.at_ns // MS, c.index, c.up) for c in made.link_changes] == [
        (1000, 0, True), (2000, 0, False), (3000, 0, True), (4000, 0, True), (4000, 1, True),
        (4000, 2, True),
    ]  # fmt: skip
    assert [c.link.impairments.loss for c in made.link_changes] == [0.5, 0.5, 0.5, 0, 0, 0]
    assert {c.link.rate_bps for c in made.link_changes if c.index == 0} == {1_000_000}
    cuts = [(c.at_ns // MS, c.up) for c in carrier_changes(made.link_changes)]
    assert cuts == [(2000, False), (3000, True)]


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ("by_link: [{between: [west, south]}]", "by_link.0.between"),
        ("changes: [{at_s: 99, loss: 0.1}]", "links.changes.0.at_s = .*before traffic.duration_s"),
        ("by_link: [{between: [west, east], trace: x, rate_bps: 1e6}]", "either trace or rate_bps"),
        ("trace: /nowhere/trace", "links.trace = .*readable file"),
        ("loss: 1.5", "links.loss"),
    ],
)
def test_what_cannot_be_is_refused(links: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan(links)


def test_netem_is_told_all_that_it_can_do() -> None:
    assert netem_options(LINK, 1000) == "delay 5000.000us rate 10000000bit limit 258"
    full = Impairments(jitter_ns=MS, loss=0.015, reorder=0.25, duplicate=1e-6)
    assert netem_options(dataclasses.replace(LINK, impairments=full), 1000, seed=7) == (
        "delay 5000.000us 1000.000us loss random 1.5% duplicate 0.0001% reorder 25% "
        "rate 10000000bit limit 259 seed 7"
    )
    burst = Impairments(burst=GilbertElliott(0.01, 0.25, 0.9, 0.001))
    assert "loss gemodel 1% 25% 90% 0.1% rate" in netem_options(
        dataclasses.replace(LINK, impairments=burst), 1000
    )


@pytest.mark.parametrize(
    "impairments",
    [
        Impairments(jitter_ns=1, jitter_reorders=True),
        Impairments(loss=0.1, burst=GilbertElliott(0.1, 0.1)),
    ],
)
def test_what_netem_cannot_do_is_known(impairments: Impairments) -> None:
    link = dataclasses.replace(LINK, impairments=impairments)
    assert lacking([LINK]) is None
    assert lacking([LINK, link]) is not None


def test_a_netem_without_the_loss_that_was_asked_for_is_refused() -> None:
    link = dataclasses.replace(LINK, impairments=Impairments(loss=0.1))
    options = {
        "limit": 258,
        "delay": {"delay": 0.005},
        "rate": {"rate": 1_250_000},
        "loss-random": {"loss": 0.1, "correlation": 0},
    }
    check_netem("x", {"kind": "netem", "options": options}, link, 1000)
    with pytest.raises(LinkError):
        check_netem("x", {"kind": "netem", "options": options}, LINK, 1000)
    options.pop("loss-random")
    with pytest.raises(LinkError):
        check_netem("x", {"kind": "netem", "options": options}, link, 1000)


def test_the_fastest_link_may_come_with_a_change() -> None:
    slow = plan("rate_bps: 50e6")
    later = plan("rate_bps: 50e6\n  changes: [{at_s: 1, rate_bps: 2e9}]")
    assert (fastest_bps([slow]), fastest_bps([slow, later])) == (50 * 10**6, 2 * 10**9)
