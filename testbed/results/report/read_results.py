"""Reads a results folder for the report, and tolerates runs that were cut short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.records.manifest import read_object
from testbed.records.raw import RawFormatError
from testbed.records.run_records import read_records
from testbed.results.asked import read_asked

NS_PER_S = 1_000_000_000

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run as its folder holds it.

    `packets` and `servers` have the columns of the modules of that name (times from the run's
    origin); both are empty if their file is missing. `events` keep their time on CLOCK_MONOTONIC;
    `seconds` converts it. `lacking` names the missing files.
    """

    policy: str
    seed: int
    path: str
    manifest: Json
    packets: pd.DataFrame
    servers: pd.DataFrame
    events: tuple[Json, ...]
    lacking: tuple[str, ...]
    metrics: tuple[Json, ...] = ()
    """The entries of metrics.json (see `testbed.results.metrics`)."""

    def named(self, event: str) -> list[Json]:
        """The events called `event`, in the order of time."""
        return [each for each in self.events if each["event"] == event]

    def seconds(self, event: Json) -> float:
        """When an event was, in seconds from the run's origin."""
        return float((event["t_ns"] - self.manifest.get("origin_ns", 0)) / NS_PER_S)


@dataclass(frozen=True, slots=True)
class Results:
    """A results folder: what was asked for, what came of it, and each run that has a folder."""

    folder: Path
    manifest: Json
    summary: Json
    scenario_text: str
    runs: tuple[RunFolder, ...]

    @property
    def policies(self) -> list[str]:
        """The policies in the order of the scenario; those with results if it says none."""
        return list(self.manifest.get("policies") or self.summary.get("policies", {}))

    def of(self, policy: str) -> list[RunFolder]:
        """The runs of a policy, by seed."""
        return [run for run in self.runs if run.policy == policy]

    def summaries(self, policy: str) -> list[Json]:
        """The entries of a policy's runs in summary.json."""
        return list(self.summary.get("policies", {}).get(policy, {}).get("runs", []))


def gather(folder: Path) -> Results:
    """Read a results folder; raises RawFormatError if it has no summary.json.

    Runs whose records cannot be read are left out: the summary names them.
    """
    summary = read_object(folder / "summary.json")
    manifest, torn = read_asked(folder)
    scenario = folder / "scenario.yaml"
    paths = sorted(folder.glob("*/seed-*"), key=lambda path: (path.parent.name, _seed(path)))
    found = [_run(path, folder) for path in paths if path.is_dir()]
    return Results(
        folder=folder,
        manifest={} if torn else manifest,
        summary=summary,
        scenario_text=scenario.read_text("utf-8", "replace") if scenario.is_file() else "",
        runs=tuple(run for run in found if run is not None),
    )


def _seed(path: Path) -> int:
    text = path.name.removeprefix("seed-")
    return int(text) if text.isdigit() else -1


def _run(path: Path, folder: Path) -> RunFolder | None:
    try:
        records = read_records(path)
        scopes = read_object(path / "metrics.json")["scopes"] if records.has_packets else ()
    except RawFormatError:
        return None
    return RunFolder(
        policy=path.parent.name,
        seed=_seed(path),
        path=path.relative_to(folder).as_posix(),
        manifest=records.manifest,
        packets=records.packets,
        servers=records.servers,
        events=records.events,
        lacking=records.lacking,
        metrics=tuple(scopes),
    )
