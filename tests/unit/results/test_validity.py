"""A run outside its tolerances is not valid and says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.records import server_usage
from testbed.records.packets import build_packets
from testbed.records.raw import ArrivalFile, RawFormatError
from testbed.results.validity import (
    RunCounters,
    busy_host,
    core_stalled,
    false_failures,
    judge,
    judge_counters,
)
from testbed.scenario.model import ToleranceSpec
from tests.support.results_support import MS, arrivals, packets, schedule

TOLERANCES = ToleranceSpec(sender_lag_p99_s=0.010, line_lag_p99_s=0.005)
GOOD = packets([schedule(200)], [])


def test_a_good_run_has_no_reasons() -> None:
    counters = RunCounters(
        senders={"sender-0": {}},
        receiver_drops={"received-1": 0},
        own_drops={"line: errors": 0},
        line_lag_p99_ns=5 * MS,
    )
    assert judge_counters(GOOD, counters, TOLERANCES) == []


@pytest.mark.parametrize(
    ("counters", "reason"),
    [
        (RunCounters(senders={"sender-3": None}), "sender-3 left no counters: it was killed"),
        (
            RunCounters(senders={"sender-3": {"ENOBUFS": 2, "EAGAIN": 1}}),
            "sender-3 failed to send: 1 x EAGAIN, 2 x ENOBUFS",
        ),
        (
            RunCounters(receiver_drops={"received-1": 7}),
            "received-1: its sockets dropped 7 packets",
        ),
        (RunCounters(malformed=2), "2 datagrams at the receivers were not test packets"),
        (
            RunCounters(own_drops={"edge-1: tun_drops": 3}),
            "edge-1: tun_drops = 3: the emulator itself lost packets",
        ),
        (
            RunCounters(line_lag_p99_ns=5 * MS + 1000),
            "line: lag p99 5.001 ms, expected at most 5.000 ms",
        ),
    ],
)
def test_each_counter_is_a_reason(counters: RunCounters, reason: str) -> None:
    assert judge_counters(GOOD, counters, TOLERANCES) == [reason]


def test_late_senders_and_unsent_packets_are_reasons() -> None:
    plan = schedule(200)
    sent = plan.schedule["scheduled_ns"] + MS
    sent[:2] += 20 * MS
    frame = build_packets([plan], {0: sent}, arrivals([]))
    assert judge_counters(frame, RunCounters(), TOLERANCES) == []
    sent[2] += 20 * MS
    sent[7:9] = 0
    frame = build_packets([plan], {0: sent}, arrivals([(0, 0, 8, 99), (5, 0, 0, 99)]))
    assert judge_counters(frame, RunCounters(), TOLERANCES) == [
        "1 of 200 packets were not sent",
        "1 packets arrived that no schedule holds",
        "senders: lag p99 21.000 ms, expected at most 10.000 ms",
    ]


def test_the_counters_are_those_that_the_processes_left(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "sent").mkdir(parents=True)
    (raw / "sent" / "sender-0.json").write_text(json.dumps({"errors": {"ENOBUFS": 4}}))
    file = ArrivalFile(raw / "received-1")
    file.set_counters(0, 5)
    file.close()
    # As an edge leaves them: its paths are no counts.
    counters = {"tun_drops": 6, "unclassified": 99, "kernel_drops": 0, "paths": {"2": {"sent": 9}}}
    (raw / "edge-1.json").write_text(json.dumps({"counters": counters}))
    (raw / "r0-h0-m1.json").write_text(json.dumps({"counters": {"emit_failed": 8, "no_cpu": 9}}))
    manifest = {
        "requests": [{"source": 0}, {"source": 2}],
        "line": {"lag_p99_ns": 9 * MS, "kernel_drops": 1, "drops": 77, "errors": 0},
    }
    assert judge(tmp_path, GOOD, manifest, TOLERANCES) == [
        "sender-0 failed to send: 4 x ENOBUFS",
        "sender-2 left no counters: it was killed",
        "received-1: its sockets dropped 5 packets",
        "edge-1: tun_drops = 6: the emulator itself lost packets",
        "r0-h0-m1: emit_failed = 8: the emulator itself lost packets",
        "line: kernel_drops = 1: the emulator itself lost packets",
        "line: lag p99 9.000 ms, expected at most 5.000 ms",
    ]


def test_samples_of_servers_come_back(tmp_path: Path) -> None:
    sample = {
        "t_ns": 250 * MS, "node": 3, "utilisation": 0.5, "queue_ns": 7, "dropped": 0,
        "cpu_ns": 11, "memory_bytes": 1 << 33,
    }  # fmt: skip
    server_usage.write([{**sample, "more": 1}], tmp_path / "servers.parquet")
    assert server_usage.read(tmp_path / "servers.parquet").to_dict("records") == [sample]
    server_usage.write([], tmp_path / "none.parquet")
    assert server_usage.read(tmp_path / "none.parquet").empty
    with pytest.raises(KeyError, match="cpu_ns"):
        server_usage.write([{key: 1 for key in sample if key != "cpu_ns"}], tmp_path / "bad")
    GOOD.to_parquet(tmp_path / "other.parquet")
    with pytest.raises(RawFormatError, match="expected format 1"):
        server_usage.read(tmp_path / "other.parquet")


DECISION = {"event": "decision", "request": 4, "placements": [[1, 2], [3, 1]]}
FAULT = {"event": "fault", "kind": "server-down", "node": 1}


def declared_dead(name: str) -> dict[str, str]:
    return {"event": "failure-detected", "instance": name}


def test_a_failure_on_a_dead_server_is_explained() -> None:
    names = ["r4-h0-m0", "r4-h1-m1", "server-1"]
    assert false_failures([DECISION, FAULT, *map(declared_dead, names)]) == []


@pytest.mark.parametrize("name", ["r4-h0-m1", "server-2"])
def test_a_failure_that_no_fault_explains_is_told(name: str) -> None:
    (reason,) = false_failures([DECISION, FAULT, declared_dead(name)])
    assert name in reason


def test_a_failure_of_what_moved_to_a_dead_server_is_explained() -> None:
    moved = {"event": "moved", "instance": "r4-h0-m2", "node": 1}
    backup = {"event": "new-backup", "instance": "r4-h0-s3-m3", "node": 2}
    names = ["r4-h0-m2", "r4-h0-s3-m0"]
    assert not false_failures([DECISION, moved, backup, FAULT, *map(declared_dead, names)])
    for name in ("r4-h0-s3-m1", "r4-h0-s3-m3"):
        assert false_failures([DECISION, moved, backup, FAULT, declared_dead(name)])


def test_a_failure_before_its_fault_is_told() -> None:
    assert false_failures([DECISION, declared_dead("r4-h0-m0"), FAULT])


def test_a_host_without_idle_time_is_told() -> None:
    loads = [{"event": "host-load", "idle_percent": v, "steal_percent": 0.0} for v in (0.0, 8.0)]
    (reason,) = busy_host(loads, ToleranceSpec())
    assert "4.0 % idle" in reason
    assert busy_host(loads, ToleranceSpec(host_idle_percent=4.0)) == []


def test_steal_is_told() -> None:
    loads = [{"event": "host-load", "idle_percent": 50.0, "steal_percent": 9.0}]
    (reason,) = busy_host(loads, ToleranceSpec())
    assert "steal was 9.0 %" in reason


def test_a_core_that_stood_still_is_named_with_its_longest_time() -> None:
    stalls = [
        {"event": "core-stalled", "core": core, "stalled_ns": ms * 1_000_000}
        for core, ms in ((0, 60), (1, 340), (0, 210))
    ]
    reason = core_stalled(stalls, 0.2)
    assert reason == "core 1 of the host stood still for 0.340 s, expected at most 0.2 s"
    assert core_stalled(stalls, 0.4) is None
    assert core_stalled([], 0.2) is None
