"""The compiled twin gives what the plain one gives, on thousands of drawn scenarios."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from agents.placement.on_twin import Played, play
from testbed.decisions.placement import PlacementObservation
from testbed.twin.constants import CostWeights, TwinConstants
from tests.support.twin_drawn import Drawn, Noting, drawn_policy, drawn_scenario
from tests.support.twin_reference import Reference, Seen
from tests.support.twin_slots import Outcome

SCENARIOS = 3000
AT_ONCE = 250

Run = tuple[Outcome, list[Seen]]
Twin = tuple[Played, list[PlacementObservation]]


def by_reference(drawn: Drawn) -> Run:
    noting: Noting[Seen] = Noting(drawn_policy(drawn.plan))
    reference = Reference(drawn.plan, drawn.constants, drawn.weights)
    return reference.run(noting.decide), noting.seen


def by_twin(drawn: Drawn) -> Twin:
    noting: Noting[PlacementObservation] = Noting(drawn_policy(drawn.plan))
    return play([drawn.plan], [noting.decide], drawn.constants, drawn.weights)[0], noting.seen


def figures(outcome: Outcome, played: Played) -> Iterator[tuple[str, float, float]]:
    """(name, reference, twin) of all that a run gives."""
    result = played.result
    yield "cost", outcome.cost, result.cost
    yield "overload_s", outcome.overload_s, result.overload_s
    for one in result.requests:
        own, name = outcome.requests[one.request], f"request {one.request}: "
        yield name + "accepted", own.accepted, one.accepted
        yield name + "packets", own.packets, one.packets
        yield name + "delivered", own.delivered, one.delivered
        yield name + "in_bound", own.in_bound, one.in_bound
        yield name + "cost", own.cost, one.cost
        if one.delivered > 0.0:
            yield name + "latency", own.latency_s * 1e9, one.mean_latency_ns * one.delivered
    yield "slots", len(outcome.utilisation), len(result.utilisation)
    for slot, row in enumerate(outcome.utilisation):
        for node, rho in enumerate(row):
            wait_ns = outcome.wait_s[slot][node] * 1e9
            yield f"utilisation {slot}, {node}", rho, float(result.utilisation[slot, node])
            yield f"wait_ns {slot}, {node}", wait_ns, float(result.wait_ns[slot, node])
    for place, packets in enumerate(result.histogram.tolist()):
        if packets or outcome.histogram[place]:
            yield f"histogram {place}", outcome.histogram[place], packets


def shown(ours: Seen, theirs: PlacementObservation) -> Iterator[tuple[str, float, float]]:
    """(name, reference, twin) of all numbers that a policy is shown."""
    for field in dataclasses.fields(ours):
        if field.name in ("now_ns", "task", "members", "placed"):
            continue
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(one, list):
            for node, value in enumerate(one):
                yield f"{field.name} {node}", value, float(other[node])
        else:
            yield field.name, one, float(other)


def differences(reference: Run, twin: Twin) -> list[str]:
    """What is further apart than rounding explains."""
    numbers = list(figures(reference[0], twin[0]))
    out = []
    outcome, played = reference[0], twin[0]
    placed = {number: chosen for number, chosen in played.placements.items() if chosen is not None}
    joined = [(one.request, one.function, one.node) for one in played.backups]
    for what, ours, theirs in (
        ("placements", outcome.placements, placed),
        ("new backups", outcome.backups, joined),
    ):
        if ours != theirs:
            out.append(f"{what}: {ours} in the reference, {theirs} in the twin")
    if len(reference[1]) != len(twin[1]):
        out.append(f"{len(reference[1])} decisions in the reference, {len(twin[1])} in the twin")
    for number, (one, other) in enumerate(zip(reference[1], twin[1], strict=False)):
        seen = [(each.task, each.members, each.placed) for each in (one, other)]
        if seen[0] != seen[1]:
            out.append(f"decision {number}: {seen[0]} in the reference, {seen[1]} in the twin")
        numbers += [(f"decision {number}: {name}", a, b) for name, a, b in shown(one, other)]
    out += [
        f"{name}: {a!r} in the reference, {b!r} in the twin"
        for name, a, b in numbers
        if not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    ]
    return out


@pytest.mark.parametrize("first", range(0, SCENARIOS, AT_ONCE))
def test_the_twin_agrees_with_the_reference(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        drawn = drawn_scenario(seed)
        found = differences(by_reference(drawn), by_twin(drawn))
        assert not found, f"drawn_scenario({seed}): {found[:5]}"


def test_every_packet_of_an_accepted_request_counts_also_in_the_slot_in_which_it_leaves() -> None:
    left = 0
    for seed in range(AT_ONCE):
        drawn = drawn_scenario(seed)
        plan, slot_ns = drawn.plan, drawn.constants.slot_ns
        slots = range(math.ceil(plan.duration_ns / slot_ns))
        reference = Reference(plan, drawn.constants, drawn.weights)
        for one in by_twin(drawn)[0].result.requests:
            request = next(each for each in plan.requests if each.id == one.request)
            sent = sum(reference.packets(request, slot) for slot in slots)
            assert one.packets == pytest.approx(sent if one.accepted else 0.0, rel=1e-9), seed
            gone_ns = request.end_ns + drawn.constants.drain_ns
            left += one.accepted and gone_ns // slot_ns == request.end_ns // slot_ns
    assert left >= 20


def test_the_drawn_scenarios_have_in_them_what_can_go_wrong() -> None:
    counts: Counter[str] = Counter()
    for seed in range(AT_ONCE):
        drawn = drawn_scenario(seed)
        outcome, seen = by_reference(drawn)
        requests = outcome.requests.values()
        died = {fault.node for fault in drawn.plan.faults}
        counts["accepted"] += sum(one.accepted for one in requests)
        counts["rejected"] += sum(not one.accepted for one in requests)
        counts["admission"] += drawn.plan.admission
        counts["new backups wanted"] += sum(one.task == "backup" for one in seen)
        counts["moves asked about"] += sum(one.task == "move" for one in seen)
        counts["dead and not known"] += sum(
            one.alive[fault.node] and fault.at_ns < one.now_ns
            for one in seen
            for fault in drawn.plan.faults
        )
        counts["two at one time"] += len({f.at_ns for f in drawn.plan.faults}) < len(died)
        counts["held"] += drawn.constants.holds
        counts["overloaded"] += outcome.overload_s > 0.0
        counts["lost"] += any(one.delivered < 0.9 * one.packets for one in requests)
        counts["late"] += any(one.in_bound < 0.9 * one.delivered for one in requests)
        counts["on time"] += any(one.in_bound > 0.9 * one.packets > 0.0 for one in requests)
    assert min(counts.values()) >= 5, counts


def changed(value: object) -> object:
    if isinstance(value, bool):
        return not value
    assert isinstance(value, float)
    return value * 1.05


CONSTANTS = [field.name for field in dataclasses.fields(TwinConstants) if field.name != "slot_ns"]
WEIGHTS = [field.name for field in dataclasses.fields(CostWeights)]


@pytest.mark.parametrize("name", CONSTANTS + WEIGHTS)
def test_a_reference_with_another_constant_disagrees(name: str) -> None:
    for seed in range(AT_ONCE):
        drawn = drawn_scenario(seed)
        part = "constants" if name in CONSTANTS else "weights"
        values = getattr(drawn, part)
        other = dataclasses.replace(values, **{name: changed(getattr(values, name))})
        if differences(by_reference(dataclasses.replace(drawn, **{part: other})), by_twin(drawn)):
            return
    pytest.fail(f"no scenario feels {name}")


def test_a_slot_too_long_is_felt() -> None:
    drawn = drawn_scenario(0)
    slot_ns = 2.0 * drawn.constants.slot_ns
    other = dataclasses.replace(
        drawn, constants=dataclasses.replace(drawn.constants, slot_ns=slot_ns)
    )
    assert differences(by_reference(other), by_twin(drawn))


def test_plans_played_together_equal_those_played_alone_bit_for_bit() -> None:
    drawn = [drawn_scenario(seed) for seed in range(400)]
    first = drawn[0]
    plans = [
        dataclasses.replace(
            one.plan,
            topology=first.plan.topology,
            servers=first.plan.servers,
            admission=first.plan.admission,
            backups=first.plan.backups,
        )
        for one in drawn
        if len(one.plan.servers) == len(first.plan.servers)
    ]
    assert len(plans) > 40
    policies = [drawn_policy(plan).decide for plan in plans]
    together = play(plans, policies, first.constants, first.weights)
    for plan, one in zip(plans, together, strict=True):
        alone = play([plan], [drawn_policy(plan).decide], first.constants, first.weights)[0]
        assert repr(alone.result.requests) == repr(one.result.requests)
        assert (alone.placements, alone.backups) == (one.placements, one.backups)
        assert (alone.result.cost, alone.result.overload_s) == (
            one.result.cost, one.result.overload_s,
        )  # fmt: skip
        for name in ("utilisation", "wait_ns", "histogram"):
            np.testing.assert_array_equal(getattr(alone.result, name), getattr(one.result, name))
