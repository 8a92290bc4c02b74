"""The load of each function on its servers, from its instances' counters. Pure.

An instance's work over a period is what the frames that came to it cost on a reference core, over
the period: work 0.5 at a server of `cpu_cores` 0.5 is a utilisation of 1. Frames count that the
server had no time for, so it may be more than 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testbed.orchestration.control.hysteresis import Function, Load
from testbed.orchestration.deploying.spread import servers_of, spread
from testbed.scenario.names import GroupKey


@dataclass(frozen=True, slots=True)
class Counted:
    """What an instance says: the frames that came to it so far, and what one costs it now."""

    node: int
    request: int
    key: GroupKey
    leads: bool
    received: int
    cost_ns: int


@dataclass(frozen=True, slots=True)
class Work:
    """What an instance did over a period, in reference cores."""

    node: int
    request: int
    key: GroupKey
    leads: bool
    cores: float


def work_between(
    before: Mapping[str, Counted], now: Mapping[str, Counted], period_ns: int
) -> list[Work]:
    """The work of each instance, by name, that was counted at both ends of a period."""
    return [
        Work(
            each.node,
            each.request,
            each.key,
            each.leads,
            (each.received - before[name].received) * each.cost_ns / period_ns,
        )
        for name, each in now.items()
        if name in before
    ]


def used_cores(work: Sequence[Work]) -> dict[int, float]:
    """What all instances at each node did together, in reference cores."""
    used: dict[int, float] = defaultdict(float)
    for each in work:
        used[each.node] += each.cores
    return used


def loads_of(
    work: Sequence[Work],
    where: Mapping[Function, Mapping[int, int]],
    capacity_cores: Mapping[int, float],
) -> dict[Function, Load]:
    """The load of each function; `where[function][shard]` is the node of a primary."""
    used = used_cores(work)
    own: dict[Function, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for each in work:
        if each.leads:
            own[each.request, each.key.hop][each.key.shard] += each.cores
    return {
        name: _load(used, own[name], shards, capacity_cores)
        for name, shards in where.items()
        if shards
    }


def _load(
    used: Mapping[int, float],
    own: Mapping[int, float],
    where: Mapping[int, int],
    capacity_cores: Mapping[int, float],
) -> Load:
    servers = servers_of(where)
    share = {node: used.get(node, 0.0) / capacity_cores[node] for node in servers}
    busiest = max(servers, key=lambda node: share[node])
    mine = sum(own.get(shard, 0.0) for shard, node in where.items() if node == busiest)
    return Load(
        utilisation=share[busiest],
        own=mine / capacity_cores[busiest],
        merged=_merged(used, own, where, capacity_cores),
        instances=len(servers),
        shards=len(where),
    )


def _merged(
    used: Mapping[int, float],
    own: Mapping[int, float],
    where: Mapping[int, int],
    capacity_cores: Mapping[int, float],
) -> float:
    """Of the busiest server that would be left if the function were at one server fewer."""
    servers = servers_of(where)
    left = servers[:-1] or servers
    then = {node: used.get(node, 0.0) for node in servers}
    for shard, node in spread(where, left):
        then[node] += own.get(shard, 0.0)
        then[where[shard]] -= own.get(shard, 0.0)
    return max(then[node] / capacity_cores[node] for node in left)
