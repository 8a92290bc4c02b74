"""The simulation for Python: a world and its members, one schedule at a time or many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from testbed.vnf.state.arrays import Words
from tests.protocol import names
from tests.protocol.counting import count_packets
from tests.protocol.world import (
    CONTROL,
    CONTROL_HITS,
    ENTROPY_AT,
    ENTROPY_SIZE,
    FORCED_AT,
    FOUND,
    MAX_ENTROPY,
    PLAN_SIZE,
    TRACE_AT,
    TRACE_WORDS,
    TRACED,
    TRACING,
    new_members,
    new_world,
)

FAILURES_KEPT = 1000


class Bench:
    """Memory for one schedule at a time; `world` holds what came of the last one."""

    def __init__(self, control: int = names.NO_CONTROL) -> None:
        self.world: Words = new_world()
        self.members = new_members()
        self.world[CONTROL] = control
        # What it compiles takes a while when nothing is cached: not where this module is imported.
        from tests.protocol.entries import run_schedules

        self._run = run_schedules
        self._failed: Words = np.zeros(FAILURES_KEPT, np.int64)

    def _run_range(self, first: int, count: int, seeded: int) -> int:
        return int(
            self._run(
                self.world,
                self.members,
                count_packets,
                first,
                count,
                seeded,
                FAILURES_KEPT,
                self._failed,
            )
        )

    def force(self, plan: Mapping[int, int]) -> None:
        """Values of the plan (see `plan`) that are not drawn, in place of those forced before."""
        self.world[FORCED_AT : FORCED_AT + PLAN_SIZE] = -1
        for what, value in plan.items():
            self.world[FORCED_AT + what] = value

    def run(self, seed: int, *, traced: bool = False) -> int:
        """Run the schedule of a seed; how many violations it found."""
        self.world[TRACING] = traced
        self.world[ENTROPY_SIZE] = 0
        self._run_range(seed, 1, 1)
        self.world[TRACING] = 0
        return int(self.world[FOUND])

    def run_entropy(self, entropy: Sequence[int]) -> int:
        """Run the schedule that these choices make; those that follow are 0, the harmless ones."""
        used = entropy[:MAX_ENTROPY]
        self.world[ENTROPY_AT : ENTROPY_AT + len(used)] = used
        self.world[ENTROPY_SIZE] = len(used)
        self._run_range(0, 1, 0)
        return int(self.world[FOUND])

    def run_many(self, first: int, count: int) -> list[int]:
        """Run the schedules of `count` seeds; those that failed, at most `FAILURES_KEPT`."""
        self.world[ENTROPY_SIZE] = 0
        bad = self._run_range(first, count, 1)
        return [int(seed) for seed in self._failed[: min(bad, FAILURES_KEPT)]]

    def hits(self) -> int:
        """How often the control tampered with something."""
        return int(self.world[CONTROL_HITS])

    def trace(self) -> Iterator[str]:
        """The steps of the schedule that ran last."""
        for number in range(int(self.world[TRACED])):
            at = TRACE_AT + number * TRACE_WORDS
            time_ns, what, who, *rest = self.world[at : at + 7].tolist()
            yield f"{time_ns / 1e6:12.6f} ms  {names.EVENTS[what]:16} {who}  {describe(what, rest)}"


def describe(what: int, rest: list[int]) -> str:
    """The numbers of a step, with names."""
    labels = LABELS.get(what, ())
    return "  ".join(f"{label} {value}" for label, value in zip(labels, rest, strict=False))


CURSORS = ("next", "released", "committed", "epoch")
LABELS: dict[int, tuple[str, ...]] = {
    names.FATE: ("flow", "epoch", "seq", "fate"),
    names.MESSAGE: ("place", "words", "from"),
    names.SEND: ("to", "kind", "word 2", "word 3"),
    # Masks: backups, learners << 8, confirmed << 16.
    names.CONFIG: ("epoch", "masks", "primary"),
    names.EMIT: ("index", "flow", "epoch", "output"),
    names.PAUSED: ("until",),
    names.CRASHED: ("step",),
    names.SUSPICION: ("life", "confirmed"),
    names.ADMIT: ("life", "epoch"),
    names.HAND_OVER: ("life", "epoch", "drained"),
    names.DRAIN: ("on", "epoch"),
    names.STATE: CURSORS,
}
