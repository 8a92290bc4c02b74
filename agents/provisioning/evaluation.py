"""The learned policy against the priority heuristic, on streams that neither has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from agents.provisioning.batch import Actor, ProvisioningBatch
from agents.provisioning.bound import accepted_at_most
from agents.provisioning.config import LearningConfig
from agents.provisioning.generator import GeneratorConfig, draw_stream
from agents.provisioning.heuristic import lean_heuristic, priority_heuristic
from agents.provisioning.model import Network, network_actor
from agents.provisioning.types import FloatArray, Stream
from testbed.statistics import paired_comparison as statistics
from testbed.statistics.jackknife import Estimate, estimate, means

_CHOICE, COMPARISON = 1, 2
"""Second numbers of the seeds of streams: to choose a model, to compare; training has 0."""


def score(network: Network, config: LearningConfig, seed: int) -> dict[str, float]:
    """The policy without exploration on the streams that choose the model.

    `score` is the mean over the streams of their reward a request.
    """
    streams = [
        draw_stream(config.streams, (seed, _CHOICE, i)) for i in range(config.evaluation_streams)
    ]
    batch = ProvisioningBatch(streams, config.rewards)
    actor, reward = network_actor(network), np.zeros(len(streams))
    while not batch.done.all():
        reward += batch.step(actor(batch))
    totals, requests = batch.state.totals, batch.state.requests.sum(1)
    satisfied = totals.satisfied_by_type.sum(1)
    return {
        "score": float((reward / requests).mean()),
        "acceptance": float((satisfied / requests).mean()),
        "delay_ms": float(totals.delay_ms.sum() / max(1, satisfied.sum())),
        "storage_gb_ms": float(totals.storage_gb_ms.mean()),
    }


class Outcomes(NamedTuple):
    """One policy on S streams; all [S]. Resources are used from the first step to the last."""

    acceptance: FloatArray  # share of the requests satisfied within their bound
    delay_ms: FloatArray  # mean end-to-end delay of the satisfied
    cpu_ms: FloatArray
    ram_gb_ms: FloatArray
    storage_gb_ms: FloatArray


@dataclass(frozen=True, slots=True)
class Comparison:
    """Means over streams, and the relative change from the priority heuristic to the DQN.

    They have 95 % intervals over streams, with enough of them.
    `lean` is the heuristic that uninstalls what is idle, for storage costs nothing to give back.
    `bound` is the mean share of the requests that no policy can exceed (see bound.py).
    """

    data_centres: int
    load: float
    streams: int
    bound: float | None
    dqn: dict[str, Estimate]
    heuristic: dict[str, Estimate]
    lean: dict[str, Estimate]
    change: dict[str, Estimate]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compare(
    model: Network,
    seeds: Sequence[int],
    streams: int,
    data_centres: Sequence[int],
    load: float = 1.0,
    bound: bool = True,
    arrival_steps: int = 100,
) -> list[Comparison]:
    """The policies on `streams` streams of each seed, for each number of data centres.

    The same arguments give the same figures, intervals included.
    """
    found = []
    for count in data_centres:
        config = GeneratorConfig((count, count), load=(load, load), arrival_steps=arrival_steps)
        drawn = [
            draw_stream(config, (seed, COMPARISON, count, i))
            for seed in seeds
            for i in range(streams)
        ]
        learned = run_policy(network_actor(model), drawn)
        heuristic = run_policy(priority_heuristic, drawn)
        lean = run_policy(lean_heuristic, drawn)
        most = float(np.mean([accepted_at_most(one) for one in drawn])) if bound else None
        found.append(_judge(count, load, (learned, heuristic, lean), most))
    return found


def run_policy(actor: Actor, streams: Sequence[Stream]) -> Outcomes:
    """What `actor` makes of each stream."""
    batch = ProvisioningBatch(streams)
    totals = batch.run(actor)
    satisfied = totals.satisfied_by_type.sum(1)
    return Outcomes(
        acceptance=satisfied / batch.state.requests.sum(1),
        delay_ms=totals.delay_ms / np.maximum(1, satisfied),
        cpu_ms=totals.cpu_ms,
        ram_gb_ms=totals.ram_gb_ms,
        storage_gb_ms=totals.storage_gb_ms,
    )


def _judge(
    count: int, load: float, outcomes: tuple[Outcomes, Outcomes, Outcomes], bound: float | None
) -> Comparison:
    learned, heuristic, lean = outcomes

    def mean(values: FloatArray) -> Estimate:
        return estimate(means, [values[None, None]], float(np.abs(values).max()))

    def change(a: FloatArray, b: FloatArray) -> Estimate:
        found = statistics.compare(a[None, None], b[None, None])
        ends = (found.ratio, found.low, found.high)
        value, low, high = (None if end is None else end - 1.0 for end in ends)
        return Estimate(value, low, high, found.p)

    names = Outcomes._fields
    return Comparison(
        data_centres=count,
        load=load,
        streams=len(learned.acceptance),
        bound=bound,
        dqn={name: mean(getattr(learned, name)) for name in names},
        heuristic={name: mean(getattr(heuristic, name)) for name in names},
        lean={name: mean(getattr(lean, name)) for name in names},
        change={name: change(getattr(learned, name), getattr(heuristic, name)) for name in names},
    )
