"""Judges the measurements before the traffic: are links and servers as asked for? Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binom, norm

from testbed.scenario.model import ToleranceSpec
from testbed.scenario.types import NS_PER_S

CONFIDENCE = 0.99
"""That no link of a faithful emulation is found to lose too much or too little, all together."""


@dataclass(frozen=True, slots=True)
class LinkFigures:
    """One direction of a link as asked for and as measured.

    `delay_p50_ns` is the median of `probes` delays, with the frame's time on the wire taken off;
    `rate_bps` that of trains of frames, of which one took `train_ns` to arrive. None: not measured,
    for a trace says when frames leave, the queue takes no train, or nothing came. `sent` and `lost`
    count probes and trains; nothing is sent over a trace that is silent for too long.
    """

    name: str
    asked_delay_ns: int
    asked_jitter_ns: int
    asked_rate_bps: int
    asked_loss: float
    loss_memory: float
    probes: int
    delay_p50_ns: int | None
    rate_bps: float | None
    train_ns: int
    sent: int
    lost: int


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """CPU of a server whose processes took all they got, all servers at once, in host cores."""

    name: str
    asked_cores: float
    measured_cores: float


def loss_interval(
    sent: int, loss: float, confidence: float, memory: float = 0.0
) -> tuple[float, float]:
    """The least and the most of `sent` frames that chance loses, with this confidence.

    Binomial; with `memory`, the correlation of the state of Gilbert and Elliott from frame to
    frame, the count's variance is (1 + memory) / (1 - memory) times as large, and its normal
    approximation is taken.
    """
    if loss in (0.0, 1.0):
        return sent * loss, sent * loss
    if memory <= 0.0:
        low, high = binom.interval(confidence, sent, loss)
        return float(low), float(high)
    spread = math.sqrt(sent * loss * (1 - loss) * (1 + memory) / (1 - memory))
    wide = float(norm.ppf((1 + confidence) / 2)) * spread
    return max(0.0, sent * loss - wide), min(float(sent), sent * loss + wide)


def delay_reason(link: LinkFigures, tolerances: ToleranceSpec) -> str | None:
    """Why the link's delay is not what was asked for, or None."""
    if link.delay_p50_ns is None:
        return None
    within_ns = max(
        tolerances.link_delay_s * NS_PER_S, tolerances.link_delay_share * link.asked_delay_ns
    )
    # The median of n uniform numbers within +-j has a standard error of j / sqrt(n).
    within_ns += 3 * link.asked_jitter_ns / math.sqrt(link.probes)
    error_ns = link.delay_p50_ns - link.asked_delay_ns
    if abs(error_ns) <= within_ns:
        return None
    return (
        f"link {link.name}: delay {link.delay_p50_ns / 1e6:.3f} ms, {error_ns / 1e6:+.3f} ms off, "
        f"expected at most {within_ns / 1e6:.3f} ms"
    )


def rate_reason(link: LinkFigures, tolerances: ToleranceSpec) -> str | None:
    """Why the link's rate is not what was asked for, or None."""
    if link.rate_bps is None:
        return None
    within = tolerances.link_rate_share + 2 * link.asked_jitter_ns / max(link.train_ns, 1)
    error = link.rate_bps / link.asked_rate_bps - 1
    if abs(error) <= within:
        return None
    return (
        f"link {link.name}: rate {link.rate_bps / 1e6:.3f} Mb/s, {100 * error:+.1f} % off, "
        f"expected at most {100 * within:.1f} %"
    )


def loss_reason(link: LinkFigures, directions: int) -> str | None:
    """Why the link's loss is not what was asked for, or None; `directions` are measured in all."""
    confidence = 1 - (1 - CONFIDENCE) / directions
    low, high = loss_interval(link.sent, link.asked_loss, confidence, link.loss_memory)
    if low <= link.lost <= high:
        return None
    return (
        f"link {link.name}: {link.lost} of {link.sent} frames lost, "
        f"expected {low:.0f} to {high:.0f} for a loss of {100 * link.asked_loss:g} %"
    )


def link_reasons(link: LinkFigures, tolerances: ToleranceSpec, directions: int) -> list[str]:
    """Why one direction of a link is not what was asked for; empty if it is."""
    if link.sent == 0:
        return []
    if link.lost == link.sent and link.asked_loss < 1:
        return [f"link {link.name}: none of {link.sent} frames came"]
    found = (
        delay_reason(link, tolerances),
        rate_reason(link, tolerances),
        loss_reason(link, directions),
    )
    return [reason for reason in found if reason is not None]


def server_reason(server: ServerFigures, tolerances: ToleranceSpec) -> str | None:
    """Why a server's share of the CPU is not what was asked for, or None."""
    error = server.measured_cores / server.asked_cores - 1
    if abs(error) <= tolerances.server_cpu_share:
        return None
    return (
        f"{server.name}: {server.measured_cores:.3f} cores of CPU, {100 * error:+.1f} % off, "
        f"expected at most {100 * tolerances.server_cpu_share:g} %"
    )


def fidelity_reasons(fidelity: Mapping[str, Any] | None, tolerances: ToleranceSpec) -> list[str]:
    """Why a run with this "fidelity" in its manifest is not valid; empty if it is."""
    if not fidelity:
        return []
    links: Sequence[LinkFigures] = [LinkFigures(**entry) for entry in fidelity["links"]]
    servers = [ServerFigures(**entry) for entry in fidelity["servers"]]
    reasons = [reason for link in links for reason in link_reasons(link, tolerances, len(links))]
    found = (server_reason(server, tolerances) for server in servers)
    return [*reasons, *(reason for reason in found if reason is not None)]
