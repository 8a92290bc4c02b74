"""Asks the policy what moves away from an overloaded server; section `overload` of a scenario."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from testbed.orchestration.control.counters import Meter
from testbed.orchestration.control.loads import Counted, Work
from testbed.orchestration.control.overload import (
    Limits,
    Memory,
    overloaded,
    primaries_at,
    utilisation,
)
from testbed.orchestration.deploying import elastic
from testbed.orchestration.deploying.deployments import Deployments
from testbed.orchestration.deploying.reconfigure import ReconfigurationError
from testbed.scenario.scheduled import OverloadSpec
from testbed.scenario.types import NS_PER_S


class Rebalancer:
    """Looks at the servers' load each period; `between` is called after a move.

    `count` is that of a `Meter`, `cores` the speed of each server in reference cores.
    """

    def __init__(
        self,
        deployments: Deployments,
        count: Callable[[], dict[str, Counted]],
        cores: Mapping[int, float],
        spec: OverloadSpec,
        between: Callable[[], None],
    ) -> None:
        self._deployments = deployments
        self._cores = cores
        self._limits = Limits(
            spec.high, round(spec.hold_s * NS_PER_S), round(spec.cool_s * NS_PER_S)
        )
        self._between = between
        self._memory = Memory()
        self._meter = Meter(count, round(spec.period_s * NS_PER_S))

    def look_if_due(self) -> None:
        """Once a period: take the counters, and ask the policy if a server is overloaded."""
        measured = self._meter.measure_if_due()
        if measured is None:
            return
        work, begin_ns, end_ns = measured
        load = utilisation(work, self._cores)
        self._memory, node = overloaded(self._memory, self._limits, load, begin_ns, end_ns)
        if node is None:
            return
        self._relieve(node, load[node], primaries_at(work, node))
        self._memory = Memory(quiet_until_ns=time.monotonic_ns() + self._limits.cool_ns)

    def _relieve(self, node: int, load: float, primaries: Sequence[Work]) -> None:
        """Ask about one group after another until one moves, and move it."""
        deployments, asked = self._deployments, 0
        chosen: tuple[Work, int] | None = None
        while chosen is None and asked < len(primaries):
            group = primaries[asked]
            asked += 1
            to = deployments.node_for_move(group.request, group.key)
            chosen = None if to is None else (group, to)
        question: dict[str, Any] = {"node": node, "utilisation": round(load, 4), "asked": asked}
        if chosen is None:
            deployments.note("overload-question", **question, moves=None)
            return
        group, to = chosen
        where = {"request": group.request, "function": group.key.hop, "shard": group.key.shard}
        deployments.note("overload-question", **question, moves={**where, "to": to})
        with contextlib.suppress(ReconfigurationError):  # which is an event
            elastic.move_group(deployments, group.request, group.key, to)
        self._between()
