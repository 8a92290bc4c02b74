"""What is valid in a scenario, and yet not what a reader might think."""

from __future__ import annotations

from collections.abc import Iterable

from testbed.scenario import topohub_graph
from testbed.scenario.model import Scenario
from testbed.scenario.types import RunPlan


def remarks(scenario: Scenario, plans: Iterable[RunPlan]) -> tuple[str, ...]:
    """One sentence each; `plans` are those of all seeds."""
    graph = scenario.topology.topohub
    found = [] if graph is None else list(topohub_graph.remarks(graph))
    if scenario.traffic.pairs is not None:
        found = [each for each in found if "demands" not in each]
        same = [a for a, b in scenario.traffic.pairs if a == b]
        if same:
            found.append(f"pairs of one node are left out: {', '.join(dict.fromkeys(same))}")
    most = max(len(plan.requests) for plan in plans)
    asked = (
        ("moves", [spec.request for spec in scenario.moves]),
        ("scales", [spec.request for spec in scenario.scales]),
        ("traffic.applications", [spec.request for spec in scenario.traffic.applications]),
    )
    for key, requests in asked:
        for number, request in enumerate(requests):
            if request >= most:
                found.append(
                    f"{key}.{number} is never carried out: no seed has request {request}, "
                    f"since they are numbered from 0 and there are {most} at most"
                )
    return tuple(found)
