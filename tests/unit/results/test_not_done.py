"""What was planned and did not happen makes a run invalid, and the reason says what it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.records.application_paths import application_path
from testbed.results.not_done import not_done
from tests.support.results_support import event

FAULT = {"kind": "server-down", "at_ns": 3_000_000_000, "node": 2}
HTTP = {"kind": "http", "request": 0, "at_ns": 0, "end_ns": 10**9}
IPERF3 = {"kind": "iperf3", "request": 1, "at_ns": 0, "end_ns": 10**9}
READY = [event(0, "chain-ready", request=request) for request in (0, 1)]
DONE: dict[str, Any] = {"complete": True}


def write_reports(folder: Path, iperf3: dict[str, Any]) -> None:
    (folder / "raw").mkdir()
    fetch = event(1, "fetch", error=None, bytes=9, connect_ns=1, first_byte_ns=2, total_ns=3)
    application_path(folder, 0, "http").write_text(json.dumps(fetch) + "\n")
    application_path(folder, 1, "iperf3").write_text(json.dumps(iperf3))


WELL = {"end": {"sum_received": {"bits_per_second": 1.0}, "sum_sent": {}, "streams": []}}


def test_a_run_that_did_all_of_it(tmp_path: Path) -> None:
    write_reports(tmp_path, WELL)
    manifest = {**DONE, "faults": [FAULT], "applications": [HTTP, IPERF3], "unchanged_links": []}
    assert not_done(tmp_path, [*READY, event(5, "fault", node=2)], manifest) == []


def test_a_fault_that_could_not_be_injected_is_told_once(tmp_path: Path) -> None:
    what = "fault server-down at node 2, due at 3 s"
    failed = event(5, "not-done", kind="fault", what=what, error="no such device")
    reasons = not_done(tmp_path, [failed], {**DONE, "faults": [FAULT]})
    assert reasons == [f"{what}, did not happen: no such device"]


def test_a_fault_of_which_nothing_is_known(tmp_path: Path) -> None:
    manifest = {**DONE, "faults": [FAULT, FAULT]}
    events = [event(5, "fault", node=2)]
    assert not_done(tmp_path, events, manifest) == ["1 of 2 faults did not happen"]
    # Of a run that was cut short it is known anyhow that not all of it happened.
    assert not_done(tmp_path, events, {**manifest, "complete": False}) == []


@pytest.mark.parametrize(
    ("name", "status", "how"),
    [
        ("receiver-1", -9, "was killed by SIGKILL"),
        ("sender-0", 1, "ended with status 1"),
        ("controller", 0, "ended with status 0"),
        ("application-0-use", 1, "ended with status 1"),
        ("application-0-serve", 0, "ended with status 0"),
    ],
)
def test_a_process_that_died(tmp_path: Path, name: str, status: int, how: str) -> None:
    write_reports(tmp_path, WELL)
    died = event(7, "process-died", process=name, status=status)
    manifest = {**DONE, "applications": [HTTP, IPERF3]}
    reasons = not_done(tmp_path, [*READY, died], manifest)
    assert reasons == [f"{name} {how}, and nobody had asked it to"]


def test_an_application_that_failed(tmp_path: Path) -> None:
    write_reports(tmp_path, {"error": "control socket has closed unexpectedly"})
    died = event(7, "process-died", process="application-1-use", status=1)
    manifest = {**DONE, "applications": [HTTP, IPERF3]}
    assert not_done(tmp_path, [*READY, died], manifest) == [
        "application 1 (iperf3 of request 1) failed: control socket has closed unexpectedly"
    ]
    # Nobody can talk through a chain that the policy refused.
    assert not_done(tmp_path, [READY[0], died], manifest) == []


def test_links_and_captures(tmp_path: Path) -> None:
    manifest = {**DONE, "unchanged_links": ["link 2 at 3 s: no"], "cut_captures": ["west: ended"]}
    assert not_done(tmp_path, [], manifest) == [
        "a link was not changed: link 2 at 3 s: no",
        "a capture was cut short: west: ended",
    ]
