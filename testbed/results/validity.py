"""Finds the reasons that make a run invalid, from its packets, counters and tolerances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from testbed.records.events import read_events
from testbed.records.fidelity_checks import fidelity_reasons
from testbed.records.manifest import read_object
from testbed.records.packets import UNMATCHED
from testbed.records.raw import RawFormatError, instance_dumps, read_arrivals
from testbed.results.not_done import not_done
from testbed.results.whereabouts import Whereabouts
from testbed.scenario.model import ToleranceSpec
from testbed.scenario.names import parse_server, sender_name
from testbed.scenario.types import NS_PER_S
from testbed.statistics.quantiles import nearest_rank

OWN_DROPS = ("kernel_drops", "tun_drops", "send_failed", "write_failed", "emit_failed")
"""Counters of edges and instances that say that the emulator lost a packet by itself."""
LINE_FAULTS = ("kernel_drops", "errors", "strange")


@dataclass(frozen=True, slots=True)
class RunCounters:
    """What the processes of a run counted. All drops here are the testbed's own, not the model's.

    `senders` maps a sender to its errors by name, None if it left no counters; `own_drops` maps
    "process: counter" to a number; `line_lag_p99_ns` is None if the kernel is the line.
    """

    senders: Mapping[str, Mapping[str, int] | None] = field(default_factory=dict)
    receiver_drops: Mapping[str, int] = field(default_factory=dict)
    malformed: int = 0
    own_drops: Mapping[str, int] = field(default_factory=dict)
    line_lag_p99_ns: int | None = None


def judge(
    run_dir: Path, packets: pd.DataFrame, manifest: Mapping[str, Any], tolerances: ToleranceSpec
) -> list[str]:
    """Why the run in `run_dir` is not valid; empty if it is. Raises RawFormatError."""
    reasons = judge_counters(packets, read_counters(run_dir, manifest), tolerances)
    path = run_dir / "events.jsonl"
    events = list(read_events(path)) if path.is_file() else []
    reasons += fidelity_reasons(manifest.get("fidelity"), tolerances)
    reasons += not_done(run_dir, events, manifest)
    reasons += [*false_failures(events), *busy_host(events, tolerances)]
    stalled = core_stalled(events, tolerances.host_stall_s)
    return reasons if stalled is None else [*reasons, stalled]


def core_stalled(events: Sequence[Mapping[str, Any]], bound_s: float) -> str | None:
    """Whether a core of the host stood still for longer than `bound_s`, in words; the longest time.

    What ran there stopped, and looked dead to others, though nothing in the run had stopped it.
    """
    stalls = [event for event in events if event["event"] == "core-stalled"]
    longest = max(stalls, key=lambda event: int(event["stalled_ns"]), default=None)
    if longest is None or longest["stalled_ns"] <= bound_s * NS_PER_S:
        return None
    took_s = longest["stalled_ns"] / NS_PER_S
    return (
        f"core {longest['core']} of the host stood still for {took_s:.3f} s, "
        f"expected at most {bound_s:g} s"
    )


def busy_host(events: Sequence[Mapping[str, Any]], tolerances: ToleranceSpec) -> list[str]:
    """Whether the host itself was short of CPU: its queues would be measured, not the network's."""
    loads = [event for event in events if event["event"] == "host-load"]
    if not loads:
        return []
    idle = sum(event["idle_percent"] for event in loads) / len(loads)
    steal = sum(event["steal_percent"] for event in loads) / len(loads)
    reasons = []
    if idle < tolerances.host_idle_percent:
        least = tolerances.host_idle_percent
        reasons.append(f"the host was {idle:.1f} % idle on average, expected at least {least} %")
    if steal > tolerances.host_steal_percent:
        most = tolerances.host_steal_percent
        reasons.append(f"steal was {steal:.1f} % on average, expected at most {most} %")
    return reasons


