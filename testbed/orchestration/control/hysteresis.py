"""Decides when a function scales automatically: from measured loads, with memory. Pure.

A function is scaled out when its busiest server has been above `high` for `hold_ns`, and scaled in
when for `cool_ns` its busiest server would have stayed below `low` with one server fewer. So a
constant load never makes it go back and forth: out of what is above `high` comes a load that one
server fewer would bring above `high` again, and `low` is less. After a change nothing is looked at
for `cool_ns`: queues and caches are not what they will be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Function = tuple[int, int]
"""A request and the place of the function in its chain."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The section `scaling` of a scenario; times in ns."""

    high: float
    low: float
    hold_ns: int
    cool_ns: int
    max_instances: int


@dataclass(frozen=True, slots=True)
class Load:
    """A function over one period. `instances` servers hold primaries of its `shards`.

    utilisation   of the busiest of them, by all that it hosts
    own           how much of that is the function's own
    merged        the same as `utilisation` if it were at one server fewer, by estimate
    """

    utilisation: float
    own: float
    merged: float
    instances: int
    shards: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Spread a function over so many servers; `load` is why."""

    function: Function
    instances: int
    load: Load


@dataclass(frozen=True, slots=True)
class Memory:
    """Since when each function is too busy, or too idle; until when nothing is looked at."""

    high_since_ns: Mapping[Function, int] = field(default_factory=dict)
    low_since_ns: Mapping[Function, int] = field(default_factory=dict)
    quiet_until_ns: int = 0


def after_change(limits: Limits, now_ns: int) -> Memory:
    """What is remembered after a function was scaled: nothing, for a while."""
    return Memory(quiet_until_ns=now_ns + limits.cool_ns)


def decide(
    memory: Memory, limits: Limits, loads: Mapping[Function, Load], now_ns: int
) -> tuple[Memory, Decision | None]:
    """What is remembered now, and what is to be done, if anything.

    Of several functions that are due the one is chosen that makes most of the load of its server;
    too much comes before too little.
    """
    if now_ns < memory.quiet_until_ns:
        return Memory(quiet_until_ns=memory.quiet_until_ns), None
    high = {name for name, load in loads.items() if load.utilisation > limits.high}
    low = {name for name, load in loads.items() if load.merged < limits.low}
    memory = Memory(
        {name: memory.high_since_ns.get(name, now_ns) for name in high},
        {name: memory.low_since_ns.get(name, now_ns) for name in low},
        memory.quiet_until_ns,
    )
    most = {name: min(load.shards, limits.max_instances) for name, load in loads.items()}
    out = [
        name
        for name, since_ns in memory.high_since_ns.items()
        if now_ns - since_ns >= limits.hold_ns and loads[name].instances < most[name]
    ]
    back = [
        name
        for name, since_ns in memory.low_since_ns.items()
        if now_ns - since_ns >= limits.cool_ns and loads[name].instances > 1
    ]
    chosen = out or back
    if not chosen:
        return memory, None
    name = max(sorted(chosen), key=lambda each: loads[each].own)
    load = loads[name]
    return memory, Decision(name, load.instances + (1 if out else -1), load)
