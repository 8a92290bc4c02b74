"""Asks the policy for the nodes of a group's backups, once for each backup. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from testbed.decisions.placement import Ledger, PlacementObservation, refusal
from testbed.decisions.policy import Policy
from testbed.scenario.types import Placement, Request

REJECTED = "the policy rejected the request"
NO_BACKUP = "no node for a backup"


def place(
    policy: Policy, ledger: Ledger, request: Request, before: Sequence[Placement], backups: int
) -> Placement | str:
    """The policy's choice for the next function of a request, with `backups` backups in all.

    Fewer if the policy names no further node. A string says why the request is refused: by the
    policy, or by admission control.
    """
    seen = ledger.observe(request, before)
    choice = policy.decide(seen)
    if choice is None:
        return REJECTED
    nodes = choice.nodes[: 1 + backups]
    while len(nodes) <= backups:
        node = further_backup(policy, seen, nodes)
        if node is None:
            break
        nodes = (*nodes, node)
    placement = Placement(nodes[0], nodes[1] if backups and len(nodes) > 1 else None, nodes[2:])
    if seen.admission and len(placement.backups) < backups:
        return NO_BACKUP
    return refusal(seen, placement) or placement


def further_backup(
    policy: Policy, seen: PlacementObservation, members: Sequence[int]
) -> int | None:
    """What the policy chooses for a group with members at these nodes, the primary's first.

    None if it names no node that has no member, or one that admission control refuses.
    """
    asked = dataclasses.replace(seen, task="backup", members=tuple(members))
    choice = policy.decide(asked)
    if choice is None or choice.backup is None or choice.backup in members:
        return None
    return None if refusal(asked, Placement(members[0], choice.backup)) else choice.backup


def lost_one(news: Mapping[str, Any], wanted: int) -> bool:
    """Whether a group that the FDU changed (see `fdu`) has come to have fewer backups than wanted.

    Not only a failure does that: what a member that failed during a move leaves open shows when
    the move is over, or given up. A group that has no primary any more is not looked after.
    """
    shrunk = news["cause"] in ("failed", "leave", "hand-over")
    return shrunk and news["primary"] is not None and len(news["backups"]) < wanted
