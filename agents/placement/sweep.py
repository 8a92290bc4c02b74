"""Policies x cells x streams on the twin: a row of raw figures for each, and nothing summed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from agents.placement.cells import Cell, cell_scenario
from agents.placement.outcomes import evaluate
from agents.placement.plans import held_out_plans
from agents.placement.policies import BOUNDS, make_policy
from testbed.decisions.placement import PlacementObservation
from testbed.decisions.policy import Policy
from testbed.scenario.model import Scenario
from testbed.scenario.types import Placement, RunPlan
from testbed.statistics.quantiles import nearest_rank
from testbed.twin.calibration import Calibration
from testbed.twin.constants import TwinConstants, constants_for


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one stream of requests of one cell; times in nanoseconds of the twin's clock.

    model         the model's file name, empty for what is not trained
    lost          packets of accepted requests that were not delivered
    goodput_pps   packets delivered within their delay bound, a second
    cost          what learning minimises (`CostWeights`)
    decision_p50_ns, decision_p99_ns   wall time to decide a whole request, over the stream's
                  requests; NaN for what was decided before
    """

    policy: str
    topology: str
    load: float
    stream: int
    model: str
    requests: int
    acceptance: float
    latency_mean_ns: float
    latency_p50_ns: float
    latency_p99_ns: float
    loss: float
    lost: float
    overload_s: float
    goodput_pps: float
    cost: float
    decision_p50_ns: float
    decision_p99_ns: float


@dataclass(slots=True)
class Timed:
    """A policy with a watch: `spent_ns` is what it took to decide, by request."""

    policy: Policy
    spent_ns: dict[int, int] = field(default_factory=dict)

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """What the policy decides."""
        begin_ns = time.perf_counter_ns()
        choice = self.policy.decide(observation)
        spent_ns = time.perf_counter_ns() - begin_ns
        if observation.task == "place":
            before_ns = self.spent_ns.get(observation.request, 0)
            self.spent_ns[observation.request] = before_ns + spent_ns
        return choice


def rows_of(
    scenario: Scenario,
    contestants: Sequence[tuple[str, Path | None]],
    cells: Sequence[Cell],
    streams: int,
    calibration: Calibration | None,
    progress: Callable[[str, float], None],
) -> Iterator[dict[str, object]]:
    """The rows, cell by cell; `progress` is told what is next and the share that is done.

    All policies of a cell meet the same streams: plans whose seeds no training uses. A contestant
    is a policy and the file of its model, if it has learned. The twin has the constants of
    `calibration`, or its defaults.
    """
    total, done = len(cells) * len(contestants), 0
    for cell in cells:
        moved = cell_scenario(scenario, cell)
        plans = held_out_plans(moved, streams)
        constants = constants_for(moved, calibration)
        for name, model in contestants:
            progress(f"{name}, {cell.place}, load {cell.load:g}", done / total)
            learned = make_policy(name, 0, model) if model is not None else None
            for plan in plans:
                policy = learned or make_policy(name, plan.seed, None, plan, constants)
                row = _row(name, "" if model is None else model.name, cell, plan, policy, constants)
                yield asdict(row)
            done += 1
    progress("done", 1.0)


def _row(
    name: str, model: str, cell: Cell, plan: RunPlan, policy: Policy, constants: TwinConstants
) -> Row:
    timed = Timed(policy)
    found = evaluate(timed, [plan], constants)
    spent_ns = [] if name in BOUNDS else list(timed.spent_ns.values())
    return Row(
        policy=name,
        topology=cell.place,
        load=cell.load,
        stream=plan.seed,
        model=model,
        requests=len(plan.requests),
        acceptance=found.acceptance,
        latency_mean_ns=found.latency_mean_ns,
        latency_p50_ns=found.latency_p50_ns,
        latency_p99_ns=found.latency_p99_ns,
        loss=found.loss,
        lost=found.lost,
        overload_s=found.overload_s,
        goodput_pps=found.goodput_pps,
        cost=-found.reward,
        decision_p50_ns=_quantile(spent_ns, 0.5),
        decision_p99_ns=_quantile(spent_ns, 0.99),
    )


def _quantile(spent_ns: Sequence[int], share: float) -> float:
    found = nearest_rank(np.array(spent_ns, np.int64), share)
    return float("nan") if found is None else float(found)
