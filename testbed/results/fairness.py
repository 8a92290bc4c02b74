"""Did the runs of a seed differ in the decision alone?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.records.raw import RawFormatError
from testbed.records.run_records import read_records
from testbed.results.asked import read_asked

ASKED = ("chain", "flow", "seq", "l3_bytes", "scheduled_ns")
"""The columns of a packet that must not depend on the policy."""
EXOGENOUS = ("request", "fault", "load-step")
"""Events that must not depend on the policy, but for the moment at which they were carried out."""
MANIFEST_KEYS = ("plan_digest", "replication", "capacity_model", "backends", "git_revision")
"""What every run of a seed was made with."""


@dataclass(frozen=True, slots=True)
class _Inputs:
    name: str
    packets: pd.DataFrame
    events: tuple[str, ...]
    manifest: Mapping[str, Any]


def check_fairness(results_dir: Path) -> list[str]:
    """Differences between the runs of each seed that are not the decision's; empty if fair.

    For each seed, every policy's run is compared with the first policy's: the packets asked for
    (`ASKED`, in every row), the content of the `EXOGENOUS` events without their `t_ns`, and the
    `MANIFEST_KEYS`. Runs that have no packets or cannot be read are left out: the summary names
    them.
    """
    plan, _ = read_asked(results_dir)
    differences = []
    for seed in plan["seeds"]:
        folders = [results_dir / policy / f"seed-{seed}" for policy in plan["policies"]]
        read = [_read(folder) for folder in folders if folder.exists()]
        inputs = [each for each in read if each is not None]
        for other in inputs[1:]:
            differences += [f"seed {seed}: {text}" for text in _differences(inputs[0], other)]
    return differences


def _read(folder: Path) -> _Inputs | None:
    try:
        records = read_records(folder)
    except RawFormatError:
        return None
    if not records.has_packets:
        return None
    packets = records.packets[list(ASKED)]
    packets = packets.sort_values(["chain", "flow", "seq"], ignore_index=True)
    events = [
        json.dumps({key: value for key, value in event.items() if key != "t_ns"}, sort_keys=True)
        for event in records.events
        if event["event"] in EXOGENOUS
    ]
    return _Inputs(folder.parent.name, packets, tuple(sorted(events)), records.manifest)


def _differences(first: _Inputs, other: _Inputs) -> list[str]:
    who = f"{other.name} differs from {first.name}"
    texts = []
    if len(first.packets) != len(other.packets):
        texts.append(f"{who}: {len(other.packets)} packets, expected {len(first.packets)}")
    elif not first.packets.equals(other.packets):
        rows = int((first.packets != other.packets).any(axis=1).sum())
        texts.append(f"{who}: {rows} packets were asked for differently")
    for event in sorted(set(first.events) ^ set(other.events)):
        owner = first.name if event in first.events else other.name
        texts.append(f"{who}: only {owner} has the event {event}")
    if len(first.events) != len(other.events) and set(first.events) == set(other.events):
        texts.append(f"{who}: {len(other.events)} events, expected {len(first.events)}")
    for key in MANIFEST_KEYS:
        ours, theirs = first.manifest.get(key), other.manifest.get(key)
        if ours != theirs:
            texts.append(f"{who}: {key} = {theirs!r}, expected {ours!r}")
    return texts
