"""`milp-hindsight` is a bound: nobody accepts more, whatever replication and number of backups."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from agents.placement.baselines.hindsight import Hindsight, solve_hindsight
from agents.placement.on_twin import play
from agents.placement.policies import HEURISTICS, make_policy
from testbed.decisions.placement import Ledger, ledger_of
from testbed.decisions.policy import Policy
from testbed.orchestration.deploying import backups
from testbed.scenario.types import (
    NS_PER_S,
    Fault,
    Placement,
    ReplicationMode,
    Request,
    RunPlan,
    Server,
    load_factor,
)
from testbed.twin.constants import TwinConstants
from testbed.twin.pack import as_modelled
from tests.support.twin_support import MS, PROFILES, line_plan, line_topology, make_request

ONLINE = ("deft", *HEURISTICS)
CONSTANTS = TwinConstants()
KINDS: tuple[tuple[ReplicationMode, int], ...] = (
    ("none", 0), ("pipelined", 0), ("deft", 1), ("pipelined", 1), ("pipelined", 2), ("deft", 3),
)  # fmt: skip


def drawn_plan(seed: int, mode: ReplicationMode, wanted: int) -> RunPlan:
    """A few chains that do not all fit on a few servers; loads that step and a server that dies."""
    rng = random.Random(seed)
    nodes = rng.randint(max(2, wanted + 1), 4)
    duration_ns = 10 * NS_PER_S
    requests = []
    for number in range(rng.randint(2, 4)):
        arrival_ns = rng.choice((0, rng.randrange(8 * NS_PER_S)))
        start_ns = arrival_ns + rng.randrange(NS_PER_S)
        requests.append(
            make_request(
                number,
                functions=tuple(rng.choices(sorted(PROFILES), k=rng.randint(1, 2))),
                source=rng.randrange(nodes),
                destination=rng.randrange(nodes),
                arrival_ns=arrival_ns,
                start_ns=start_ns,
                end_ns=rng.choice((duration_ns, rng.randint(start_ns + 1, duration_ns))),
                rate_pps=rng.uniform(200.0, 1200.0),
            )
        )
    faults: tuple[Fault, ...] = ()
    if rng.random() < 0.5:
        # Often just before somebody arrives, who is placed before the death is detected.
        near_ns = rng.choice(requests).arrival_ns - rng.randint(-50, 200) * MS
        at_ns = rng.choice((max(0, near_ns), rng.randrange(8 * NS_PER_S)))
        faults = (Fault("server-down", at_ns, rng.randrange(nodes)),)
    steps = sorted(rng.randrange(duration_ns) for _ in range(rng.choice((0, 0, 1, 2))))
    return dataclasses.replace(
        line_plan(()),
        seed=seed,
        topology=line_topology(nodes),
        servers=tuple(
            Server(node, rng.uniform(0.2, 1.0), rng.choice((45, 65, 1000)) * 1_000_000)
            for node in range(nodes)
        ),
        requests=tuple(requests),
        load_steps=tuple((at_ns, rng.uniform(0.5, 1.6)) for at_ns in steps),
        faults=faults,
        admission=True,
        mode=mode,
        backups=wanted,
    )


def accepted_in_a_run(plan: RunPlan, policy: Policy) -> int:
    """How many requests a run accepts: its ledger, its way to ask, and the faults that it finds."""
    ledger, placed, found = ledger_of(plan), dict[int, list[Placement]](), 0
    events: list[tuple[int, int, Fault | Request]] = []
    events += [(fault.at_ns + round(CONSTANTS.detection_ns), 0, fault) for fault in plan.faults]
    events += [(request.arrival_ns, 1 + request.id, request) for request in plan.requests]
    for at_ns, _, event in sorted(events, key=lambda each: each[:2]):
        for request in plan.requests:
            if request.end_ns + NS_PER_S <= at_ns:
                ledger.remove(request.id)
                placed.pop(request.id, None)
        ledger.load_factor = load_factor(plan, at_ns)
        if isinstance(event, Fault):
            ledger.server_down(event.node)
            _promote(plan, ledger, placed, event.node)
            continue
        chosen = _place(policy, ledger, plan, event)
        if chosen is not None:
            placed[event.id] = chosen
            ledger.add(event, chosen)
            found += 1
    return found


def _place(
    policy: Policy, ledger: Ledger, plan: RunPlan, request: Request
) -> list[Placement] | None:
    chosen: list[Placement] = []
    for _ in request.functions:
        choice = backups.place(policy, ledger, request, chosen, plan.backups)
        if isinstance(choice, str):
            return None
        chosen.append(choice)
    return chosen


def _promote(plan: RunPlan, ledger: Ledger, placed: dict[int, list[Placement]], dead: int) -> None:
    for number, placements in placed.items():
        for hop, placement in enumerate(placements):
            nodes = [node for node in placement.nodes if node != dead]
            if nodes:
                backup = nodes[1] if len(nodes) > 1 else None
                placements[hop] = Placement(nodes[0], backup, tuple(nodes[2:]))
        ledger.add(plan.requests[number], placements)


def acceptances(plan: RunPlan) -> Iterator[tuple[str, int]]:
    """What each policy accepts, in a run and on the twin."""
    for name in (*ONLINE, "milp-hindsight"):
        for world in ("run", "twin"):
            asked = plan if world == "run" else as_modelled(plan)
            if name == "milp-hindsight" and asked.backups != plan.backups:
                continue  # another bound: the twin has fewer backups
            policy = make_policy(name, plan.seed, None, asked, CONSTANTS)
            if world == "run":
                yield f"{name} in a run", accepted_in_a_run(plan, policy)
            else:
                played = play([asked], [policy.decide], CONSTANTS)[0].result.requests
                yield f"{name} on the twin", sum(one.accepted for one in played)


def bound_of(plan: RunPlan) -> Hindsight:
    return solve_hindsight(plan, round(CONSTANTS.drain_ns))


@pytest.mark.parametrize(("mode", "wanted"), KINDS)
def test_no_policy_accepts_more_than_the_bound(mode: ReplicationMode, wanted: int) -> None:
    counts: Counter[str] = Counter()
    for seed in range(15):
        plan = drawn_plan(seed, mode, wanted)
        known = bound_of(plan)
        twins = bound_of(as_modelled(plan)).accepted_bound
        assert known.optimal
        assert known.accepted_bound <= twins  # who needs fewer backups can accept no less
        found = dict(acceptances(plan))
        for name, accepted in found.items():
            limit = known.accepted_bound if name.endswith("in a run") else twins
            assert accepted <= limit, f"drawn_plan({seed}, {mode}, {wanted}): {name}"
        if not plan.faults and not plan.load_steps:
            assert found["milp-hindsight in a run"] == known.accepted_bound
        counts["all accepted"] += known.accepted_bound == len(plan.requests)
        counts["some refused"] += known.accepted_bound < len(plan.requests)
        counts["not found by some"] += min(found.values()) < known.accepted_bound
    assert counts["some refused"] >= 3 and counts["not found by some"] >= 3, counts


def test_without_replication_no_backup_is_planned() -> None:
    # Two servers of 0.5; a primary takes 0.42, its backup 0.105: without backups there is room for
    # one each.
    requests = tuple(make_request(number, rate_pps=700.0) for number in range(2))
    cases: tuple[tuple[ReplicationMode, int, int], ...] = (
        ("none", 0, 2), ("pipelined", 0, 2), ("pipelined", 1, 1),
    )  # fmt: skip
    for mode, wanted, bound in cases:
        plan = dataclasses.replace(
            line_plan(requests, cores=(0.5, 0.5)), topology=line_topology(2),
            admission=True, mode=mode, backups=wanted,
        )  # fmt: skip
        plan = dataclasses.replace(
            plan, requests=tuple(dataclasses.replace(r, destination=1) for r in requests)
        )
        known = bound_of(plan)
        assert known.accepted_bound == bound
        chosen = [placed for placed in known.placements.values() if placed is not None]
        assert [len(placed[0].backups) for placed in chosen] == [wanted] * bound
        policy = make_policy("milp", 1, None, plan, CONSTANTS)
        assert accepted_in_a_run(plan, policy) == bound
