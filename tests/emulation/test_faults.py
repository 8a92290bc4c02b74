"""A small campaign on real processes and packets: promises are kept, and the judge can say no."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.lab.faults.judge import judge
from testbed.lab.faults.record import read_episode
from testbed.records import packets as packet_records
from testbed.substrate.ownership import known_runs
from tests.support.command import deftbed
from tests.support.places import ROOT

pytestmark = pytest.mark.emulation

SCENARIO = ROOT / "scenarios" / "faults.yaml"
KINDS = "kill-primary,stop-primary,kill-backup,partition,move,controller-kill"


@dataclass(frozen=True)
class Campaign:
    """`rows` are the faults that count, `episode` is the folder of the last of them.

    While somebody else takes the host's cores, episodes do not count and are repeated.
    """

    rows: list[dict[str, Any]]
    totals: dict[str, Any]
    episode: Path


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    folder = tmp_path_factory.mktemp("faults") / "results"
    done = deftbed(
        "faults", str(SCENARIO), "--count", "6", "--kinds", KINDS, "--seed", "4", "--json",
        "--results", str(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, totals = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [line for line in lines if line["invalid"] is None]
    yield Campaign(rows, totals, folder / rows[-1]["episode"])
    shutil.rmtree(folder)


def test_six_kinds_of_faults_break_no_promise(campaign: Campaign) -> None:
    totals = campaign.totals
    assert (totals["faults"], totals["violations"], totals["lost_undeclared"]) == (6, 0, 0)
    assert [row["violations"] for row in campaign.rows] == [[]] * 6
    assert {row["fault"] for row in campaign.rows} == set(KINDS.split(","))


def test_a_killed_primary_is_followed_by_its_backup(campaign: Campaign) -> None:
    (row,) = (row for row in campaign.rows if row["fault"] == "kill-primary")
    steps = [row[name] for name in ("detection_ms", "promotion_ms", "replay_ms")]
    assert None not in steps and steps == sorted(steps)
    assert row["back_to_protected_ms"] is not None


def test_the_zombie_had_something_to_send(campaign: Campaign) -> None:
    """Otherwise its silence after it woke up would prove nothing."""
    record = read_episode(campaign.episode)
    (zombie,) = record.named("zombie")
    emitted = [
        event["emitted"]
        for event in record.named("snapshot")
        if event["instance"] == zombie["instance"]
    ]
    assert max(emitted) > 0
    assert (zombie["frames"], zombie["role"]) == (0, "out")


def test_an_arrival_that_is_taken_away_is_found(campaign: Campaign, tmp_path: Path) -> None:
    forged = tmp_path / "forged"
    shutil.copytree(campaign.episode, forged)
    frame = packet_records.read(forged / "packets.parquet")
    place = int(np.flatnonzero(frame["received_ns"].notna())[10])
    frame.loc[frame.index[place], ["received_ns", "arrival"]] = None
    frame.loc[frame.index[place], "copies"] = 0
    packet_records.write(frame, forged / "packets.parquet")
    rows = judge(read_episode(forged))
    assert sum(row["lost_undeclared"] for row in rows) == 1
    assert any(row["violations"] for row in rows)


def test_nothing_of_the_campaign_is_left(campaign: Campaign) -> None:
    manifest = json.loads((campaign.episode / "manifest.json").read_text())
    assert manifest["run_id"] not in known_runs()
