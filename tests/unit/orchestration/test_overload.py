"""Which server is to be relieved, and in what order the groups there are asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from testbed.orchestration.control.loads import Work
from testbed.orchestration.control.overload import (
    Limits,
    Memory,
    overloaded,
    primaries_at,
    utilisation,
)
from testbed.scenario.names import GroupKey

PERIOD_NS = 10
LIMITS = Limits(high=0.9, hold_ns=20, cool_ns=30)


def work(node: int, cores: float, request: int = 0, hop: int = 0, leads: bool = True) -> Work:
    return Work(node, request, GroupKey(hop, 0), leads, cores)


def asked(loads: Sequence[Mapping[int, float]], memory: Memory | None = None) -> list[int | None]:
    """The server to relieve after each period; nothing is made of it."""
    memory, out = memory or Memory(), []
    for period, load in enumerate(loads):
        begin_ns = period * PERIOD_NS
        memory, node = overloaded(memory, LIMITS, load, begin_ns, begin_ns + PERIOD_NS)
        out.append(node)
    return out


def test_a_server_is_relieved_that_has_been_too_busy_for_long_enough() -> None:
    assert asked([{3: 1.2}] * 3) == [None, 3, 3]


def test_the_limit_itself_is_no_overload() -> None:
    assert asked([{3: 0.9}] * 4) == [None] * 4


def test_a_calm_period_between_begins_anew() -> None:
    assert asked([{3: 1.2}, {3: 0.5}, {3: 1.2}, {3: 1.2}]) == [None, None, None, 3]


def test_a_server_that_no_longer_hosts_anything_is_forgotten() -> None:
    assert asked([{3: 1.2}, {}, {3: 1.2}, {3: 1.2}]) == [None, None, None, 3]


def test_of_several_the_busiest_that_is_due() -> None:
    assert asked([{1: 1.0, 2: 1.1}] * 2) == [None, 2]
    # Server 4 is busier, but not for long enough.
    assert asked([{1: 1.0, 2: 1.1}, {1: 1.0, 2: 1.1, 4: 3.0}]) == [None, 2]
    assert asked([{2: 1.1, 1: 1.1}] * 2) == [None, 1]


def test_until_the_pause_is_over_nothing_is_looked_at() -> None:
    after = Memory({3: 0}, quiet_until_ns=25)
    # The period from 20 to 30 begins in the pause, and does not count.
    assert asked([{3: 1.2}] * 6, after) == [None, None, None, None, 3, 3]


def test_utilisation_is_of_all_that_a_server_hosts() -> None:
    found = utilisation([work(1, 0.2), work(1, 0.1, leads=False), work(2, 0.3)], {1: 0.5, 2: 0.25})
    assert found == {1: pytest.approx(0.6), 2: pytest.approx(1.2)}


def test_primaries_are_asked_about_by_their_work() -> None:
    there = [
        work(1, 0.1, request=1),
        work(1, 0.3, request=2),
        work(1, 0.9, request=3, leads=False),
        work(2, 0.8, request=4),
        work(1, 0.1, request=5),
        work(1, 0.0, request=6),
    ]
    assert [each.request for each in primaries_at(there, 1)] == [2, 1, 5]
