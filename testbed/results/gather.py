"""What the report reads: a results folder, with whatever a run that was cut short lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.results import packets as packet_records
from testbed.results.events import read_events
from testbed.results.raw import RawFormatError

NS_PER_S = 1_000_000_000
SERVER_COLUMNS = ("t_ns", "node", "utilisation", "queue_ns", "dropped", "cpu_ns", "memory_bytes")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run as its folder holds it.

    `packets` has the columns of `testbed.results.packets`, `servers` those of `SERVER_COLUMNS`
    (times from the run's origin); both are empty if their file is missing or torn. `events` keep
    their time on CLOCK_MONOTONIC; `seconds` converts it. `lacking` names the missing files.
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
    """Read a results folder; raises FileNotFoundError if it has no summary.json."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    scenario = folder / "scenario.yaml"
    paths = sorted(folder.glob("*/seed-*"), key=lambda path: (path.parent.name, _seed(path)))
    return Results(
        folder=folder,
        manifest=_json(folder / "manifest.json"),
        summary=summary,
        scenario_text=scenario.read_text(encoding="utf-8") if scenario.is_file() else "",
        runs=tuple(_run(path, folder) for path in paths if path.is_dir()),
    )


def _seed(path: Path) -> int:
    text = path.name.removeprefix("seed-")
    return int(text) if text.isdigit() else -1


def _run(path: Path, folder: Path) -> RunFolder:
    needed = ("manifest.json", "packets.parquet", "events.jsonl", "servers.parquet")
    lacking = [name for name in needed if not (path / name).is_file()]
    packets = pd.DataFrame({field.name: [] for field in packet_records.SCHEMA})
    if "packets.parquet" not in lacking:
        try:
            packets = packet_records.read(path / "packets.parquet")
        except RawFormatError:
            lacking.append("packets.parquet")
    servers = pd.DataFrame({name: [] for name in SERVER_COLUMNS})
    if "servers.parquet" not in lacking:
        found = pd.read_parquet(path / "servers.parquet")
        if set(SERVER_COLUMNS) <= set(found.columns):
            servers = found
        else:
            lacking.append("servers.parquet")
    events = path / "events.jsonl"
    return RunFolder(
        policy=path.parent.name,
        seed=_seed(path),
        path=path.relative_to(folder).as_posix(),
        manifest=_json(path / "manifest.json"),
        packets=packets,
        servers=servers,
        events=tuple(read_events(events)) if events.is_file() else (),
        lacking=tuple(lacking),
        metrics=tuple(_json(path / "metrics.json").get("scopes", ())),
    )


def _json(path: Path) -> Json:
    if not path.is_file():
        return {}
    content: Json = json.loads(path.read_text(encoding="utf-8"))
    return content
