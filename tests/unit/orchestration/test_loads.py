"""Loads of functions from the counters of their instances."""

from __future__ import annotations

import dataclasses

import pytest

from testbed.orchestration.control.loads import Counted, Work, loads_of, work_between
from testbed.scenario.names import GroupKey

CAPACITY = {1: 1.0, 2: 0.5, 3: 1.0}
COUNTED = Counted(1, 0, GroupKey(0, 2), True, received=100, cost_ns=1000)


def work(node: int, hop: int, shard: int, cores: float, leads: bool = True) -> Work:
    return Work(node, 0, GroupKey(hop, shard), leads, cores)


def test_work_is_frames_times_cost_over_the_period() -> None:
    now = {"a": dataclasses.replace(COUNTED, received=400), "new": COUNTED}
    (found,) = work_between({"a": COUNTED, "gone": COUNTED}, now, period_ns=1_000_000)
    assert found.cores == pytest.approx(0.3)
    assert found == Work(1, 0, GroupKey(0, 2), True, found.cores)


def test_all_that_a_server_hosts_makes_it_busy_and_the_primaries_are_the_functions_own() -> None:
    done = [
        work(1, 0, 0, 0.3),
        work(1, 0, 1, 0.1),
        work(1, 1, 0, 0.2),
        work(1, 2, 0, 0.05, leads=False),
        work(2, 0, 0, 0.1, leads=False),
    ]
    load = loads_of(done, {(0, 0): {0: 1, 1: 1}}, CAPACITY)[0, 0]
    assert load.utilisation == pytest.approx(0.65)
    assert load.own == pytest.approx(0.4)
    assert (load.instances, load.shards) == (1, 2)
    # At one server there is none fewer.
    assert load.merged == pytest.approx(0.65)


def test_capacity_counts_and_the_busiest_server_is_the_functions_load() -> None:
    done = [work(1, 0, 0, 0.3), work(2, 0, 1, 0.2)]
    load = loads_of(done, {(0, 0): {0: 1, 1: 2}}, CAPACITY)[0, 0]
    assert load.utilisation == pytest.approx(0.4)
    assert load.own == pytest.approx(0.4)
    # All of it at the first of two servers with as many shards.
    assert load.merged == pytest.approx(0.5)


def test_what_other_functions_do_there_counts_when_servers_are_left() -> None:
    done = [work(1, 0, 0, 0.1), work(1, 0, 1, 0.1), work(1, 1, 0, 0.5), work(3, 0, 2, 0.2)]
    load = loads_of(done, {(0, 0): {0: 1, 1: 1, 2: 3}}, CAPACITY)[0, 0]
    assert load.utilisation == pytest.approx(0.7)
    assert load.merged == pytest.approx(0.9)


def test_a_function_without_primaries_has_no_load() -> None:
    assert loads_of([work(1, 0, 0, 0.3)], {(0, 0): {}}, CAPACITY) == {}


def test_what_would_be_left_is_measured_at_its_own_speed() -> None:
    done = [work(2, 0, 0, 0.1), work(2, 0, 1, 0.1), work(1, 0, 2, 0.1)]
    load = loads_of(done, {(0, 0): {0: 2, 1: 2, 2: 1}}, CAPACITY)[0, 0]
    assert load.merged == pytest.approx(0.6)


def test_a_server_that_would_be_left_gives_away_what_is_too_much_for_its_share() -> None:
    where = {0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 3}
    done = [work(1, 0, shard, 0.2) for shard in range(4)]
    done += [work(2, 0, 4, 0.05), work(3, 0, 5, 0.02)]
    load = loads_of(done, {(0, 0): where}, CAPACITY)[0, 0]
    assert load.utilisation == pytest.approx(0.8)
    assert load.merged == pytest.approx(0.6)
