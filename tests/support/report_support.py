"""Results folders for the report's tests.

SYNTHETIC: the packets and events are drawn from distributions, not measured. They have the form
of real ones (same writers, same columns), and exist in tests alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from testbed.records import packets as packet_records
from testbed.records import server_usage as server_records
from testbed.results.summaries import write_summary
from testbed.scenario.load import load_scenario
from testbed.scenario.plan import make_plan, plan_digest
from testbed.scenario.types import RunPlan
from tests.support.places import SCENARIOS

SCENARIO = SCENARIOS / "abilene.yaml"
ORIGIN_NS = 5_000_000_000_000
NS = 1_000_000_000
SLOWNESS = {"deft": 1.0, "greedy-delay": 0.7, "ppo": 0.62}
LOSS = {"deft": 0.02, "greedy-delay": 0.018, "ppo": 0.009}


def write_results(
    folder: Path, policies: Sequence[str] = ("deft", "greedy-delay", "ppo"), seeds: int = 3
) -> Path:
    """A results folder as a comparison leaves it, before the report is written."""
    folder.mkdir(parents=True, exist_ok=True)
    scenario = load_scenario(SCENARIO)
    (folder / "scenario.yaml").write_text(SCENARIO.read_text())
    numbers = list(range(1, seeds + 1))
    manifest = {
        "format": 1,
        "scenario": scenario.name,
        "complete": True,
        "run_started": "2026-01-01T12:00:00+0000",
        "baseline": policies[0],
        "policies": list(policies),
        "seeds": numbers,
        "backends": {"datapath": "netdev", "link": "line", "cgroup": "v1"},
        "git_revision": "0" * 40,
        "unfair": [],
        "phases": {
            "train_s": 61.3,
            **{f"{p}/seed-{s}_s": 36.0 + s for s in numbers for p in policies},
            "report_s": 8.1,
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for seed in numbers:
        plan = make_plan(scenario, seed)
        for policy in policies:
            _write_run(folder / policy / f"seed-{seed}", plan, policy, seed)
    write_summary(folder)
    return folder


def _write_run(folder: Path, plan: RunPlan, policy: str, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, len(policy)])
    nodes = plan.topology.nodes
    manifest = {
        "format": 1,
        "policy": policy,
        "seed": seed,
        "complete": True,
        "valid": True,
        "reasons": [],
        "origin_ns": ORIGIN_NS,
        "duration_ns": plan.duration_ns,
        "plan_digest": plan_digest(plan),
        "topology": {
            "nodes": [
                {"name": n.name, "longitude_deg": n.longitude_deg, "latitude_deg": n.latitude_deg}
                for n in nodes
            ],
            "links": [
                {"a": li.a, "b": li.b, "delay_ns": li.delay_ns} for li in plan.topology.links
            ],
        },
        "servers": [{"node": s.node, "cpu_cores": s.cpu_cores} for s in plan.servers],
        "backends": {"datapath": "netdev", "link": "line", "cgroup": "v1"},
        "capacity_model": "service-time",
        "replication": {"mode": "pipelined", "batch_packets": 80},
        "kernel": "6.1.0",
        "python": "3.11.2",
        "cores": 2,
        "versions": {"numpy": "2.4.6", "os-ken": "4.2.2"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    packet_records.write(_packets(rng, plan, policy), folder / "packets.parquet")
    lines = [json.dumps(event) for event in _events(rng, plan, policy)]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    server_records.write(_servers(rng, plan, policy), folder / "servers.parquet")


def _accepted(policy: str, request: int) -> bool:
    return request != 4 or policy != "greedy-delay"


def _packets(rng: np.random.Generator, plan: RunPlan, policy: str) -> pd.DataFrame:
    parts = []
    fault_ns, step_ns = plan.faults[0].at_ns, plan.load_steps[0][0]
    for request in plan.requests:
        span_s = (request.end_ns - request.start_ns) / NS
        wanted = int(span_s * request.rate_pps)
        times = rng.uniform(request.start_ns, request.end_ns, wanted)
        due = np.sort(times.astype(np.int64))
        count = len(due)
        busy = 1 + 1.5 * (due > step_ns)
        latency = 18e6 * SLOWNESS[policy] * busy * rng.lognormal(0, 0.35, count)
        gap = (due > fault_ns) & (due < fault_ns + 0.4 * NS) & (request.id % 3 == 0)
        lost = (rng.random(count) < LOSS[policy] * (due > step_ns)) | gap
        lost |= not _accepted(policy, request.id)
        received = np.where(lost, 0, due + latency.astype(np.int64) + 20_000)
        ranks = np.argsort(np.argsort(received))
        columns = {
            "chain": np.full(count, request.id),
            "sfc": np.full(count, request.chain, dtype=object),
            "flow": np.zeros(count, np.int64),
            "seq": np.arange(count),
            "l3_bytes": np.full(count, request.l3_bytes),
            "scheduled_ns": due,
            "sent_ns": pd.arrays.IntegerArray(due + 20_000, np.zeros(count, np.bool_)),
            "received_ns": pd.arrays.IntegerArray(received, lost),
            "copies": np.where(lost, 0, 1),
            "arrival": pd.arrays.IntegerArray(ranks - int(lost.sum()), lost),
            "hops": np.full(count, None, dtype=object),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _events(rng: np.random.Generator, plan: RunPlan, policy: str) -> list[dict[str, Any]]:
    cores = np.array([server.cpu_cores for server in plan.servers])
    # Some policies prefer large servers, as real ones do.
    weights = cores ** {"deft": 0.0, "greedy-delay": 1.5, "ppo": 3.0}[policy]
    events: list[dict[str, Any]] = [{"t_ns": ORIGIN_NS, "event": "run-start"}]
    for request in plan.requests:
        at = ORIGIN_NS + request.arrival_ns
        accepted = _accepted(policy, request.id)
        places = [
            rng.choice(len(cores), 2, replace=False, p=weights / weights.sum()).tolist()
            for _ in request.functions
        ]
        common = {"request": request.id, "chain": request.chain}
        events.append({"t_ns": at, "event": "request", **common, "due_ns": request.arrival_ns})
        decision = {"accepted": accepted, "placements": places if accepted else []}
        events.append({"t_ns": at + 9, "event": "decision", **common, **decision, "decide_ns": 9})
        if accepted:
            ready = {"t_ns": at + 10, "event": "chain-ready", "request": request.id}
            events.append(ready)
    for at_ns, factor in plan.load_steps:
        events.append({"t_ns": ORIGIN_NS + at_ns, "event": "load-step", "factor": factor})
    for fault in plan.faults:
        at = ORIGIN_NS + fault.at_ns
        events.append({"t_ns": at, "event": "fault", "kind": fault.kind, "node": fault.node})
        for group in range(6):
            gap_ns, name = int(rng.normal(200e6, 15e6)), f"r{group}-h0"
            there = {"t_ns": at - 2, "event": "moved", "instance": f"{name}-m0", "node": fault.node}
            leads = {"t_ns": at - 1, "event": "reconfigured", "group": name, "primary": 0}
            released = {"t_ns": at + gap_ns, "event": "first-release", "group": name}
            events += [there, leads, released]
    busy_s = 2.0 * SLOWNESS[policy] + rng.random()
    high = ORIGIN_NS + plan.load_steps[0][0] + NS // 2
    events.append({"t_ns": high, "event": "overload-begin", "node": 3})
    over = high + int(busy_s * NS)
    events.append({"t_ns": over, "event": "overload-end", "node": 3})
    events.append({"t_ns": ORIGIN_NS + plan.duration_ns, "event": "run-end"})
    return sorted(events, key=lambda event: int(event["t_ns"]))


def _servers(rng: np.random.Generator, plan: RunPlan, policy: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    dead = plan.faults[0]
    step_ns = plan.load_steps[0][0]
    level = rng.uniform(0.1, 0.5, len(plan.servers)) * SLOWNESS[policy] * 1.3
    for t_ns in range(0, plan.duration_ns, NS // 4):
        for server in plan.servers:
            load = min(1.0, level[server.node] * (2 if t_ns > step_ns else 1) * rng.normal(1, 0.1))
            if server.node == dead.node and t_ns > dead.at_ns:
                load = 0.0
            rows.append(
                {
                    "t_ns": t_ns,
                    "node": server.node,
                    "utilisation": max(0.0, load),
                    "queue_ns": 0,
                    "dropped": 0,
                    "cpu_ns": t_ns // 10,
                    "memory_bytes": 50_000_000,
                }
            )
    return rows
