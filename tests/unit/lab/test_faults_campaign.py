"""What a campaign is made of before anything is broken, and what is told about it."""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agents.placement.baselines import RandomPolicy
from testbed.cli.screens.campaign_screen import CampaignScreen, kinds_table, rows_table
from testbed.decisions.placement import Ledger
from testbed.lab.faults.campaign import (
    FAULTS_PER_EPISODE,
    allowed_kinds,
    plan_episodes,
    too_busy,
    totals_of,
    with_replication,
)
from testbed.lab.faults.kinds import KINDS, LAST
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.plan import make_plan
from testbed.scenario.types import Placement
from testbed.substrate.buffers import deep_buffers
from tests.support.faults_support import MS, packets, record
from tests.support.places import SCENARIOS

SCENARIO = load_scenario(SCENARIOS / "faults.yaml")


def test_all_faults_are_planned_and_each_kind_about_equally_often() -> None:
    kinds = [kind for kind in KINDS if kind not in LAST]
    episodes = list(plan_episodes(50, kinds, seed=1))
    assert sum(map(len, episodes)) == 50
    assert max(map(len, episodes)) <= FAULTS_PER_EPISODE
    counts = Counter(kind for episode in episodes for kind in episode)
    assert max(counts.values()) - min(counts[kind] for kind in kinds) <= 1


def test_what_cannot_be_mended_comes_last_and_once() -> None:
    for episode in plan_episodes(60, list(KINDS), seed=2):
        assert [kind in LAST for kind in episode] == [False] * (len(episode) - 1) + [True]
    assert list(plan_episodes(2, ["controller-kill"], 1)) == [("controller-kill",)] * 2


def test_the_seed_decides_the_order() -> None:
    plans = [list(plan_episodes(30, list(KINDS), seed)) for seed in (5, 5, 6)]
    assert plans[0] == plans[1] != plans[2]


def test_a_kind_that_there_is_not_or_that_cannot_heal_is_refused() -> None:
    with pytest.raises(InputError, match="kill-everybody"):
        allowed_kinds(SCENARIO, ["kill-everybody"])
    with pytest.raises(InputError, match="availability"):
        allowed_kinds(SCENARIO, ["primary-and-controller"])
    available = with_replication(SCENARIO, without_backup="availability")
    assert allowed_kinds(available, ["primary-and-controller"]) == ("primary-and-controller",)
    of_one_group = {"primary-and-backup", "primary-and-heir"}
    with pytest.raises(InputError, match="shards"):
        allowed_kinds(SCENARIO, ["scale"])
    with pytest.raises(InputError, match=r"replication\.backups of 2"):
        allowed_kinds(SCENARIO, ["primary-and-backup"])
    sharded = [each.model_copy(update={"shards": 4}) for each in SCENARIO.chains]
    elastic = available.model_copy(update={"chains": sharded})
    assert set(allowed_kinds(elastic, [])) == set(KINDS) - of_one_group
    unfit = {*of_one_group, "primary-and-controller", "scale"}
    assert set(allowed_kinds(SCENARIO, [])) == set(KINDS) - unfit
    assert set(allowed_kinds(with_replication(elastic, backups=2), [])) == set(KINDS)
    safe = with_replication(SCENARIO, backups=2)
    assert set(allowed_kinds(safe, [])) == set(KINDS) - {"scale"}
    with pytest.raises(InputError, match="groups with a backup"):
        allowed_kinds(with_replication(available, backups=0), [])


def test_a_drawn_placement_is_two_servers_that_live() -> None:
    plan = make_plan(SCENARIO, 1)
    ledger = Ledger(plan.servers, plan.profiles, delay_matrix_ns(plan.topology))
    policy = RandomPolicy(1)
    ledger.server_down(2)
    found = set()
    for number in range(200):
        request = dataclasses.replace(plan.requests[0], id=number)
        placement = policy.decide(ledger.observe(request, []))
        assert placement is not None and placement.primary != placement.backup
        found |= {placement.primary, placement.backup}
    assert found == {0, 1, 3, 4}
    ledger.server_up(2)
    assert ledger.observe(plan.requests[0], []).alive[2]
    for node in (0, 1, 2, 3):
        ledger.server_down(node)
    assert policy.decide(ledger.observe(plan.requests[0], [])) == Placement(4, None)


def row(**changes: Any) -> dict[str, Any]:
    figures = dict.fromkeys(
        ("promotion_ms", "replay_ms", "gap_ms", "held_ms", "back_to_protected_ms"), 1.0
    )
    return {
        "fault": "kill-primary",
        "target": "r0-h0-m0",
        "episode": "episode-000",
        "detection_ms": None,
        **figures,
        **dict.fromkeys(("lost", "declared", "on_failed_link", "lost_undeclared"), 0),
        "violations": [],
        "number": 0,
        "invalid": None,
        **changes,
    }


def test_totals_count_violations_and_losses() -> None:
    rows = [row(), row(violations=["a: b", "c: d"], lost_undeclared=3)]
    totals = {"faults": 2, "violations": 2, "lost_undeclared": 3}
    assert totals_of(rows) == totals
    busy = row(violations=["e: f"], lost_undeclared=9, invalid="the host was too busy")
    assert totals_of([*rows, busy]) == {**totals, "discarded": 1}


def test_an_episode_on_a_host_that_stood_still_does_not_count() -> None:
    assert too_busy(record(), 0.010) is None
    frame = packets()
    late = frame.index[-len(frame) // 20 :]
    frame.loc[late, "sent_ns"] += 50 * MS
    reason = too_busy(record(frame=frame), 0.010)
    assert reason is not None and "0.050 s late" in reason
    frame["sent_ns"] = None
    assert too_busy(record(frame=frame), 0.010) is not None


def test_with_json_each_fault_is_a_line_and_violations_are_told_beside(
    capsys: pytest.CaptureFixture[str],
) -> None:
    beside = io.StringIO()
    screen = CampaignScreen(Console(file=beside, width=200), as_json=True)
    rows = [row(), row(violations=["reordered: chain 0"])]
    for each in rows:
        screen.row(each)
    screen.end(totals_of(rows), Path("results/x"))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [*rows, {"faults": 2, "violations": 1, "lost_undeclared": 0}]
    assert "episode-000, kill-primary of r0-h0-m0: reordered: chain 0" in beside.getvalue()


def test_tables_have_a_line_a_fault_and_a_line_a_kind() -> None:
    rows = [row(), row(gap_ms=3.0), row(fault="move", gap_ms=None)]
    assert len(rows_table(rows).rows) == 3
    text = io.StringIO()
    Console(file=text, width=200).print(kinds_table(rows))
    (line,) = (each for each in text.getvalue().splitlines() if "kill-primary" in each)
    assert "1.0 / 3.0" in line  # by nearest rank: values that were measured


def test_buffers_are_deep_for_a_moment(tmp_path: Path) -> None:
    default, lock = tmp_path / "rmem_default", tmp_path / "lock"
    default.write_text("212992\n")
    with pytest.raises(RuntimeError), deep_buffers(default, lock, 1 << 20):
        assert default.read_text() == str(1 << 20)
        raise RuntimeError
    assert default.read_text() == "212992"


def test_what_a_killed_run_left_of_the_buffers_is_put_right(tmp_path: Path) -> None:
    default, lock = tmp_path / "rmem_default", tmp_path / "lock"
    default.write_text(str(1 << 20))
    lock.write_text("212992")  # as it is while another run makes its ports
    with deep_buffers(default, lock, 1 << 20):
        assert default.read_text() == str(1 << 20)
    assert default.read_text() == "212992"
    assert lock.read_text() == ""
