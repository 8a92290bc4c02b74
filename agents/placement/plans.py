"""Which plans a policy learns from, and which it is judged on, all as the twin runs them."""

from __future__ import annotations

from testbed.scenario.model import Scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.problems.placement import TwinTrainingSpec
from testbed.scenario.types import RunPlan
from testbed.twin.pack import as_modelled

TRAINING_SEEDS = 1_000_000
HELD_OUT_SEEDS = 2_000_000
VALIDATION_SEEDS = 3_000_000
"""Plans for learning, for the last judgement and for choosing the best weights have seeds from here
on; a scenario's own are far below."""


def training_of(scenario: Scenario) -> TwinTrainingSpec:
    """How `ppo` learns placement on a scenario: of another problem's it has the seed."""
    given = scenario.problem.training
    return given if isinstance(given, TwinTrainingSpec) else TwinTrainingSpec(seed=given.seed)


def training_plans(scenario: Scenario, count: int) -> list[RunPlan]:
    """Plans to learn from: as the scenario's, but which server dies is drawn anew for each.

    A policy that had seen the scenario's own fault a thousand times would know the future.
    """
    return _drawn(scenario, TRAINING_SEEDS, count)


def validation_plans(scenario: Scenario, count: int) -> list[RunPlan]:
    """Plans by which the best weights are chosen: as `training_plans`, of other seeds."""
    return _drawn(scenario, VALIDATION_SEEDS, count)


def _drawn(scenario: Scenario, first: int, count: int) -> list[RunPlan]:
    faults = [fault.model_copy(update={"node": None}) for fault in scenario.faults]
    drawn = scenario.model_copy(update={"faults": faults})
    return [as_modelled(make_plan(drawn, first + number)) for number in range(count)]


def held_out_plans(scenario: Scenario, count: int) -> list[RunPlan]:
    """Plans to judge by: the scenario's, its faults included, of seeds that nothing else uses."""
    return [as_modelled(make_plan(scenario, HELD_OUT_SEEDS + n)) for n in range(count)]
