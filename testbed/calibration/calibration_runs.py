"""The short emulation runs of a calibration: small scenarios, each for one purpose.

Placement is that of `deft`, by a hash of the request. So some chains cross few links and some cross
many, and the cost of a link can be told from the cost of an instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from testbed.scenario.model import Scenario

Purpose = Literal["latency", "load", "fault"]
POLICY = "deft"
LINK_KM = 200
NODES = ("a", "b", "c", "d", "e")
MORE_NODES = (*NODES, "f", "g", "h", "i", "j", "k", "l")
"""What a switch takes for a frame grows with the number of switches that share a datapath."""
LOADS = (0.3, 0.6, 0.9, 1.2)
"""Of one server's capacity, one after another."""
LOAD_SERVICE_S = 600e-6
LOAD_CORES = 0.25
LOAD_STEP_S = 4.0


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """One run: what it is for, and its scenario (one policy, one seed)."""

    purpose: Purpose
    scenario: Scenario


def calibration_runs(repetitions: int = 1) -> list[CalibrationRun]:
    """All runs of a calibration; each repetition has seeds of its own."""
    runs = []
    for seed in range(1, repetitions + 1):
        for nodes in (NODES, MORE_NODES):
            for mode in ("none", "pipelined"):
                runs.append(CalibrationRun("latency", _latency(mode, seed, nodes)))
        runs.append(CalibrationRun("latency", _latency("deft", seed, NODES)))
        runs.append(CalibrationRun("load", _load(seed)))
        for without_backup in ("availability", "safety"):
            runs.append(CalibrationRun("fault", _fault(without_backup, seed)))
    return runs


def _latency(mode: str, seed: int, nodes: Sequence[str]) -> Scenario:
    """Chains of one, three and five functions at light load, over short ways and long ones."""
    chains = {"one": ["nat"], "three": ["nat", "fw", "nat"], "five": ["nat", "fw", "idps"] * 2}
    chains["five"] = chains["five"][:5]
    return _scenario(
        f"calibrate-latency-{mode}-{len(nodes)}",
        seed,
        nodes,
        servers={"default": {"cpu_cores": 1.0}},
        chains=[_chain(name, functions, 12.0) for name, functions in chains.items()],
        traffic={
            "duration_s": 9.0,
            "initial_requests": 6,
            "setup_s": 0.5,
            "process": "cbr",
            "pairs": [["a", "e"], ["a", "b"], ["d", "c"]],
        },
        replication={"mode": mode},
    )


def _load(seed: int) -> Scenario:
    """One function on one server, from light load to more than it can do."""
    rate_pps = LOADS[0] * LOAD_CORES / LOAD_SERVICE_S
    steps = [
        {"at_s": 0.5 + number * LOAD_STEP_S, "factor": load / LOADS[0]}
        for number, load in enumerate(LOADS)
        if number
    ]
    return _scenario(
        "calibrate-load",
        seed,
        NODES,
        servers={"default": {"cpu_cores": LOAD_CORES}},
        functions={"nat": {"service_s": LOAD_SERVICE_S, "backup_service_s": 0.0}},
        chains=[_chain("one", ["nat"], rate_pps)],
        traffic={
            "duration_s": 0.5 + len(LOADS) * LOAD_STEP_S,
            "initial_requests": 1,
            "setup_s": 0.5,
            "pairs": [["a", "c"]],
            "load_steps": steps,
        },
        replication={"mode": "none"},
    )


def _fault(without_backup: str, seed: int) -> Scenario:
    """Chains of two functions on five servers, of which one dies."""
    return _scenario(
        f"calibrate-fault-{without_backup}",
        seed,
        NODES,
        servers={"default": {"cpu_cores": 1.0}},
        chains=[_chain("two", ["nat", "fw"], 50.0)],
        traffic={
            "duration_s": 7.0,
            "initial_requests": 4,
            "setup_s": 0.5,
            "process": "cbr",
            "pairs": [["a", "e"], ["d", "b"]],
        },
        replication={"mode": "pipelined", "without_backup": without_backup},
        faults=[{"kind": "server-down", "at_s": 3.0, "node": "c"}],
    )


def _chain(name: str, functions: list[str], rate_pps: float) -> dict[str, Any]:
    return {
        "name": name,
        "functions": functions,
        "rate_pps": rate_pps,
        "l3_bytes": 200,
        "delay_bound_s": 0.2,
    }


def _scenario(name: str, seed: int, nodes: Sequence[str], **parts: Any) -> Scenario:
    """A scenario on nodes in a line."""
    return Scenario.model_validate(
        {
            "format": 2,
            "name": name,
            "topology": {
                "nodes": [{"name": node} for node in nodes],
                "links": [
                    {"a": a, "b": b, "length_km": float(LINK_KM)} for a, b in pairwise(nodes)
                ],
            },
            "links": {"rate_bps": 50e6},
            "problem": {"name": "placement", "policies": [POLICY], "baseline": POLICY},
            "seeds": [seed],
            **parts,
        }
    )
