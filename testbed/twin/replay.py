"""Asks a policy for every placement of a plan, with the ledger that the emulation keeps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from testbed.scenario.placement import Ledger, PlacementObservation
from testbed.scenario.topology import delay_matrix_ns
from testbed.scenario.types import Placement, Request, RunPlan, load_factor

Decide = Callable[[PlacementObservation], Placement | None]


def promote(placements: Sequence[Placement], dead: Collection[int]) -> tuple[Placement, ...]:
    """The placements after a failover: who is left of each group, a surviving backup in charge.

    A group of which nobody is left keeps its primary: there is no one else to name.
    """
    return tuple(_survivors(placement, dead) for placement in placements)


def _survivors(placement: Placement, dead: Collection[int]) -> Placement:
    backups = tuple(node for node in placement.backups if node not in dead)
    primary = placement.primary
    if primary in dead and backups:
        primary, *rest = backups
        backups = tuple(rest)
    return Placement(primary, backups[0] if backups else None, backups[1:])


def place_all(
    plan: RunPlan, decide: Decide, drain_ns: int
) -> dict[int, tuple[Placement, ...] | None]:
    """Every request's placements by request id, None for a rejected one.

    Requests come in the order of their arrival; a request leaves the ledger `drain_ns` after its
    end, load steps and faults count from their time on (at equal times they come first).
    """
    ledger = Ledger(plan.servers, plan.profiles, delay_matrix_ns(plan.topology), plan.admission)
    chosen: dict[int, tuple[Placement, ...] | None] = {}
    present: dict[int, tuple[Request, tuple[Placement, ...]]] = {}
    dead: set[int] = set()
    for request in sorted(plan.requests, key=lambda r: (r.arrival_ns, r.id)):
        now_ns = request.arrival_ns
        for key in [k for k, (r, _) in present.items() if r.end_ns + drain_ns <= now_ns]:
            ledger.remove(key)
            del present[key]
        for fault in plan.faults:
            if fault.at_ns <= now_ns and fault.node not in dead:
                dead.add(fault.node)
                ledger.server_down(fault.node)
                for other, placements in present.values():
                    ledger.add(other, promote(placements, dead))
        ledger.load_factor = load_factor(plan, now_ns)
        answer = _place(ledger, request, decide)
        chosen[request.id] = answer
        if answer is not None:
            ledger.add(request, answer)
            present[request.id] = (request, answer)
    return chosen


def _place(ledger: Ledger, request: Request, decide: Decide) -> tuple[Placement, ...] | None:
    placements: list[Placement] = []
    while len(placements) < len(request.functions):
        choice = decide(ledger.observe(request, placements))
        if choice is None:
            return None
        placements.append(choice)
    return tuple(placements)
