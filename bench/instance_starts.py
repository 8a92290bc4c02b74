"""How long does an instance take to start? `python -m bench.instance_starts --json`. Needs root.

From the order to the warm parent to the instance's answer to a ping: a fork, its sockets, tables
and rings, and for the primary its first configuration. Nothing is imported or compiled on the way.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.rigs.chain_lab import ChainLab, instance_config, laboratory
from bench.rigs.workers import ended_by_sigterm
from testbed.orchestration.deploying import zygote

STARTS = 40
MAX_FLOWS = (1 << 12, 1 << 17)
"""Tables of the size that a scenario gets by default, and of that of the benchmarks."""


def starts_ms(lab: ChainLab, function: str, max_flows: int, count: int) -> list[float]:
    """Milliseconds of each of `count` starts, one after the other."""
    config = {"max_connections": max_flows} if function == "fw" else {}
    took = []
    for _ in range(count):
        order = instance_config(0, 0, function, config, "none", max_flows)
        took.append(1e3 * lab.start("p0", "testbed.vnf.process.runtime:main", order))
        lab.end()
    return took


def line(max_flows: int, took: Sequence[float]) -> dict[str, Any]:
    """What is printed for a size."""
    figures = {
        "start_p50_ms": round(float(np.quantile(took, 0.5)), 2),
        "start_p99_ms": round(float(np.quantile(took, 0.99)), 2),
    }
    spread = [round(min(took), 2), round(max(took), 2)]
    return {
        "bench": "start",
        "case": {"function": "fw", "max_flows": max_flows},
        "figures": figures,
        "spread": {"start_ms": spread},
        "runs": len(took),
        "load_average": round(os.getloadavg()[0], 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each size of tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--starts", type=int, default=STARTS, help=f"of each size [{STARTS}]")
    options = parser.parse_args(arguments)
    for module in zygote.WARM_MODULES:
        importlib.import_module(module)
    with ended_by_sigterm(), laboratory(1) as lab:
        starts_ms(lab, "fw", MAX_FLOWS[0], 1)  # the warm parent comes up
        for max_flows in MAX_FLOWS:
            result = line(max_flows, starts_ms(lab, "fw", max_flows, options.starts))
            shown = f"{result['case']}: {result['figures']}"
            print(json.dumps(result) if options.json else shown, flush=True)


if __name__ == "__main__":
    main()
