"""A run that was recorded, with its plan and the decisions that were taken: what a twin repeats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from testbed.results import packets as packet_records
from testbed.results.events import read_events
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario
from testbed.scenario.model import Scenario
from testbed.scenario.names import parse_group
from testbed.scenario.placement import FloatArray
from testbed.scenario.plan import make_plan, plan_digest
from testbed.scenario.types import Placement, RunPlan
from testbed.twin.simulate import NewBackup

Placed = Mapping[int, tuple[Placement, ...] | None]


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One run of a results folder.

    `placements` are those that were decided when requests arrived, None for a request that was
    refused or could not be deployed; `backups` those that groups got later. `packets` has the
    columns of `testbed.results.packets`; `events` keep their time on CLOCK_MONOTONIC.
    """

    scenario: Scenario
    policy: str
    manifest: Mapping[str, Any]
    plan: RunPlan
    placements: Placed
    backups: tuple[NewBackup, ...]
    packets: pd.DataFrame
    events: tuple[Mapping[str, Any], ...]

    def named(self, event: str) -> list[Mapping[str, Any]]:
        """The events called `event`, in the order of time."""
        return [each for each in self.events if each["event"] == event]

    def arrived(self, request: int) -> tuple[FloatArray, FloatArray]:
        """(received_ns, latency_ns) of the packets of a request that arrived, in that order."""
        chosen = self.packets[
            (self.packets["chain"] == request) & self.packets["received_ns"].notna()
        ]
        received = chosen["received_ns"].to_numpy(dtype=np.float64)
        latency = received - chosen["scheduled_ns"].to_numpy(dtype=np.float64)
        order = np.argsort(received, kind="stable")
        return received[order], latency[order]


def read_results(folder: Path) -> list[RecordedRun]:
    """The complete runs of a results folder made by `deftbed compare`, by policy and seed.

    Raises InputError if there is no scenario, no complete run, or a plan that this version of the
    program would not make from the same scenario and seed.
    """
    if not (folder / "scenario.yaml").is_file():
        raise InputError("results", str(folder), "a results folder with a scenario.yaml")
    scenario = load_scenario(folder / "scenario.yaml")
    found = []
    for path in sorted(folder.glob("*/seed-*/manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest.get("complete") and (path.parent / "packets.parquet").is_file():
            found.append(read_run(path.parent, scenario, manifest))
    if not found:
        raise InputError("results", str(folder), "a results folder with a complete run")
    return found


def read_run(folder: Path, scenario: Scenario, manifest: Mapping[str, Any]) -> RecordedRun:
    """The run in `folder`; raises InputError if its plan is not that of `scenario` and its seed."""
    plan = make_plan(scenario, int(manifest["seed"]))
    if plan_digest(plan) != manifest["plan_digest"]:
        expected = f"the digest {plan_digest(plan)[:12]}… (made by another version?)"
        raise InputError(f"{folder}: plan_digest", manifest["plan_digest"], expected)
    events = tuple(read_events(folder / "events.jsonl"))
    return RecordedRun(
        scenario=scenario,
        policy=str(manifest["policy"]),
        manifest=manifest,
        plan=plan,
        placements=recorded_placements(events),
        backups=recorded_backups(events),
        packets=packet_records.read(folder / "packets.parquet"),
        events=events,
    )


def recorded_placements(
    events: Sequence[Mapping[str, Any]],
) -> dict[int, tuple[Placement, ...] | None]:
    """The placements of each request that was decided on, by request id."""
    placed: dict[int, tuple[Placement, ...] | None] = {}
    for event in events:
        if event["event"] == "decision":
            accepted = bool(event["accepted"])
            placed[int(event["request"])] = (
                tuple(_placement(nodes) for nodes in event["placements"]) if accepted else None
            )
        elif event["event"] == "deploy-failed":
            placed[int(event["request"])] = None
    return placed


def recorded_backups(events: Sequence[Mapping[str, Any]]) -> tuple[NewBackup, ...]:
    """The new backups that groups got, in the order of time; shards are not told apart."""
    found = []
    for event in events:
        group = parse_group(str(event["group"])) if event["event"] == "new-backup" else None
        if group is not None:
            request, key = group
            found.append(NewBackup(request, key.hop, int(event["node"])))
    return tuple(found)


def _placement(nodes: Sequence[int]) -> Placement:
    backup = nodes[1] if len(nodes) > 1 else None
    return Placement(nodes[0], backup, tuple(nodes[2:]))
