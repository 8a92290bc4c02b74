"""How fast is the twin, how fast does `ppo` learn on it, how fast does a policy decide?

`deftbed bench twin`. A decision of the twin is everything between two of them: an observation
with its masks, the choice carried out, requests that leave, servers that fail, the slots that
pass with their queues, the reward. Choices are drawn from what the masks allow. Training is the
whole loop: rollouts, features, network, updates.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from agents.learners.ppo import Learner
from agents.placement.batch import DecisionBatch
from agents.placement.cells import Cell, cell_scenario
from agents.placement.config import PpoConfig
from agents.placement.features import masks
from agents.placement.learning import PlacementWorld
from agents.placement.model import make_network
from agents.placement.on_twin import play
from agents.placement.plans import held_out_plans, training_of, training_plans
from agents.placement.policies import make_policy
from agents.placement.timing import decision_times
from testbed.cli.screens.tables import Column, FittedTable, names, words
from testbed.compiled import compiled_view
from testbed.decisions.placement import PlacementObservation
from testbed.decisions.policy import Policy
from testbed.scenario.load import load_scenario
from testbed.scenario.model import Scenario
from testbed.scenario.types import NS_PER_S, BoolArray, Placement, RunPlan
from testbed.twin.constants import constants_for
from testbed.twin.pack import IntArray, PlanArrays, pack_plans

SCENARIO = Path(__file__).resolve().parents[1] / "scenarios" / "abilene.yaml"
SUBSTRATES = (None, "sndlib/geant", "sndlib/germany50")
BATCHES = (1, 64, 1024)
POLICIES = (
    "deft",
    "random",
    "round-robin",
    "first-fit",
    "best-fit",
    "greedy-delay",
    "pl-rank",
    "milp",
)
SLOT_S = 0.5
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; one JSON object a line with --json."""
    parser = argparse.ArgumentParser(prog="deftbed bench twin", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--runs", type=int, default=5, help="repetitions [5]")
    parser.add_argument("--model", type=Path, help="a trained ppo (.pt or .onnx) to time as well")
    parser.add_argument("--only", choices=("twin", "train", "decisions"), help="one part alone")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "twin": lambda: bench_twin(options.runs),
        "train": lambda: bench_training(options.runs),
        "decisions": lambda: bench_decisions(options.model),
    }
    rows = []
    for name, part in parts.items():
        if options.only in (None, name):
            for row in part():
                rows.append(row)
                if options.json:
                    print(json.dumps(row), flush=True)
    if not options.json:
        _show(rows)


def bench_twin(runs: int) -> Iterator[Row]:
    """Decisions a second by size of the substrate and of the batch, on one core."""
    for topology in SUBSTRATES:
        scenario = substrate(topology)
        pool = pack_plans(training_plans(scenario, 128))
        for environments in BATCHES:
            found = [_rate(pool, scenario, environments, run) for run in range(runs + 1)][1:]
            case = {"nodes": len(pool.capacity_cores), "batch": environments}
            yield _row(case, {"decisions_per_s": found})


def substrate(topology: str | None) -> Scenario:
    """The scenario of the benchmark, on its own graph (None) or on another."""
    scenario = load_scenario(SCENARIO)
    if topology is None:
        return scenario
    return cell_scenario(scenario, Cell(1.0, topology, topology))


