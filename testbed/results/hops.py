"""Divides the time of traced packets by hop, from the `hops` of packets.parquet. Pure.

`hops` of a packet that was traced is a JSON list of [hop, part, nanoseconds] in the order of its
way; what one that arrived took adds up to `received_ns` - `sent_ns`. Hop 0, 1 ... are the functions
of the chain and what lies before each; the last hop is the way from the last function to the
destination. Parts:

    source     from its sending to when the edge put it on the network
    links      propagation on the shortest path, as the scenario has it
    switches   the rest of the way: switches, queues and serialisation of links, the wait until the
               process took the frame
    queue      the wait for the server's CPU
    function   service time, waiting for its turn in its flow, and the function's own run
    commit     from the log to the next hop: batch, backup's answer, release
    sink       from the edge to the receiver's socket
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from testbed.statistics.quantiles import quantiles

PARTS = ("source", "links", "switches", "queue", "function", "commit", "sink")
Span = tuple[int, str, int]
"""(hop, part, nanoseconds)"""


def encode(spans: Sequence[Span]) -> str:
    """Spans as they stand in packets.parquet."""
    return json.dumps(spans, separators=(",", ":"))


def measure_hops(packets: pd.DataFrame) -> list[dict[str, Any]]:
    """Time by hop and part over the traced packets that arrived; empty if there are none.

    Each entry has `hop`, `part`, `share` (of these packets that have it: chains differ in length),
    `mean_ns` and percentiles `ns` over those. `packets` has `hops` and `received_ns`.
    """
    traced = packets.loc[packets["hops"].notna() & packets["received_ns"].notna(), "hops"]
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for text in traced:
        for hop, part, span_ns in json.loads(text):
            found[hop, PARTS.index(part)].append(span_ns)
    return [
        {
            "hop": hop,
            "part": PARTS[part],
            "share": len(values) / len(traced),
            "mean_ns": float(np.mean(values)),
            "ns": quantiles(np.array(values)),
        }
        for (hop, part), values in sorted(found.items())
    ]
