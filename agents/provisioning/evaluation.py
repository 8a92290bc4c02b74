"""What a policy makes of streams of requests, and by what score a model is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agents.provisioning.batch import Actor, ProvisioningBatch
from agents.provisioning.config import LearningConfig
from agents.provisioning.generator import draw_stream
from agents.provisioning.model import Network, network_actor
from agents.provisioning.types import FloatArray, Stream

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
