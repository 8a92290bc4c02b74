"""When functions are scaled by their load: neither at once, nor back and forth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.orchestration.control.hysteresis import (
    Decision,
    Limits,
    Load,
    Memory,
    after_change,
    decide,
)

LIMITS = Limits(high=0.8, low=0.4, hold_ns=20, cool_ns=50, max_instances=3)
NAME = (0, 1)
PERIOD_NS = 10


def even(total: float, instances: int, shards: int = 4) -> Load:
    """A function alone on equal servers, evenly spread."""
    fewer = max(1, instances - 1)
    busiest = total / instances
    return Load(busiest, busiest, total / fewer, instances, shards)


def run(
    totals: Sequence[float], instances: int = 1, load: Callable[[float, int], Load] = even
) -> list[tuple[int, int]]:
    """(period, instances after) of each decision, carried out at once."""
    memory, made = Memory(), []
    for period, total in enumerate(totals):
        now_ns = period * PERIOD_NS
        memory, decision = decide(memory, LIMITS, {NAME: load(total, instances)}, now_ns)
        if decision is not None:
            instances = decision.instances
            made.append((period, instances))
            memory = after_change(LIMITS, now_ns)
    return made


def test_out_when_it_was_too_busy_for_long_enough() -> None:
    assert run([0.9] * 3) == [(2, 2)]
    assert run([0.9] * 2) == []


def test_a_short_peak_changes_nothing() -> None:
    assert run([0.9, 0.9, 0.7] * 30) == []


def test_in_when_one_server_fewer_was_enough_for_long() -> None:
    assert run([0.3] * 6, instances=2) == [(5, 1)]
    assert run([0.3] * 5, instances=2) == []
    assert run([0.3] * 4 + [0.5] + [0.3] * 5, instances=2) == []


def test_after_a_change_nothing_is_decided_for_a_while() -> None:
    # Out in period 2, looked at again from period 7 on, out again when it held from there on.
    assert run([2.0] * 20) == [(2, 2), (9, 3)]


def test_never_more_servers_than_allowed_or_shards_nor_fewer_than_one() -> None:
    assert run([9.0] * 100)[-1][1] == 3
    assert run([9.0] * 100, load=lambda total, n: even(total, n, shards=2)) == [(2, 2)]
    assert run([9.0] * 100, load=lambda total, n: even(total, n, shards=1)) == []
    assert run([0.0] * 100, instances=1) == []


@pytest.mark.parametrize("instances", [1, 2, 3])
def test_a_load_between_the_thresholds_changes_nothing(instances: int) -> None:
    busiest = [0.41, 0.79, 0.6] * 50
    assert run([each * instances for each in busiest], instances) == []


@given(st.floats(0, 4), st.integers(1, 3))
def test_no_constant_load_makes_it_go_back_and_forth(total: float, instances: int) -> None:
    steps = [after for _, after in run([total] * 300, instances)]
    path = [instances, *steps]
    assert path in (sorted(path), sorted(path, reverse=True))
    assert len(path) <= 3


def test_a_load_that_goes_up_and_down_again_ends_where_it_began() -> None:
    assert [after for _, after in run([0.2] * 20 + [1.5] * 40 + [0.2] * 40)] == [2, 1]


def test_of_two_the_one_that_makes_most_of_the_load_is_scaled() -> None:
    loads = {
        (0, 0): Load(0.9, 0.2, 0.9, 1, 4),
        (1, 0): Load(0.9, 0.6, 0.9, 1, 4),
        (2, 0): Load(0.1, 0.1, 0.2, 2, 4),
    }
    memory = Memory()
    for now_ns in range(0, 100, 10):
        memory, decision = decide(memory, LIMITS, loads, now_ns)
        if decision is not None:
            break
    assert decision == Decision((1, 0), 2, loads[1, 0])


def test_too_much_comes_before_too_little() -> None:
    loads = {(0, 0): Load(0.1, 0.1, 0.2, 2, 4), (1, 0): Load(0.9, 0.0, 0.9, 1, 4)}
    memory = Memory({(1, 0): 0}, {(0, 0): 0})
    _, decision = decide(memory, LIMITS, loads, 1000)
    assert decision is not None and decision.function == (1, 0)


def test_a_function_that_is_gone_is_forgotten() -> None:
    memory, _ = decide(Memory({NAME: 0}, {NAME: 0}), LIMITS, {}, 1000)
    assert not memory.high_since_ns and not memory.low_since_ns
