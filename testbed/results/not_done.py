"""Lists the planned steps that did not happen in a run: such a run is invalid."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.results.application_figures import read_applications
from testbed.scenario.names import parse_application

Event = Mapping[str, Any]


def not_done(run_dir: Path, events: Sequence[Event], manifest: Mapping[str, Any]) -> list[str]:
    """Why the run in `run_dir` did not do what was planned; empty if it did all of it.

    What the policy's decision prevented is no such thing: an application of a chain that was
    refused gets nothing in any run of that policy.
    """
    served = {event["request"] for event in events if event["event"] == "chain-ready"}
    applications = list(manifest.get("applications", ()))
    reasons = [
        f"{event['what']}, did not happen: {event['error']}"
        for event in events
        if event["event"] == "not-done"
    ]
    if manifest.get("complete"):
        reasons += _missing_faults(events, manifest)
        reasons += _failed_applications(run_dir, applications, served)
    reasons += [f"a link was not changed: {each}" for each in manifest.get("unchanged_links", ())]
    reasons += [f"a capture was cut short: {each}" for each in manifest.get("cut_captures", ())]
    for event in events:
        if event["event"] == "process-died" and not _is_outcome(event, applications, served):
            reasons.append(death(event["process"], event["status"]))
    return reasons


def _missing_faults(events: Sequence[Event], manifest: Mapping[str, Any]) -> list[str]:
    planned = len(manifest.get("faults", ()))
    happened = sum(event["event"] == "fault" for event in events)
    told = sum(event["event"] == "not-done" and event["kind"] == "fault" for event in events)
    missing = planned - happened - told
    return [f"{missing} of {planned} faults did not happen"] if missing > 0 else []


def _failed_applications(
    run_dir: Path, applications: Sequence[Mapping[str, Any]], served: set[int]
) -> list[str]:
    return [
        f"application {number} ({each['kind']} of request {each['request']}) failed: "
        f"{each['error']}"
        for number, each in enumerate(read_applications(run_dir, applications))
        if each["error"] is not None and each["request"] in served
    ]


def _is_outcome(event: Event, applications: Sequence[Mapping[str, Any]], served: set[int]) -> bool:
    """Whether a process ended with what its own report tells, or for want of a chain."""
    found = parse_application(event["process"])
    if found is None:
        return False
    application = applications[found[0]]
    return application["kind"] == "iperf3" or application["request"] not in served


def death(process: str, status: int) -> str:
    """How a process ended that was not to end, by its status or minus the signal's number."""
    how = f"ended with status {status}"
    if status < 0:
        how = f"was killed by {signal.Signals(-status).name}"
    return f"{process} {how}, and nobody had asked it to"
