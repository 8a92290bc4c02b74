"""The manifest of a run with one chain of two functions, over three nodes in a row."""

from __future__ import annotations

from typing import Any

from tests.support.results_support import MS

ORIGIN = 7_000 * MS
MANIFEST: dict[str, Any] = {
    "origin_ns": ORIGIN,
    "topology": {
        "nodes": [
            {"index": n, "name": name, "longitude_deg": 0.0, "latitude_deg": 0.0}
            for n, name in enumerate(("west", "north", "east"))
        ],
        "links": [
            {"a": a, "b": b, "delay_ns": 2 * MS, "rate_bps": 10**9, "queue_bytes": 10**5}
            for a, b in ((0, 1), (1, 2))
        ],
    },
    "requests": [{"id": 0, "functions": ["nat", "fw"], "chain": "voip", "l3_bytes": 100}],
}
