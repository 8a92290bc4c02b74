"""A server dies right before a chain is put on it, and nobody knows: it is placed elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from testbed.scenario.load import parse_scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.types import NS_PER_S
from tests.support.command import deftbed
from tests.support.places import ROOT

pytestmark = pytest.mark.emulation

WEST = 0
BEFORE_NS = 50_000_000
"""The server dies so long before the request comes; the FDU takes longer to be sure of it."""


def scenario(folder: Path) -> Path:
    """`first-fit` puts what comes first into the west, which has died."""
    content = yaml.safe_load((ROOT / "scenarios" / "elastic.yaml").read_text())
    del content["scaling"], content["traffic"]["load_steps"]
    content["chains"][0] |= {"functions": ["fw"], "shards": 1}
    content["traffic"] |= {"duration_s": 12, "initial_requests": 0, "arrivals_per_s": 0.5}
    content["problem"] |= {"policies": ["first-fit"], "baseline": "first-fit"}
    plan = make_plan(parse_scenario(yaml.safe_dump(content)), 1)
    first_ns = plan.requests[0].arrival_ns
    assert BEFORE_NS < first_ns < 6 * NS_PER_S
    at_s = (first_ns - BEFORE_NS) / NS_PER_S
    content["faults"] = [{"kind": "server-down", "at_s": at_s, "node": "west"}]
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_chain_whose_server_has_just_died_is_placed_anew(tmp_path: Path) -> None:
    results = tmp_path / "results"
    where = "--results", str(results), "--policy", "first-fit", "--seed", "1"
    done = deftbed("run", str(scenario(tmp_path)), *where, "--json")
    assert done.returncode == 0, done.stderr
    run = results / "first-fit" / "seed-1"
    events: list[dict[str, Any]] = [
        event
        for event in map(json.loads, (run / "events.jsonl").read_text().splitlines())
        if event.get("request") == 0
    ]
    named = [e for e in events if e["event"] in ("decision", "deploy-failed", "chain-ready")]
    first, failed, second, ready = named[:4]
    assert [event["event"] for event in (first, failed, second, ready)] == [
        "decision", "deploy-failed", "decision", "chain-ready"
    ]  # fmt: skip
    assert first["placements"][0][0] == WEST
    assert "its server is down" in failed["error"]
    assert WEST not in second["placements"][0]
    (asked,) = [event for event in events if event["event"] == "request"]
    assert asked["t_ns"] < first["t_ns"]
    packets = pd.read_parquet(run / "packets.parquet")
    mine = packets[packets["chain"] == 0]
    assert (mine["copies"] == 1).any()
