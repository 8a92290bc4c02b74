"""Times of detection, promotion, replay and repair after a fault, and the gap in flows. Pure.

    detection_ms           until the FDU's majority said of the last victim that it failed
    promotion_ms           until a new primary had its role in every group that lost its own
    replay_ms              until it let the first packet out
    gap_ms                 the longest time in which a flow of the chain delivered nothing, less
                           what is between two packets anyhow
    held_ms                how much later than usual the packet arrived that was latest
    back_to_protected_ms   until every group had an admitted backup again

All from the moment of the fault; None for what did not happen.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from testbed.lab.faults.record import EpisodeRecord, Json, Window

NS_PER_MS = 1e6
AFTER_NS = 500_000_000
"""What happens longer after all is healed is no consequence of a fault."""


def timings(record: EpisodeRecord, window: Window) -> dict[str, float | None]:
    """The figures of one fault."""
    groups, victims = set(window.event["groups"]), set(window.event["victims"])
    # Not what comes after all is well: the next fault may have begun a move before it strikes.
    end_ns = _end_ns(record, window, 0)
    inside = [e for e in record.events if window.begin_ns <= e["t_ns"] < end_ns]

    def last(event: str, among: Iterable[str], key: str) -> float | None:
        return _last_ms(window, inside, event, set(among), key)

    admitted = [e for e in inside if e["event"] == "reconfigured" and e["cause"] == "admit"]
    gap_ms, held_ms = _outage(record, window)
    return {
        "detection_ms": last("failure-detected", victims, "instance"),
        "promotion_ms": last("promoted", groups, "group"),
        "replay_ms": last("first-release", groups, "group"),
        "gap_ms": gap_ms,
        "held_ms": held_ms,
        "back_to_protected_ms": _last_ms(window, admitted, "reconfigured", groups, "group"),
    }


def _last_ms(
    window: Window, events: Iterable[Json], event: str, among: set[str], key: str
) -> float | None:
    """When the last of `among` had its first such event."""
    first: dict[str, int] = {}
    for each in events:
        if each["event"] == event and each[key] in among:
            first.setdefault(each[key], each["t_ns"])
    if not first:
        return None
    return round((max(first.values()) - window.begin_ns) / NS_PER_MS, 3)


def _outage(record: EpisodeRecord, window: Window) -> tuple[float | None, float | None]:
    """(gap_ms, held_ms) of the flows of the chains that were hit, the worst of all."""
    gaps, held = [], []
    begin, end = window.begin_ns - record.origin_ns, _end_ns(record, window, AFTER_NS)
    end -= record.origin_ns
    packets = record.packets[record.packets["received_ns"].notna()]
    for chain in window.event["chains"]:
        of_chain = packets[packets["chain"] == chain]
        for _, rows in of_chain.groupby("flow"):
            gaps.append(_gap_ns(rows, begin, end) - record.spacing_ns[chain])
            held.append(_held_ns(rows, begin, end))
    if not gaps:
        return None, None
    return round(max(0.0, max(gaps)) / NS_PER_MS, 3), round(max(held) / NS_PER_MS, 3)


def _end_ns(record: EpisodeRecord, window: Window, after_ns: int) -> int:
    healed = [
        event["t_ns"] + after_ns
        for event in record.named("healed")
        if window.begin_ns <= event["t_ns"] < window.end_ns
    ]
    return int(min([window.end_ns, *healed[:1]]))


def _gap_ns(rows: pd.DataFrame, begin: int, end: int) -> float:
    """The longest time without an arrival that reaches into [begin, end), counted to its end."""
    arrivals = np.sort(rows["received_ns"].to_numpy(np.int64))
    spans = np.minimum(arrivals[1:], end) - arrivals[:-1]
    touching = (arrivals[1:] > begin) & (arrivals[:-1] < end)
    return float(spans[touching].max(initial=0))


def _held_ns(rows: pd.DataFrame, begin: int, end: int) -> float:
    """The largest latency above the usual one among the packets that arrived in [begin, end)."""
    received = rows["received_ns"].to_numpy(np.int64)
    latency = received - rows["scheduled_ns"].to_numpy(np.int64)
    usual = float(np.median(latency)) if len(latency) else 0.0
    inside = (received >= begin) & (received < end)
    return float(max(0.0, (latency[inside] - usual).max(initial=0.0)))
