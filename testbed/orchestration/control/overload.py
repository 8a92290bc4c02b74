"""Decides which server is overloaded and which groups may leave it, with memory. Pure.

A server is overloaded when its load stayed above `high` for `hold_ns`. Of several such servers the
busiest counts. The policy is asked about the groups whose primaries work on this server. For
`cool_ns` after that no load is looked at. The twin asks in the same way (`testbed.twin.moves`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from testbed.orchestration.control.loads import Work, used_cores


@dataclass(frozen=True, slots=True)
class Limits:
    """The section `overload` of a scenario; times in ns."""

    high: float
    hold_ns: int
    cool_ns: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Since when each server is too busy; until when nothing is looked at."""

    high_since_ns: Mapping[int, int] = field(default_factory=dict)
    quiet_until_ns: int = 0


def utilisation(work: Sequence[Work], capacity_cores: Mapping[int, float]) -> dict[int, float]:
    """The load of each server that hosts an instance, over its capacity."""
    return {node: cores / capacity_cores[node] for node, cores in used_cores(work).items()}


def overloaded(
    memory: Memory, limits: Limits, load: Mapping[int, float], begin_ns: int, now_ns: int
) -> tuple[Memory, int | None]:
    """What is remembered now, and the server to relieve; `load` is of `begin_ns` to `now_ns`."""
    if begin_ns < memory.quiet_until_ns:
        return Memory(quiet_until_ns=memory.quiet_until_ns), None
    high = [node for node, share in load.items() if share > limits.high]
    since = {node: memory.high_since_ns.get(node, begin_ns) for node in high}
    memory = Memory(since, memory.quiet_until_ns)
    due = [node for node in sorted(high) if now_ns - since[node] >= limits.hold_ns]
    return memory, max(due, key=lambda node: load[node]) if due else None


def primaries_at(work: Sequence[Work], node: int) -> list[Work]:
    """What the primaries at a node do, those with most work first."""
    there = [each for each in work if each.node == node and each.leads and each.cores > 0.0]
    return sorted(there, key=lambda each: -each.cores)
