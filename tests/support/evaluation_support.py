"""Raw values of an evaluation that a test can compute by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from agents.placement.evaluation import CONTEST

STREAMS = 12
Value = Callable[[str, float, int, int, str], float]
"""(policy, load, stream, model, figure) -> value"""


def manifest(policies: list[str], **changes: Any) -> dict[str, Any]:
    """What an evaluation notes of itself."""
    heuristics = [name for name in policies if name in ("best-fit", "greedy-delay", "pl-rank")]
    base = {
        "scenario": "small",
        "baseline": "deft",
        "policies": policies,
        "heuristics": heuristics,
        "learned": [name for name in policies if name == "ppo"],
        "bounds": [name for name in policies if name == "milp-hindsight"],
        "complete": True,
        "started": "2026-01-01T00:00:00+0000",
        "models": ["a.pt", "b.pt"],
        "constants": {"queue_ns": 1e8},
    }
    return {**base, **changes}


def values(
    policies: list[str],
    value: Value,
    loads: tuple[float, ...] = (1.0, 2.0),
    streams: int = STREAMS,
    topologies: tuple[str, ...] = ("sndlib/abilene",),
) -> pd.DataFrame:
    """A row for each policy, cell, stream and model (`ppo` has two)."""
    rows = []
    for topology in topologies:
        for load in loads:
            for policy in policies:
                for number, model in enumerate(("a.pt", "b.pt") if policy == "ppo" else ("",)):
                    for stream in range(streams):
                        figures = {
                            figure.key: value(policy, load, stream, number, figure.key)
                            for figure in CONTEST.figures
                        }
                        where = {"topology": topology, "load": load, "stream": stream}
                        rows.append({"policy": policy, **where, "model": model, **figures})
    return pd.DataFrame(rows)


def plain(policy: str, load: float, stream: int, model: int, figure: str) -> float:
    """`deft` has 100 to 111 times the load; others have a share of it that is their own."""
    share = {"deft": 1.0, "greedy-delay": 0.8, "pl-rank": 0.5, "milp-hindsight": 0.2}
    least = share.get(policy, 0.4 if model == 0 else 0.2)
    return float(np.round((100.0 + stream) * load * least, 6))