def false_failures(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Instances and servers that were declared dead although no fault had struck their node.

    Their heartbeats came late because the host was too slow, so a failover happened that belongs
    to the emulator and not to the experiment.
    """
    where = Whereabouts()
    dead: set[int] = set()
    reasons = []
    for event in events:
        where.note(event)
        if event["event"] == "fault":
            dead.add(event["node"])
        elif event["event"] == "failure-detected":
            name = event["instance"]
            node = parse_server(name)
            if (where.node_of(name) if node is None else node) not in dead:
                reasons.append(f"{name} was declared dead, and no fault had struck it")
    return reasons


def judge_counters(
    packets: pd.DataFrame, counters: RunCounters, tolerances: ToleranceSpec
) -> list[str]:
    """The reasons why a run with these packets and counters is not valid; empty if it is."""
    reasons = _packet_reasons(packets, tolerances)
    for name, errors in counters.senders.items():
        if errors is None:
            reasons.append(f"{name} left no counters: it was killed")
        elif errors:
            listed = ", ".join(f"{count} x {error}" for error, count in sorted(errors.items()))
            reasons.append(f"{name} failed to send: {listed}")
    for name, drops in counters.receiver_drops.items():
        if drops:
            reasons.append(f"{name}: its sockets dropped {drops} packets")
    if counters.malformed:
        reasons.append(f"{counters.malformed} datagrams at the receivers were not test packets")
    for name, drops in counters.own_drops.items():
        if drops:
            reasons.append(f"{name} = {drops}: the emulator itself lost packets")
    limit_ns = tolerances.line_lag_p99_s * NS_PER_S
    lag_ns = counters.line_lag_p99_ns
    if lag_ns is not None and lag_ns > limit_ns:
        reasons.append(_too_late("line", lag_ns, limit_ns))
    return reasons


def read_counters(run_dir: Path, manifest: Mapping[str, Any]) -> RunCounters:
    """The counters that the processes left in `raw/`, and the line's (`manifest["line"]`)."""
    raw = run_dir / "raw"
    sources = sorted({int(request["source"]) for request in manifest["requests"]})
    arrivals = {path.name: read_arrivals(path) for path in sorted(raw.glob("received-*"))}
    own = {}
    for path in sorted([*raw.glob("edge-*.json"), *instance_dumps(raw)]):
        found = _counters(path, "counters", OWN_DROPS)
        own.update({f"{path.stem}: {key}": count for key, count in found.items()})
    line = manifest.get("line") or {}
    own.update({f"line: {key}": int(line[key]) for key in LINE_FAULTS if key in line})
    return RunCounters(
        senders={
            sender_name(node): _sender_errors(raw / "sent" / f"{sender_name(node)}.json")
            for node in sources
        },
        receiver_drops={name: each.socket_drops for name, each in arrivals.items()},
        malformed=sum(each.malformed for each in arrivals.values()),
        own_drops=own,
        line_lag_p99_ns=line.get("lag_p99_ns"),
    )


def _sender_errors(path: Path) -> Mapping[str, int] | None:
    if not path.is_file():
        return None
    return _counters(path, "errors")


def _counters(path: Path, name: str, keys: Iterable[str] | None = None) -> Mapping[str, int]:
    """The counts that a process left at its end under `name`, all or those of `keys`.

    Raises RawFormatError.
    """
    content = read_object(path).get(name)
    if not isinstance(content, dict):
        raise RawFormatError(f"{path}: {name}", content, "counts by name")
    found = {key: content[key] for key in keys or content if key in content}
    if not all(isinstance(each, int) for each in found.values()):
        raise RawFormatError(f"{path}: {name}", found, "counts by name")
    return found


def _packet_reasons(packets: pd.DataFrame, tolerances: ToleranceSpec) -> list[str]:
    reasons = []
    unsent = int((packets["sent_ns"].isna() & packets["received_ns"].isna()).sum())
    if unsent:
        reasons.append(f"{unsent} of {len(packets)} packets were not sent")
    stranger = int(packets.attrs.get(UNMATCHED, 0))
    if stranger:
        reasons.append(f"{stranger} packets arrived that no schedule holds")
    sent = packets[packets["sent_ns"].notna()]
    lag_ns = nearest_rank(
        sent["sent_ns"].to_numpy(dtype=np.int64) - sent["scheduled_ns"].to_numpy(np.int64), 0.99
    )
    limit_ns = tolerances.sender_lag_p99_s * NS_PER_S
    if lag_ns is not None and lag_ns > limit_ns:
        reasons.append(_too_late("senders", lag_ns, limit_ns))
    return reasons


def _too_late(who: str, lag_ns: float, limit_ns: float) -> str:
    return f"{who}: lag p99 {lag_ns / 1e6:.3f} ms, expected at most {limit_ns / 1e6:.3f} ms"
