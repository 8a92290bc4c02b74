"""A recorded run with its plan and its decisions, for the twin to repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from testbed.records.raw import RawFormatError
from testbed.records.run_records import RunRecords, read_records
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario
from testbed.scenario.model import Scenario
from testbed.scenario.names import parse_group
from testbed.scenario.plan import make_plan, plan_digest
from testbed.scenario.types import FloatArray, Placement, RunPlan
from testbed.twin.decided import NewBackup

Placed = Mapping[int, tuple[Placement, ...] | None]


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One run of a results folder.

    `placements` are those that were decided when requests arrived, None for a request that was
    refused or could not be deployed; `backups` those that groups got later. `packets` has the
    columns of `testbed.records.packets`; `events` keep their time on CLOCK_MONOTONIC.
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


class RecordedResults(NamedTuple):
    """The complete runs of a results folder, and in words those whose records are torn."""

    runs: list[RecordedRun]
    torn: list[str]


def read_results(folder: Path) -> RecordedResults:
    """The complete runs of a results folder made by `deftbed compare`, by policy and seed.

    Raises InputError if there is no scenario, no complete run, or a plan that this
    version of the program would not make from the same scenario and seed.
    """
    if not (folder / "scenario.yaml").is_file():
        raise InputError("results", str(folder), "a results folder with a scenario.yaml")
    scenario = load_scenario(folder / "scenario.yaml")
    found = RecordedResults([], [])
    for path in sorted(path for path in folder.glob("*/seed-*") if path.is_dir()):
        try:
            records = read_records(path)
        except RawFormatError as error:
            found.torn.append(f"{path.parent.name}, {path.name.replace('-', ' ')}: {error}")
            continue
        if records.manifest.get("complete"):
            found.runs.append(read_run(path, scenario, records))
    if not found.runs and not found.torn:
        raise InputError("results", str(folder), "a results folder with a complete run")
    return found


def read_run(folder: Path, scenario: Scenario, records: RunRecords) -> RecordedRun:
    """The run in `folder`; raises InputError if its plan is not that of `scenario` and its seed."""
    manifest, events = records.manifest, records.events
    if records.lacking or manifest.get("policy") is None:
        lacking = ", ".join(records.lacking) or "a policy in its manifest"
        raise InputError(str(folder), "a run that lacks files", f"{lacking} too")
    plan = make_plan(scenario, int(manifest["seed"]))
    if plan_digest(plan) != manifest.get("plan_digest"):
        expected = f"the digest {plan_digest(plan)[:12]}… (made by another version?)"
        raise InputError(f"{folder}: plan_digest", manifest.get("plan_digest"), expected)
    placements = recorded_placements(events)
    _check_plan(folder, plan, placements, records.packets)
    return RecordedRun(
        scenario=scenario,
        policy=str(manifest["policy"]),
        manifest=manifest,
        plan=plan,
        placements=placements,
        backups=recorded_backups(events),
        packets=records.packets,
        events=events,
    )


def _check_plan(folder: Path, plan: RunPlan, placements: Placed, packets: pd.DataFrame) -> None:
    """What was recorded is of the plan's requests, and places each function of theirs."""
    functions = {request.id: len(request.functions) for request in plan.requests}
    strangers = (set(placements) | set(packets["chain"])) - functions.keys()
    if strangers:
        expected = f"requests below {len(functions)}, as planned"
        raise InputError(f"{folder}: requests", sorted(strangers)[:3], expected)
    for request, placed in placements.items():
        if placed is not None and len(placed) != functions[request]:
            expected = f"{functions[request]}, one for each function"
            raise InputError(f"{folder}: placements of request {request}", len(placed), expected)


def recorded_placements(
    events: Sequence[Mapping[str, Any]],
) -> dict[int, tuple[Placement, ...] | None]:
    """The placements of each request that was decided on, by request id."""
    placed: dict[int, tuple[Placement, ...] | None] = {}
    for event in events:
        if event["event"] == "decision":
            accepted = bool(event["accepted"])
            placed[int(event["request"])] = (
                tuple(_placement(nodes) for nodes in event.get("placements") or ())
                if accepted
                else None
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
