"""A chain under load is spread over more servers and put together again; nobody notices."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from testbed.lab.faults.state_checks import FLOW_TAG, KEY_WORDS, PACKETS
from testbed.scenario.names import group_names, member_name
from testbed.substrate.ownership import known_runs
from tests.support.command import COMMAND, ENVIRONMENT, deftbed
from tests.support.dataplane_lab import until
from tests.support.places import ROOT

pytestmark = pytest.mark.emulation

ELASTIC = ROOT / "scenarios" / "elastic.yaml"
START_S = 600.0
SHARDS = 4
"""Of the chain in that scenario."""
"""Until a run's first packet: the data plane may have to be compiled."""


@dataclass(frozen=True)
class Ended:
    """A run that is over: what the command said and what is in its folder."""

    summary: dict[str, Any]
    folder: Path
    orders: list[dict[str, Any]]

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        return sorted(map(json.loads, lines), key=lambda event: event["t_ns"])

    def named(self, *names: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] in names]

    def packets(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "packets.parquet")


@contextlib.contextmanager
def running(scenario: Path, results: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run whose packets flow, and its folder; it ends by itself."""
    command = [*COMMAND, "run", str(scenario), "--results", str(results), "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    folder = results / "deft" / "seed-1"
    events = folder / "events.jsonl"

    def flows() -> bool:
        assert process.poll() is None, process.communicate()
        return events.exists() and "first-arrival" in events.read_text()

    try:
        until(flows, "the first packet", START_S)
        yield process, folder
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate()


def ended(process: subprocess.Popen[str], folder: Path, orders: list[dict[str, Any]]) -> Ended:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return Ended(json.loads(out), folder, orders)


def scenario_without_scaling(folder: Path) -> Path:
    """Two functions of the elastic chain at a steady load; nothing but orders scales them."""
    content = yaml.safe_load(ELASTIC.read_text())
    del content["scaling"], content["traffic"]["load_steps"]
    content["servers"]["default"]["cpu_cores"] = 1.0
    content["traffic"]["duration_s"] = 30  # the orders are given meanwhile, also on a slow host
    content["chains"][0] |= {"functions": ["nat", "tm"], "rate_pps": 160}
    content["scales"] = [{"at_s": 2.5, "request": 0, "function": 0, "instances": 2}]
    content["moves"] = [{"at_s": 14, "request": 0, "function": 0, "to": "south", "shard": 3}]
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def moved_to_backup(results: Path, run: Path) -> dict[str, Any]:
    """Order a shard to where its backup is."""
    nodes = [node["name"] for node in yaml.safe_load(ELASTIC.read_text())["topology"]["nodes"]]
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    (decision,) = (event for event in events if event["event"] == "decision")
    backup = nodes[decision["placements"][1][1]]
    done = deftbed(
        "move", str(results), "--request", "0", "--function", "1", "--shard", "0",
        "--to", backup, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert [each["to"] for each in report["moves"]] == [backup]
    return report


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("ordered")
    scenario, results = scenario_without_scaling(folder), folder / "results"
    orders = []
    with running(scenario, results) as (process, run):
        for instances in (2, 1):
            done = deftbed(
                "scale", str(results), "--request", "0", "--function", "1",
                "--instances", str(instances), "--json",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            orders.append(json.loads(done.stdout))
        orders.append(moved_to_backup(results, run))
        refused = deftbed(
            "scale", str(results), "--request", "0", "--function", "1", "--instances", "5"
        )
        assert refused.returncode == 1 and "expected 1 to 4" in refused.stderr
        return ended(process, run, orders)


def test_two_shards_go_to_a_second_server_and_come_back(ordered: Ended) -> None:
    out, back, _ = ordered.orders
    assert (out["instances"], back["instances"]) == (2, 1)
    assert out["failed"] == back["failed"] == []
    assert [each["group"] for each in out["moves"]] == ["r0-h1-s2", "r0-h1-s3"]
    home, *_ = {each["from"] for each in out["moves"]}
    assert {each["to"] for each in out["moves"]} == {each["from"] for each in back["moves"]}
    assert {each["to"] for each in back["moves"]} == {home}


def test_where_the_backup_is_it_takes_over_and_the_primary_stays_as_backup(ordered: Ended) -> None:
    (move,) = ordered.orders[2]["moves"]
    assert (move["group"], move["member"]) == ("r0-h1-s0", 1)
    last = [each for each in ordered.named("reconfigured") if each["group"] == "r0-h1-s0"][-1]
    assert (last["primary"], last["backups"], last["cause"]) == (1, [0], "hand-over")


def test_what_was_scheduled_was_done(ordered: Ended) -> None:
    scaled = [event for event in ordered.named("scaled") if event["function"] == 0]
    assert [(event["instances"], event["failed"]) for event in scaled] == [(2, [])]
    last = [event for event in ordered.named("moved") if event["function"] == 0][-1]
    assert (last["shard"], last["node"]) == (3, 3)
    assert ordered.named("move-failed", "scale-failed") == []


def nothing_was_noticed(run: Ended) -> None:
    packets = run.packets()
    # Otherwise nothing could have been noticed: packets came before, between and after the moves.
    (origin_ns,) = (event["t_ns"] for event in run.named("run-start"))
    moved = [event["t_ns"] - origin_ns for event in run.named("moved")]
    assert packets["sent_ns"].min() < min(moved) and packets["sent_ns"].max() > max(moved)
    assert packets["received_ns"].notna().all()
    assert (packets["copies"] == 1).all()
    for _, rows in packets.groupby("flow"):
        ranks = rows.sort_values("seq")["arrival"].to_list()
        assert ranks == sorted(ranks)


def test_nothing_is_lost_doubled_or_overtaken(ordered: Ended) -> None:
    nothing_was_noticed(ordered)


def counts_by_shard(run: Ended, hop: int) -> dict[str, Counter[int]]:
    """How many packets the monitor of each shard counted of its flows: by the member it ended at.

    A flow is known by its count alone: its addresses are what the NAT made of them.
    """
    groups = group_names(0, hop, SHARDS)
    last = {group: member_name(group, 0) for group in groups}
    for event in run.named("moved"):
        if event["function"] == hop:
            last[groups[event["shard"]]] = event["instance"]
    found = {}
    for group, instance in last.items():
        dump = json.loads((run.folder / "raw" / f"{instance}.json").read_text())
        rows = (row for row in dump["state"] if row[0] >> 56 == FLOW_TAG)
        found[group] = Counter(row[KEY_WORDS + PACKETS] for row in rows)
    return found


def test_flows_keep_their_state(ordered: Ended) -> None:
    counted = counts_by_shard(ordered, hop=1)
    # Each packet of each flow was counted once, at whatever server its shard was.
    sent = Counter(ordered.packets().groupby("flow").size().to_list())
    assert sum(counted.values(), Counter()) == sent
    groups = group_names(0, 1, SHARDS)
    moved = {groups[each["shard"]] for each in ordered.named("moved") if each["function"] == 1}
    assert all(counted[group] for group in moved), "flows in what moved"


def test_nothing_of_the_run_is_left(ordered: Ended) -> None:
    manifest = json.loads((ordered.folder / "manifest.json").read_text())
    assert manifest["run_id"] not in known_runs()


@pytest.fixture(scope="module")
def elastic(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    results = tmp_path_factory.mktemp("elastic") / "results"
    with running(ELASTIC, results) as (process, run):
        return ended(process, run, [])


def test_a_rise_and_fall_of_the_load_scale_out_and_in(elastic: Ended) -> None:
    decisions = elastic.named("scaling-decision")
    assert [event["instances"] for event in decisions] == [2, 1]
    out, back = decisions
    assert out["utilisation"] > 0.6 and back["merged"] < 0.35
    assert [event["instances"] for event in elastic.named("scaled")] == [2, 1]


def test_it_is_not_noticed_either(elastic: Ended) -> None:
    nothing_was_noticed(elastic)
