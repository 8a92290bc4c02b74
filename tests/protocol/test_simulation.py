"""The guarantees in simulated worlds, and proof that the checks notice if one does not hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol import names, plan
from tests.protocol.bench import Bench
from tests.protocol.campaign import EXPECTED, first_caught, violations
from tests.protocol.world import (
    CRASHES,
    PRIMARY_STEPS,
    SINK_WORDS,
    SINKS,
    SINKS_AT,
    SLOTS,
    STATS_AT,
)

SCHEDULES = 4000
CONTROL_SCHEDULES = 10_000

QUIET = {
    **{plan.FAULTS + n * plan.FAULT_WORDS + plan.FAULT_KIND: 0 for n in range(plan.MAX_FAULTS)},
    **{plan.CUTS + n * plan.CUT_WORDS + plan.CUT_FROM: 0 for n in range(plan.MAX_CUTS)},
    plan.MOVE_FAULT_PHASE: 0,
    plan.OUTAGE_BEGIN_NS: 0,
    plan.OUTAGE_END_NS: 0,
    plan.ABORT_MOVE: 0,
    plan.FULL_TABLE: 0,
}
"""A plan without faults; the network may still be bad."""


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def test_drawn_schedules_keep_all_guarantees(bench: Bench) -> None:
    bench.force({})
    failed = bench.run_many(0, SCHEDULES)
    assert {seed: _violations(bench, seed) for seed in failed} == {}


def test_drawn_schedules_do_what_they_are_for(bench: Bench) -> None:
    bench.force({})
    bench.world[STATS_AT : STATS_AT + len(names.STATS)] = 0
    bench.run_many(0, 1000)
    for what, least in LEAST.items():
        assert bench.world[STATS_AT + what] >= least, names.STATS[what]


LEAST = {
    names.EMISSIONS: 5000,
    names.AGAIN: 200,
    names.LATE_EMISSIONS: 5,
    names.CRASHES_OF_PRIMARIES: 200,
    names.CRASHES_OF_OTHERS: 100,
    names.PAUSES: 100,
    names.WOKEN_PAST_PROMOTION: 50,
    names.FALSE_SUSPICIONS: 100,
    names.UNCONFIRMED_PROMOTIONS: 100,
    names.REJOINS_IN_PLACE: 20,
    names.SNAPSHOTS_INSTALLED: 500,
    names.HAND_OVERS: 100,
    names.MOVES_ABORTED: 20,
    names.FAULTS_IN_MOVES: 50,
    names.OUTAGES: 20,
    names.CUTS: 200,
    names.DECLARED_LOSSES: 1000,
    names.VERDICT_DROPS: 500,
    names.STAMPER_RESTARTS: 200,
    names.EARLY_LOGS: 500,
    names.EARLY_PARTS: 500,
    names.CALLS: 50,
    names.RETRANSMISSIONS: 500,
}


@pytest.mark.parametrize("move", range(plan.NO_MOVE, plan.BACKUP_MOVE + 1))
@pytest.mark.parametrize("mode", [plan.PIPELINED, plan.DEFT])
def test_nothing_is_sent_again_for_the_sake_of_order(bench: Bench, mode: int, move: int) -> None:
    bench.force({plan.REORDER_ONLY: 1, plan.MODE: mode, plan.MOVE: move, plan.DELAY_NS: 2_000_000})
    bench.world[STATS_AT : STATS_AT + len(names.STATS)] = 0
    failed = bench.run_many(0, 300)
    assert {seed: _violations(bench, seed) for seed in failed} == {}
    assert bench.world[STATS_AT + names.EARLY_LOGS] > 300
    bench.force({})


def test_a_schedule_runs_again_alike(bench: Bench) -> None:
    bench.force({})
    runs = []
    for _ in range(2):
        bench.run(3, traced=True)
        sinks = bench.world[SINKS_AT : SINKS_AT + int(bench.world[SINKS]) * SINK_WORDS]
        runs.append((sinks.tolist(), list(bench.trace())))
    assert runs[0] == runs[1]
    assert runs[0][0]


@pytest.mark.parametrize("mode", [plan.PIPELINED, plan.DEFT])
@pytest.mark.parametrize("kind", [plan.CRASH, plan.PAUSE])
@pytest.mark.parametrize("whom", ["primary", "backup"])
@pytest.mark.parametrize("backups", [1, 2])
def test_a_fault_at_every_step(bench: Bench, mode: int, kind: int, whom: str, backups: int) -> None:
    base = QUIET | {plan.MODE: mode, plan.BACKUPS: backups, plan.PRIMARY: 0, plan.MOVE: 0}
    assert _fault_at_every_step(bench, base, kind, SLOTS if whom == "primary" else 1) == {}


@pytest.mark.parametrize("move", range(plan.DRAINED_MOVE, plan.BACKUP_MOVE + 1))
@pytest.mark.parametrize("whom", range(SLOTS))
def test_a_crash_at_every_step_of_a_move(bench: Bench, move: int, whom: int) -> None:
    base = QUIET | {plan.MODE: 0, plan.BACKUPS: 1, plan.PRIMARY: 0, plan.MOVE: move}
    base |= {plan.MOVE_NS: 5_000_000, plan.PACKETS: 10, plan.FLOWS: 2}
    assert _fault_at_every_step(bench, base, plan.CRASH, whom) == {}


def _fault_at_every_step(
    bench: Bench, base: dict[int, int], kind: int, whom: int
) -> dict[int, list[str]]:
    """What is broken by a fault at this step, for all steps of a schedule."""
    broken = {}
    happened = 0
    bench.force(base)
    bench.run(5)
    steps = int(bench.world[PRIMARY_STEPS])
    assert steps > 100
    for step in range(steps):
        fault = {plan.FAULT_KIND: kind, plan.FAULT_WHOM: whom, plan.FAULT_STEP: step}
        fault[plan.FAULT_LASTS_NS] = 45_000_000
        bench.force(base | {plan.FAULTS + word: value for word, value in fault.items()})
        if bench.run(5):
            broken[step] = violations(bench.world)
        happened += int(bench.world[CRASHES]) > 0
    bench.force({})
    assert kind != plan.CRASH or whom not in (0, SLOTS) or happened > 100
    return broken


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, (1 << 40) - 1), max_size=300))
def test_any_choices_keep_all_guarantees(entropy: list[int]) -> None:
    bench = _shared()
    broken = bench.run_entropy(entropy)
    assert broken == 0, violations(bench.world)


def _shared() -> Bench:
    """One world for all examples."""
    if not _BENCHES:
        _BENCHES.append(Bench())
    return _BENCHES[0]


_BENCHES: list[Bench] = []


@pytest.mark.parametrize("control", EXPECTED, ids=[names.CONTROLS[c] for c in EXPECTED])
def test_a_rule_that_is_switched_off_is_noticed(control: int) -> None:
    assert first_caught(control, EXPECTED[control], CONTROL_SCHEDULES) is not None


def _violations(bench: Bench, seed: int) -> list[str]:
    bench.run(seed)
    return violations(bench.world)
