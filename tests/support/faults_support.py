"""A recorded episode made by hand: all is as promised, until a test changes something."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from testbed.lab.faults.record import EpisodeRecord
from testbed.records.packets import Scheduled, build_packets
from testbed.records.raw import ARRIVAL_DTYPE, SCHEDULE_DTYPE
from testbed.scenario.steering import forward_path

MS = 1_000_000
ORIGIN_NS = 5_000 * MS
FLOWS, PACKETS = 2, 100
SPACING_NS, LATENCY_NS = 10 * MS, 4 * MS
FAULT_MS = 500
PATH = forward_path(0)
COUNTERS = ("kernel_drops", "tun_drops", "send_failed", "write_failed")


def sent_ns(flow: int, seq: int) -> int:
    """When a packet is sent, from the origin."""
    return seq * SPACING_NS + flow * MS + MS


def packets(lost: Iterable[tuple[int, int]] = (), **changes: Any) -> pd.DataFrame:
    """The packets of chain 0, without the arrival of those (flow, seq) that are `lost`.

    changes: `late` {(flow, seq): by ns} and `again` [(flow, seq)] of further arrivals.
    """
    schedule = np.empty(FLOWS * PACKETS, SCHEDULE_DTYPE)
    rows = [(flow, seq) for seq in range(PACKETS) for flow in range(FLOWS)]
    for place, (flow, seq) in enumerate(rows):
        schedule[place] = (flow, seq, sent_ns(flow, seq))
    late = changes.get("late", {})
    arrivals = [
        (sent_ns(*row) + LATENCY_NS + late.get(row, 0), row)
        for row in [*rows, *changes.get("again", ())]
        if row not in set(lost)
    ]
    received = np.array(
        [(0, flow, seq, at_ns) for at_ns, (flow, seq) in sorted(arrivals)], ARRIVAL_DTYPE
    )
    times = np.array([sent_ns(*row) for row in rows], np.int64)
    return build_packets([Scheduled(0, "counts", 200, schedule)], {0: times}, received)


def dump(
    hop: int,
    member: int,
    handled: int = PACKETS,
    out: int = PACKETS,
    losses: Iterable[tuple[int, int]] = (),
    **changes: Any,
) -> dict[str, Any]:
    """What a member of the group of a hop wrote at its end; `losses` are (flow, input)."""
    name = f"r0-h{hop}-m{member}"
    lost = [[PATH, flow, 0, number, "gap"] for flow, number in losses]
    by_flow = [
        [1 << 56 | flow, 0, 0, 0, 0, 0, handled - sum(1 for f, _ in losses if f == flow), 9]
        for flow in range(FLOWS)
    ]
    total = sum(row[6] for row in by_flow)
    return {
        "name": name,
        "group": f"r0-h{hop}",
        "member": member,
        "counters": {"declared_lost": len(lost)},
        "log_index": FLOWS * handled,
        "marks": [[PATH, flow, 0, handled, out] for flow in range(FLOWS)],
        "losses": lost,
        "state_digest": "00",
        "state": [*by_flow, [0x40 << 56, 0, 0, 0, 0, total, 0, FLOWS]],
        **changes,
    }


def at(ms: float) -> int:
    """A time on the events' clock, from milliseconds after the origin."""
    return ORIGIN_NS + round(ms * MS)


def injected(kind: str, ms: float = FAULT_MS, **fields: Any) -> dict[str, Any]:
    """A fault that hit the first group and killed its primary, unless `fields` say otherwise."""
    event = {"groups": ["r0-h0"], "chains": [0], "target": "r0-h0-m0", "victims": ["r0-h0-m0"]}
    return {"t_ns": at(ms), "event": "injected", "fault": 0, "kind": kind, **event, **fields}


def failover(ms: float = FAULT_MS) -> list[dict[str, Any]]:
    """What the timeline says of a primary that was killed and replaced."""
    group = {"group": "r0-h0"}
    new = {**group, "instance": "r0-h0-m1"}
    return [
        {"t_ns": at(ms + 10), "event": "failure-detected", **group, "instance": "r0-h0-m0"}
        | {"role": "primary", "order": "promote"},
        {"t_ns": at(ms + 12), "event": "promoted", **new, "epoch": 2},
        {"t_ns": at(ms + 13), "event": "first-release", **new},
        {"t_ns": at(ms + 90), "event": "reconfigured", **group, "cause": "admit"},
        {"t_ns": at(ms + 100), "event": "healed", "fault": 0},
    ]


def record(
    events: Iterable[dict[str, Any]] | None = None,
    frame: pd.DataFrame | None = None,
    dumps: Iterable[dict[str, Any]] | None = None,
) -> EpisodeRecord:
    """An episode in which a primary was killed, or with other events, packets or dumps."""
    if events is None:
        events = [injected("kill-primary"), *failover()]
    final = {"r0-h0": {"primary": 1, "members": [1, 2]}, "r0-h1": {"primary": 0, "members": [0, 1]}}
    ends = {"t_ns": at(3000), "event": "quiescent", "groups": final}
    if dumps is None:
        dumps = [dump(0, 1), dump(0, 2), dump(1, 0), dump(1, 1)]
    request = {"id": 0, "functions": ["nat", "tm"], "flows": FLOWS, "rate_pps": 200.0}
    return EpisodeRecord(
        manifest={
            "origin_ns": ORIGIN_NS,
            "requests": [request],
            "replication": {"failure_timeout_s": 0.25, "heartbeat_s": 0.05},
            "edges": {"edge-0": dict.fromkeys(COUNTERS, 0)},
        },
        packets=packets() if frame is None else frame,
        events=tuple(sorted([*events, ends], key=lambda event: event["t_ns"])),
        dumps={each["name"]: each for each in dumps},
    )


def with_events(base: EpisodeRecord, *events: dict[str, Any]) -> EpisodeRecord:
    """The record with further events."""
    merged = sorted([*base.events, *events], key=lambda event: event["t_ns"])
    return dataclasses.replace(base, events=tuple(merged))
