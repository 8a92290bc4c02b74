"""Whatever the schema allows: `check` is done, and what it calls valid can be planned and built."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import yaml
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from testbed.scenario.errors import InputError
from testbed.scenario.load import parse_scenario
from testbed.scenario.model import Scenario
from testbed.scenario.plan import make_plan, plan_digest
from testbed.scenario.types import NS_PER_S, RunPlan
from testbed.substrate.layout import make_layout
from testbed.substrate.links.netem import lacking, netem_options
from tests.support.scenario_drawn import PLACES, SMALL, scenarios, values
from tests.unit.scenario.test_text import NO_WORDS
from traffic.workload import make_workload

DRAWN = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEW_PACKETS = 50_000
"""Of requests that send more, the packets are not made here: it takes long."""


def checked(data: dict[str, Any]) -> tuple[Scenario, list[RunPlan]] | None:
    """What `check` makes of a file; None if it refuses it, in words for people."""
    try:
        scenario = parse_scenario(yaml.safe_dump(data))
        return scenario, [make_plan(scenario, seed) for seed in scenario.seeds[:2]]
    except InputError as error:
        assert not NO_WORDS.search(str(error)), error
        assert len(str(error)) < 5000
        event(f"refused: {error.field.split('.')[0]}")
        return None


@DRAWN
@given(scenarios())
@example(SMALL)
def test_what_check_calls_valid_can_be_planned_and_built(data: dict[str, Any]) -> None:
    found = checked(data)
    if found is None:
        return
    event("valid")
    scenario, plans = found
    assert parse_scenario(json.dumps(scenario.model_dump(mode="json"))) == scenario
    for plan in plans:
        assert plan_digest(plan) == plan_digest(make_plan(scenario, plan.seed))
        make_layout(plan.topology, "00000a")
        for link in [*plan.topology.links, *(change.link for change in plan.link_changes)]:
            assert link.rate_bps > 0 and 0 <= link.delay_ns <= 10 * NS_PER_S
            if lacking([link]) is None:
                assert "rate" in netem_options(link, 1500)
        for request in plan.requests:
            life_s = (request.end_ns - request.start_ns) / NS_PER_S
            assert life_s >= 0 and request.end_ns <= plan.duration_ns
            most = max([1.0, *(factor for _, factor in plan.load_steps)])
            if request.rate_pps * life_s * most < FEW_PACKETS:
                _check_packets(plan, request.id, scenario)


def _check_packets(plan: RunPlan, number: int, scenario: Scenario) -> None:
    request = plan.requests[number]
    made = make_workload(plan, request, scenario.traffic.process)
    due_ns = made.schedule["scheduled_ns"]
    assert (np.diff(due_ns) >= 0).all()
    if len(due_ns):
        assert request.start_ns <= due_ns[0] and due_ns[-1] < max(request.end_ns, 1)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([1e300, -1, 0, 10**400, "010", "auto"]),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@DRAWN
@given(st.sampled_from(PLACES), ANYTHING)
def test_anything_anywhere_is_valid_or_refused_by_its_key(
    place: tuple[tuple[str | int, ...], Any], value: Any
) -> None:
    where, _ = place
    data: Any = copy.deepcopy(SMALL)
    inside = data
    for step in where[:-1]:
        inside = inside[step]
    inside[where[-1]] = value
    if NO_WORDS.search(repr(value)):
        return
    try:
        scenario = parse_scenario(yaml.safe_dump(data))
        make_plan(scenario, scenario.seeds[0])
    except InputError as error:
        assert error.field.split(".")[0] in (*map(str, where), "scenario", *SMALL), error
        assert not NO_WORDS.search(str(error)), error


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(PLACES).flatmap(lambda place: st.tuples(st.just(place[0]), values(place[1])))
)
def test_one_part_that_the_schema_allows_is_taken_or_refused_for_what_follows(
    drawn: tuple[tuple[str | int, ...], Any],
) -> None:
    where, value = drawn
    data: Any = copy.deepcopy(SMALL)
    inside = data
    for step in where[:-1]:
        inside = inside[step]
    inside[where[-1]] = value
    checked(data)
