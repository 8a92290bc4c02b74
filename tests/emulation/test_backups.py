"""Groups with two backups on real processes: two members fail, and nothing is lost undeclared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.records.events import read_events
from testbed.substrate.ownership import known_runs
from tests.support.command import deftbed
from tests.support.places import ROOT

pytestmark = pytest.mark.emulation

KINDS = "primary-and-backup,primary-and-heir"


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("backups")
    data: dict[str, Any] = yaml.safe_load((ROOT / "scenarios" / "faults.yaml").read_text())
    data["replication"]["backups"] = 2
    data["chains"] = [chain for chain in data["chains"] if "tm" in chain["functions"]][:1]
    data["traffic"]["initial_requests"] = 1
    (folder / "two.yaml").write_text(yaml.safe_dump(data))
    done = deftbed(
        "faults", str(folder / "two.yaml"), "--count", "2", "--kinds", KINDS, "--seed", "3",
        "--json", "--results", str(folder / "results"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    yield folder / "results"
    shutil.rmtree(folder)


def valid_rows(folder: Path) -> list[dict[str, Any]]:
    rows = json.loads((folder / "faults.json").read_text())["faults"]
    return [row for row in rows if row["invalid"] is None]


def test_a_group_survives_two_of_its_members(campaign: Path) -> None:
    rows = valid_rows(campaign)
    assert {row["fault"] for row in rows} == set(KINDS.split(","))
    assert [(row["violations"], row["lost_undeclared"]) for row in rows] == [([], 0)] * 2
    for row in rows:
        steps = [row[name] for name in ("detection_ms", "promotion_ms", "back_to_protected_ms")]
        assert None not in steps


def test_groups_begin_with_all_their_backups_and_get_them_back(campaign: Path) -> None:
    for row in valid_rows(campaign):
        events = list(read_events(campaign / row["episode"] / "events.jsonl"))
        (decision,) = (event for event in events if event["event"] == "decision")
        assert [len(set(nodes)) for nodes in decision["placements"]] == [3, 3]
        (final,) = (event["groups"] for event in events if event["event"] == "quiescent")
        assert {len(group["members"]) for group in final.values()} == {3}
        (fault,) = (
            event
            for event in events
            if event["event"] == "injected" and event["kind"] == row["fault"]
        )
        (group,) = fault["groups"]
        new = [event for event in events if event["event"] == "new-backup"]
        since = [event for event in new if event["t_ns"] > fault["t_ns"]]
        assert [event["group"] for event in since][:2] == [group] * 2


def test_nothing_of_the_campaign_is_left(campaign: Path) -> None:
    for row in valid_rows(campaign):
        manifest = json.loads((campaign / row["episode"] / "manifest.json").read_text())
        assert manifest["run_id"] not in known_runs()
