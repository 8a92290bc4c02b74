"""A server becomes too busy: the policy is asked what moves, it moves, and all is well again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from testbed.scenario.types import NS_PER_S
from tests.support.command import deftbed
from tests.support.places import ROOT

pytestmark = pytest.mark.emulation

STEP_S, END_S = 3.0, 13.0
WEST, EAST = 0, 2


def scenario(folder: Path) -> Path:
    """`first-fit` puts both functions into the west; when the load rises it is too much there.

    At 100 packets/s they take 0.28 and 0.24 of a server, and then 2.2 times as much. The north has
    the backups, and too little room for the larger function.
    """
    content = yaml.safe_load((ROOT / "scenarios" / "elastic.yaml").read_text())
    del content["scaling"]
    content["chains"][0] |= {"functions": ["tm", "nat"], "rate_pps": 100, "shards": 1}
    content["traffic"] |= {
        "duration_s": END_S, "load_steps": [{"at_s": STEP_S, "factor": 2.2}]
    }  # fmt: skip
    content["overload"] = {"high": 0.9, "period_s": 0.25, "hold_s": 0.5, "cool_s": 1.0}
    content["replication"] = {"without_backup": "availability"}
    content["problem"] |= {"policies": ["first-fit"], "baseline": "first-fit"}
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overload")
    results = folder / "results"
    where = "--results", str(results)
    done = deftbed("run", str(scenario(folder)), "--policy", "first-fit", *where, "--json")
    assert done.returncode == 0, done.stderr
    return results / "first-fit" / "seed-1"


def events(run: Path, *names: str) -> list[dict[str, Any]]:
    found = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [event for event in found if event["event"] in names]


def test_the_policy_is_asked_once_and_moves_the_larger_function(run: Path) -> None:
    (question,) = events(run, "overload-question")
    (start,) = events(run, "run-start")
    assert question["node"] == WEST and question["utilisation"] > 0.9
    assert question["asked"] == 1
    assert question["moves"] == {"request": 0, "function": 0, "shard": 0, "to": EAST}
    after_s = (question["t_ns"] - start["t_ns"]) / NS_PER_S
    assert after_s > STEP_S


def test_the_move_is_carried_out_and_the_server_is_relieved(run: Path) -> None:
    (moved,) = events(run, "moved")
    assert (moved["node"], moved["function"]) == (EAST, 0)
    # The load stays as high for longer than it takes to ask again, and nobody had to.
    (start,) = events(run, "run-start")
    assert moved["t_ns"] < start["t_ns"] + (END_S - 4.0) * NS_PER_S


def test_no_packet_is_lost_or_seen_twice_once_the_move_is_done(run: Path) -> None:
    (moved,), (start,) = events(run, "moved"), events(run, "run-start")
    packets = pd.read_parquet(run / "packets.parquet")
    after = packets[packets["scheduled_ns"] > moved["t_ns"] - start["t_ns"]]
    assert 100 < len(after) < len(packets)
    assert (after["copies"] == 1).all()
