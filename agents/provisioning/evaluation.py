"""Learned policies against the heuristics, on streams that none of them has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from agents.provisioning.batch import Actor, ProvisioningBatch
from agents.provisioning.bound import accepted_at_most
from agents.provisioning.config import LearningConfig
from agents.provisioning.generator import GeneratorConfig, draw_stream
from agents.provisioning.heuristic import (
    lean_heuristic,
    packing_heuristic,
    priority_heuristic,
)
from agents.provisioning.model import Network, network_actor
from agents.provisioning.types import FloatArray, Stream
from testbed.statistics import comparison as statistics
from testbed.statistics.jackknife import Estimate, estimate, means

_CHOICE, _COMPARISON = 1, 2
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
    """M policies on S streams; all [M, S]. Resources are used from the first step to the last."""

    acceptance: FloatArray  # share of the requests satisfied within their bound
    delay_ms: FloatArray  # mean end-to-end delay of the satisfied
    cpu_ms: FloatArray
    ram_gb_ms: FloatArray
    storage_gb_ms: FloatArray


HEURISTICS: Mapping[str, Actor] = {
    "priority": priority_heuristic,
    "lean": lean_heuristic,
    "packing": packing_heuristic,
}
"""The rules that stand beside what is learned; changes are from the first."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Means over streams, and relative changes from the priority heuristic.

    learned    means over `trainings` trainings and the streams
    rules      means of each of `HEURISTICS` over the streams
    change     from the priority heuristic to each policy: "learned", "lean" and "packing"
    beyond     the same from the packing heuristic to what was learned
    bound      mean share of the requests that no policy can exceed (see bound.py)

    A change is the ratio of the means less 1. Intervals are of 95 %. They are over streams, and of
    several trainings over trainings too (testbed/statistics/jackknife.py).
    """

    data_centres: int
    load: float
    streams: int
    trainings: int
    bound: float | None
    learned: dict[str, Estimate]
    rules: dict[str, dict[str, Estimate]]
    change: dict[str, dict[str, Estimate]]
    beyond: dict[str, Estimate]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compare(
    models: Sequence[Network],
    seeds: Sequence[int],
    streams: int,
    data_centres: Sequence[int],
    load: float = 1.0,
    bound: bool = True,
    arrival_steps: int = 100,
) -> list[Comparison]:
    """The policies on `streams` streams of each seed, for each number of data centres.

    `models` are trainings of one algorithm, each with a seed of its own. The same arguments give
    the same figures, intervals included.
    """
    found = []
    for count in data_centres:
        config = GeneratorConfig((count, count), load=(load, load), arrival_steps=arrival_steps)
        drawn = [
            draw_stream(config, (seed, _COMPARISON, count, i))
            for seed in seeds
            for i in range(streams)
        ]
        learned = run_policies([network_actor(model) for model in models], drawn)
        rules = {name: run_policies([rule], drawn) for name, rule in HEURISTICS.items()}
        most = float(np.mean([accepted_at_most(one) for one in drawn])) if bound else None
        found.append(judge(count, load, learned, rules, most))
    return found


def run_policies(actors: Sequence[Actor], streams: Sequence[Stream]) -> Outcomes:
    """What each of M actors makes of each of S streams."""
    each = [run_policy(actor, streams) for actor in actors]
    return Outcomes(*(np.stack(columns) for columns in zip(*each, strict=True)))


def run_policy(actor: Actor, streams: Sequence[Stream]) -> Outcomes:
    """What one actor makes of each stream; all [S]."""
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


def judge(
    count: int, load: float, learned: Outcomes, rules: Mapping[str, Outcomes], bound: float | None
) -> Comparison:
    """The row of a comparison; `rules` are those of `HEURISTICS`."""
    first = rules["priority"]
    others = {"learned": learned, **{name: rules[name] for name in ("lean", "packing")}}
    return Comparison(
        data_centres=count,
        load=load,
        streams=learned.acceptance.shape[1],
        trainings=len(learned.acceptance),
        bound=bound,
        learned=_means(learned),
        rules={name: _means(outcomes) for name, outcomes in rules.items()},
        change={name: _changes(outcomes, first) for name, outcomes in others.items()},
        beyond=_changes(learned, rules["packing"]),
    )


def _means(outcomes: Outcomes) -> dict[str, Estimate]:
    return {
        name: estimate(means, [values[None]], float(np.abs(values).max()))
        for name, values in zip(Outcomes._fields, outcomes, strict=True)
    }


def _changes(treated: Outcomes, baseline: Outcomes) -> dict[str, Estimate]:
    found = {}
    for name, a, b in zip(Outcomes._fields, treated, baseline, strict=True):
        ratio = statistics.compare(a[None], b[None])
        ends = (ratio.ratio, ratio.low, ratio.high)
        value, low, high = (None if end is None else end - 1.0 for end in ends)
        found[name] = Estimate(value, low, high, ratio.p)
    return found