def _rate(pool: PlanArrays, scenario: Scenario, environments: int, seed: int) -> float:
    constants = constants_for(scenario, slot_ns=SLOT_S * NS_PER_S)
    batch = DecisionBatch(pool, environments, seed, constants, shaped=False)
    primary = np.zeros(environments, dtype=np.int64)
    backup = np.zeros(environments, dtype=np.int64)
    steps = max(20, 200_000 // environments // 8)
    spent_ns = 0
    for step in range(steps):
        begin_ns = time.perf_counter_ns()
        allowed = masks(batch.observe())
        spent_ns += time.perf_counter_ns() - begin_ns
        _draw(*allowed, seed * 1_000_003 + step, primary, backup)
        begin_ns = time.perf_counter_ns()
        batch.step(primary, backup)
        spent_ns += time.perf_counter_ns() - begin_ns
    return steps * environments * NS_PER_S / spent_ns


@compiled_view
def _draw(
    primary_mask: BoolArray, backup_mask: BoolArray, seed: int, primary: IntArray, backup: IntArray
) -> None:
    """Draw a choice that the masks allow: the first one from a drawn node on; never a rejection."""
    nodes = backup_mask.shape[1]
    for b in range(len(primary)):
        primary[b] = backup[b] = -1
        first = (seed * 7919 + b * 104729) % nodes
        for offset in range(nodes):
            node = (first + offset) % nodes
            if primary[b] < 0 and primary_mask[b, node]:
                primary[b] = node
            elif backup[b] < 0 and backup_mask[b, node]:
                backup[b] = node


def bench_training(runs: int) -> Iterator[Row]:
    """Decisions a second of `ppo`, end to end, with the default hyperparameters."""
    config = PpoConfig()
    for topology in SUBSTRATES:
        scenario = substrate(topology)
        pool = pack_plans(training_plans(scenario, 128))
        constants = constants_for(scenario, slot_ns=config.slot_s * NS_PER_S)
        environments = training_of(scenario).environments
        found = []
        for run in range(runs):
            batch = DecisionBatch(pool, environments, run, constants)
            network = make_network(config.size, run)
            worlds = [PlacementWorld(batch)]
            learner = Learner(network, worlds, config, run, 1000, torch.device("cpu"))
            list(learner.run(2))
            begin = time.perf_counter()
            list(learner.run(config.segment))
            wall_s = time.perf_counter() - begin
            found.append(config.segment * config.steps * environments / wall_s)
        case = {"nodes": len(pool.capacity_cores), "algorithm": "ppo", "batch": environments}
        yield _row(case, {"train_decisions_per_s": found})


def bench_decisions(model: Path | None) -> Iterator[Row]:
    """How long a policy takes for a decision, by size of the substrate."""
    names = [*POLICIES, *(["ppo"] if model is not None else [])]
    for topology in SUBSTRATES:
        scenario = substrate(topology)
        plans = held_out_plans(scenario, 4)
        for name in names:
            policy = make_policy(name, 1, model if name == "ppo" else None)
            seen = _observations(policy, plans, scenario)
            times = decision_times(policy, seen)
            yield {
                "bench": "twin",
                "case": {"nodes": len(plans[0].servers), "policy": name},
                "figures": {
                    "decision_p50_us": round(times.p50_us, 1),
                    "decision_p99_us": round(times.p99_us, 1),
                },
                "spread": {},
                "runs": len(seen),
            }


def _observations(
    policy: Policy, plans: Sequence[RunPlan], scenario: Scenario
) -> list[PlacementObservation]:
    """What a policy sees on some plans of the twin."""
    found: list[PlacementObservation] = []

    def decide(seen: PlacementObservation) -> Placement | None:
        found.append(seen)
        return policy.decide(seen)

    for plan in plans:
        play([plan], [decide], constants_for(scenario))
    return found


def _row(case: Row, found: dict[str, list[float]]) -> Row:
    return {
        "bench": "twin",
        "case": case,
        "figures": {name: round(float(np.median(values))) for name, values in found.items()},
        "spread": {name: [round(min(v)), round(max(v))] for name, v in found.items()},
        "runs": len(next(iter(found.values()))),
    }


def _show(rows: Sequence[Row]) -> None:
    lines = []
    for row in rows:
        case = {key: value for key, value in row["case"].items() if key != "nodes"}
        named = ", ".join(f"{key} {value}" for key, value in case.items())
        for name, value in row["figures"].items():
            low, high = row["spread"].get(name, ("", ""))
            spread = f"{low:,} to {high:,}" if low != "" else ""
            lines.append((str(row["case"]["nodes"]), named, name, f"{value:,}", spread))
    keys = (Column("nodes"), words("case"), names("figure"))
    columns = (*keys, Column("median"), names("spread"))
    out = Console(highlight=False)
    out.print("The twin", style="bold")
    out.print(FittedTable(columns, tuple(lines), len(keys)))


if __name__ == "__main__":
    main()
