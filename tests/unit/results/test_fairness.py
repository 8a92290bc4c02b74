"""Runs of a seed that differ in more than the decision are found out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from testbed.results.fairness import check_fairness
from tests.support.results_support import event, packets, schedule, write_plan, write_run


def events(shift_ms: float = 0.0, node: int = 4) -> list[dict[str, object]]:
    return [
        event(1 + shift_ms, "request", request=0, chain="voip", due_ns=0),
        event(2 + shift_ms, "decision", request=0, accepted=True, decide_ns=int(shift_ms)),
        event(9 + shift_ms, "fault", kind="server-down", node=node),
    ]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_plan(tmp_path, ["deft", "ppo"], [1])
    write_run(tmp_path / "deft" / "seed-1", packets([schedule(9)], []), events(), 1)
    return tmp_path


def test_runs_that_differ_in_the_outcome_are_fair(results: Path) -> None:
    frame = packets([schedule(9)], [(0, 0, 3, 99)]).sample(frac=1, random_state=1)
    write_run(results / "ppo" / "seed-1", frame, events(shift_ms=0.3), 1)
    assert check_fairness(results) == []


def test_a_packet_due_at_another_time_is_found(results: Path) -> None:
    changed = schedule(9)
    changed.schedule["scheduled_ns"][4] += 1
    write_run(results / "ppo" / "seed-1", packets([changed], []), events(), 1)
    assert check_fairness(results) == [
        "seed 1: ppo differs from deft: 1 packets were asked for differently"
    ]


def test_a_packet_too_few_is_found(results: Path) -> None:
    write_run(results / "ppo" / "seed-1", packets([schedule(8)], []), events(), 1)
    assert check_fairness(results) == ["seed 1: ppo differs from deft: 8 packets, expected 9"]


def test_another_size_is_found(results: Path) -> None:
    frame = packets([schedule(9)], [])
    frame["l3_bytes"] = np.arange(9) // 7 + 100
    write_run(results / "ppo" / "seed-1", frame, events(), 1)
    assert "2 packets were asked for differently" in check_fairness(results)[0]


def test_another_fault_is_found(results: Path) -> None:
    write_run(results / "ppo" / "seed-1", packets([schedule(9)], []), events(node=5), 1)
    texts = check_fairness(results)
    assert len(texts) == 2
    assert (
        'only deft has the event {"event": "fault", "kind": "server-down", "node": 4}' in texts[0]
    )


def test_an_event_twice_is_found(results: Path) -> None:
    twice = [*events(), events()[0]]
    write_run(results / "ppo" / "seed-1", packets([schedule(9)], []), twice, 1)
    assert check_fairness(results) == ["seed 1: ppo differs from deft: 3 events, expected 2"]


def test_another_plan_is_found(results: Path) -> None:
    write_run(results / "ppo" / "seed-1", packets([schedule(9)], []), events(), 1, digest="e")
    assert check_fairness(results) == [
        "seed 1: ppo differs from deft: plan_digest = 'e', expected 'd'"
    ]
