"""The figures of one run, from its packets and its events alone.

Definitions:

- `sent`: packets handed to the kernel (`sent_ns` is there, or the packet arrived: a sender that
  is killed between the two may have sent one packet that it did not note).
- `received`: packets of which at least one copy arrived. `lost` = `sent` - `received`.
- `blocked`: packets sent for requests that the policy rejected. They are sent too, and are lost.
- `unserved`: lost packets of requests that were accepted, or not decided yet, sent before the
  chain was ready (event "chain-ready").
  So `lost` - `blocked` - `unserved` were lost in a chain that ran.
- `unsent`: packets that were due and never sent; 0 in a run that was not cut short.
- `duplicated`: arrivals beyond the first of each packet.
- `reordered`: packets whose first arrival comes after that of a packet of the same flow with a
  greater `seq`: s < NextExp (Type-P-Reordered, RFC 4737 section 3.3).
- `overtaken`: packets that came to the end of their chain after a later one of their flow, by the
  stamps of the chain's last function (event "order"): the network reordered them on the way from
  there. On other stretches order does not matter, since each function takes packets in the order of
  their stamps. What `reordered` has beyond it, a function did, or what lies before the chain. Null
  if no edge said so.
- `latency_ns`: of first arrivals, received less *scheduled* time (open loop), percentiles by
  nearest rank; null if nothing arrived. Lost packets have no latency, so it is to be read beside
  `lost`.
- `goodput_bps`: L3 bits of the packets received, each counted once, over the traffic's duration:
  from the first to the last scheduled time of all packets, arrived or not.
- `metrics`: what `testbed.results.metrics` measures of all packets of the run together.
- `requested`, `accepted`: requests that arrived, and those of them that the policy placed.
- `overload_s`: time in overload, summed over the servers ("overload-begin" to "overload-end", at
  most to "run-end").
- `recovery_ns`: for each group whose primary a fault struck, the time from that fault to the
  "first-release" of its new primary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from testbed.results.metrics import goodput_bps, measure, of_packets
from testbed.results.whereabouts import Whereabouts
from testbed.scenario.steering import is_forward
from testbed.statistics.quantiles import PERCENTILES, nearest_rank

_NS_PER_S = 1_000_000_000

Event = Mapping[str, Any]


def summarise(
    packets: pd.DataFrame, events: Sequence[Event], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """The run's entry of summary.json.

    `packets` has the columns of `testbed.records.packets`, `events` are in the order of time; of
    `manifest` only "seed" and "valid" are used.
    """
    decisions = {int(e["request"]): bool(e["accepted"]) for e in _named(events, "decision")}
    asked = {int(event["request"]) for event in _named(events, "request")} | set(decisions)
    arrived = packets["received_ns"].notna().to_numpy()
    sent = packets["sent_ns"].notna().to_numpy() | arrived
    lost = sent & ~arrived
    rejected = packets["chain"].isin([r for r, accepted in decisions.items() if not accepted])
    blocked = sent & rejected.to_numpy()
    latency_ns = latencies(packets)
    rows = of_packets(packets)
    return {
        "seed": manifest["seed"],
        "valid": manifest["valid"],
        "sent": int(sent.sum()),
        "received": int(arrived.sum()),
        "lost": int(lost.sum()),
        "blocked": int(blocked.sum()),
        "unserved": int((lost & ~blocked & _before_ready(packets, events)).sum()),
        "unsent": int((~sent).sum()),
        "duplicated": int((packets["copies"].to_numpy() - 1).clip(min=0).sum()),
        "reordered": int(rows["reordered"].sum()),
        "overtaken": overtaken(events),
        "latency_ns": {
            name: nearest_rank(latency_ns, share) for name, share in PERCENTILES.items()
        },
        "goodput_bps": goodput_bps(packets),
        "metrics": measure(rows),
        "accepted": sum(decisions.values()),
        "requested": len(asked),
        "overload_s": overload_s(events),
        "recovery_ns": recovery_ns(events),
    }


def overtaken(events: Sequence[Event]) -> int | None:
    """Packets of requests that were overtaken after the last function; None if no edge said so."""
    counts = [int(e["overtaken"]) for e in _named(events, "order") if is_forward(int(e["path"]))]
    return sum(counts) if counts else None


def latencies(packets: pd.DataFrame) -> NDArray[np.int64]:
    """Latency of each packet that arrived, in nanoseconds from its scheduled time."""
    arrived = packets[packets["received_ns"].notna()]
    received_ns = arrived["received_ns"].to_numpy(dtype=np.int64)
    return np.asarray(received_ns - arrived["scheduled_ns"].to_numpy(dtype=np.int64))


def overload_s(events: Sequence[Event]) -> float:
    """Server-seconds of overload; an overload that has not ended ends with the run."""
    if not events:
        return 0.0
    end_ns = next((e["t_ns"] for e in _named(events, "run-end")), events[-1]["t_ns"])
    begun: dict[Any, int] = {}
    total_ns = 0
    for event in events:
        if event["event"] == "overload-begin":
            begun.setdefault(event["node"], event["t_ns"])
        elif event["event"] == "overload-end" and event["node"] in begun:
            total_ns += max(0, min(event["t_ns"], end_ns) - begun.pop(event["node"]))
    total_ns += sum(max(0, end_ns - begin_ns) for begin_ns in begun.values())
    return float(total_ns / _NS_PER_S)


def recovery_ns(events: Sequence[Event]) -> list[int]:
    """From a fault to the first packet that a new primary of a group it struck releases, by time.

    A fault strikes the groups whose primary is at its node then. If another one strikes a group
    before it released anything, its recovery is one, from the first of them.
    """
    where, struck_ns, durations = Whereabouts(), dict[str, int](), []
    for event in events:
        where.note(event)
        if event["event"] == "fault":
            for group in where.led_from(event["node"]):
                struck_ns.setdefault(group, event["t_ns"])
        elif event["event"] == "first-release" and event["group"] in struck_ns:
            durations.append(int(event["t_ns"] - struck_ns.pop(event["group"])))
    return durations


def _before_ready(packets: pd.DataFrame, events: Sequence[Event]) -> NDArray[np.bool_]:
    origin_ns = next((event["t_ns"] for event in _named(events, "run-start")), 0)
    ready = {int(e["request"]): e["t_ns"] - origin_ns for e in _named(events, "chain-ready")}
    never = np.iinfo(np.int64).max
    ready_ns = packets["chain"].map(lambda chain: ready.get(chain, never)).to_numpy(np.int64)
    sent_ns = packets["sent_ns"].fillna(packets["scheduled_ns"]).to_numpy(dtype=np.int64)
    return np.asarray(sent_ns < ready_ns)


def _named(events: Sequence[Event], name: str) -> list[Event]:
    return [event for event in events if event["event"] == name]
