"""How a heuristic answers every task, out of how it chooses a primary and a backup."""

from __future__ import annotations

from collections.abc import Callable

from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import BoolArray, Placement

HEADROOM = 0.8
"""Servers are filled to this share of their capacity while any has room below it."""

ChoosePrimary = Callable[[PlacementObservation, BoolArray], int]
"""The primary's node, out of the candidates [N], of which there is at least one."""
ChooseBackup = Callable[[PlacementObservation, int, BoolArray], int]
"""The backup's node, given the primary's, out of the candidates [N]."""


def answer(
    seen: PlacementObservation,
    choose_primary: ChoosePrimary,
    choose_backup: ChooseBackup,
    fill: float = HEADROOM,
) -> Placement | None:
    """The placement that the two choices make, for each task of an observation.

    Candidates are alive, have memory and hold no member of the group; those with room are
    preferred (`with_room`). None: no server can host the function, or, for "move", none has room
    for it, and it is better left where it is. A backup of None: there is no other server.
    """
    free = hosts(seen)
    if seen.task == "move":
        roomy = free & (seen.used_cores + seen.primary_cores <= fill * seen.capacity_cores)
        if not roomy.any():
            return None
        backup = seen.members[1] if len(seen.members) > 1 else None
        return Placement(choose_primary(seen, roomy), backup)
    if seen.task == "backup":
        primary = seen.members[0]
    elif free.any():
        primary = choose_primary(seen, with_room(seen, free, seen.primary_cores, fill))
        free[primary] = False
    else:
        return None
    if not free.any():
        return Placement(primary, None)
    candidates = with_room(seen, free, seen.backup_cores, fill)
    return Placement(primary, choose_backup(seen, primary, candidates))


def hosts(seen: PlacementObservation) -> BoolArray:
    """Nodes [N] that can host a further member: alive, with memory, and without one."""
    free: BoolArray = seen.alive & (seen.memory_free_bytes >= seen.memory_bytes)
    free[list(seen.members)] = False
    return free


def with_room(
    seen: PlacementObservation, nodes: BoolArray, cores: float, fill: float = HEADROOM
) -> BoolArray:
    """Those of `nodes` that stay within `fill` of their capacity with `cores` more.

    If there is none, those that stay within their capacity; if there is none either, all.
    """
    needed = seen.used_cores + cores
    for limit in (fill, 1.0):
        roomy: BoolArray = nodes & (needed <= limit * seen.capacity_cores)
        if roomy.any():
            return roomy
    return nodes
