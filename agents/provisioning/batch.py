"""A batch of episodes: what learning and judging run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from agents.provisioning.dynamics import act_all, begin_step
from agents.provisioning.observe import empty_observation, observe_all
from agents.provisioning.reward import RewardWeights
from agents.provisioning.types import (
    ACTIONS,
    ACTIONS_A_STEP,
    LONGEST,
    RAM_CAPACITY_GB,
    STORAGE_CAPACITY_GB,
    TYPES,
    VNFS,
    BoolArray,
    FloatArray,
    IntArray,
    Observation,
    State,
    Stream,
    Totals,
)

Actor = Callable[["ProvisioningBatch"], IntArray]
"""Gives an action [B] for each episode of a batch."""


class ProvisioningBatch:
    """B episodes side by side; each goes on as it would alone, to the last bit.

    An episode that is over stays as it is until `load` puts another stream in its place.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        weights: RewardWeights | None = None,
        room: tuple[int, int] | None = None,
    ) -> None:
        """`room`: for how many data centres and bundles, if more than `streams` have."""
        centres, bundles = room or (1, 1)
        for stream in streams:
            centres, bundles = max(centres, len(stream.cpu)), max(bundles, len(stream.kind))
        self.state = empty_state(len(streams), centres, bundles)
        self.weights = weights or RewardWeights()
        self._seen = empty_observation(len(streams), centres)
        self._mask = np.zeros((len(streams), ACTIONS), dtype=np.bool_)
        for b, stream in enumerate(streams):
            self.load(b, stream)

    @property
    def done(self) -> BoolArray:
        """[B], which episodes are over."""
        return self.state.done

    def load(self, b: int, stream: Stream) -> None:
        """Begin `stream` as episode `b`."""
        s = self.state
        for field in (*s[:-1], *s.totals):
            field[b] = 0
        count, bundles = len(stream.cpu), len(stream.kind)
        s.centres[b], s.bundles[b] = count, bundles
        s.cpu[b, :count] = stream.cpu
        s.delay_ms[b, :count, :count] = stream.delay_ms
        for name in ("kind", "requests", "source", "destination", "rate_mbps", "arrival"):
            getattr(s, name)[b, :bundles] = getattr(stream, name)
        s.ram_free[b] = RAM_CAPACITY_GB
        s.storage_free[b] = STORAGE_CAPACITY_GB
        begin_step(s, b)

    def observe(self) -> Observation:
        """What is seen now; the arrays are overwritten by the next call."""
        observe_all(self.state, self._seen)
        return self._seen

    def step(self, actions: IntArray) -> FloatArray:
        """Act in every episode; the rewards [B]."""
        rewards = np.zeros(len(actions))
        act_all(self.state, actions, self.weights, self._mask, rewards)
        return rewards

    def run(self, actor: Actor) -> Totals:
        """Let `actor` decide until all episodes are over."""
        while not self.done.all():
            self.step(actor(self))
        return self.state.totals


def empty_state(batch: int, centres: int, bundles: int) -> State:
    """Room for `batch` episodes."""

    def ints(*shape: int) -> IntArray:
        return np.zeros((batch, *shape), dtype=np.int64)

    def floats(*shape: int) -> FloatArray:
        return np.zeros((batch, *shape))

    d, r = centres, bundles
    # When a step begins, groups of a bundle differ in stage or place; in it, actions split some.
    g = r * (1 + (LONGEST - 1) * d) + 4 * ACTIONS_A_STEP
    totals = Totals(
        ints(TYPES), ints(TYPES), floats(), floats(), floats(), floats(), ints(), ints()
    )
    return State(
        centres=ints(), bundles=ints(), cpu=floats(d), delay_ms=floats(d, d), kind=ints(r),
        requests=ints(r), source=ints(r), destination=ints(r), rate_mbps=floats(r),
        arrival=floats(r), step=ints(), actions=ints(), turn=ints(), order=ints(d),
        done=np.zeros(batch, dtype=np.bool_), cpu_free=floats(d), ram_free=floats(d),
        storage_free=floats(d), installed=ints(d, VNFS), idle=ints(d, VNFS),
        link_free=floats(d, d), arrived=ints(), groups=ints(), bundle=ints(g), size=ints(g),
        stage=ints(g), place=ints(g), ready_ms=floats(g), totals=totals,
    )  # fmt: skip
