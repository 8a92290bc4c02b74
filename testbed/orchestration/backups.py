"""Where the backups of a group go: the policy is asked, once for each. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from agents.common.policy import Policy
from testbed.scenario.placement import Ledger, PlacementObservation
from testbed.scenario.types import Placement, Request


def place(
    policy: Policy, ledger: Ledger, request: Request, before: Sequence[Placement], backups: int
) -> Placement | None:
    """The policy's choice for the next function of a request, with `backups` backups in all.

    Fewer if the policy names no further node; None if it rejects the request.
    """
    seen = ledger.observe(request, before)
    choice = policy.decide(seen)
    if choice is None:
        return None
    nodes = choice.nodes[: 1 + backups]
    while len(nodes) <= backups:
        node = further_backup(policy, seen, nodes)
        if node is None:
            break
        nodes = (*nodes, node)
    return Placement(nodes[0], nodes[1] if backups and len(nodes) > 1 else None, nodes[2:])


def further_backup(
    policy: Policy, seen: PlacementObservation, members: Sequence[int]
) -> int | None:
    """What the policy chooses for a group with members at these nodes, the primary's first.

    It is asked as for the function itself, but does not see the servers of the other backups.
    None if it names no node that has no member.
    """
    alive = seen.alive.copy()
    alive[list(members[1:])] = False
    choice = policy.decide(dataclasses.replace(seen, alive=alive))
    nodes = (choice.backup, choice.primary) if choice is not None else ()
    return next((node for node in nodes if node is not None and node not in members), None)
