"""The search for the highest rate that passes without loss (RFC 2544 section 26.1). Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Limit = Literal["loss", "sender", "highest rate tried"]
LEAST_PPS = 1.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial at one rate. `punctual`: the sender kept to the rate; else it shows nothing."""

    rate_pps: float
    sent: int
    received: int
    punctual: bool

    @property
    def loss_ratio(self) -> float:
        """Share of the packets sent that did not arrive; 1 if none was sent."""
        return 1 - self.received / self.sent if self.sent else 1.0

    def passed(self, acceptable_loss: float) -> bool:
        """Whether the rate was carried."""
        return self.punctual and self.sent > 0 and self.loss_ratio <= acceptable_loss


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: the highest rate that passed, None if none did, and what ended it.

    `limit` is "sender" if the lowest rate that failed did so because the sender was late: the chain
    may carry more then. `failed_pps` is that rate; None if the first rate passed.
    """

    rate_pps: float | None
    failed_pps: float | None
    limit: Limit
    trials: tuple[Trial, ...]


def search(
    carry_out: Callable[[float], Trial],
    highest_pps: float,
    resolution: float,
    acceptable_loss: float = 0.0,
) -> Found:
    """Halve the interval between the rates that pass and fail; the highest rate is tried first.

    It ends when the two are `resolution` x the failing rate apart, or below `LEAST_PPS`. Raises
    ValueError for options that no search can have.
    """
    if not highest_pps > 0 or not 0 < resolution < 1 or not 0 <= acceptable_loss < 1:
        raise ValueError(
            f"highest_pps = {highest_pps}, resolution = {resolution}, acceptable_loss = "
            f"{acceptable_loss}: expected > 0, between 0 and 1, at least 0 and below 1"
        )
    trials: list[Trial] = []
    passing, failing, limit = 0.0, highest_pps, "loss"
    rate = highest_pps
    while True:
        trial = carry_out(rate)
        trials.append(trial)
        if trial.passed(acceptable_loss):
            passing = rate
            if rate == highest_pps:
                return Found(rate, None, "highest rate tried", tuple(trials))
        else:
            failing, limit = rate, "loss" if trial.punctual else "sender"
        if failing - passing <= resolution * failing or failing < LEAST_PPS:
            break
        rate = (passing + failing) / 2
    best = passing if passing > 0 else None
    return Found(best, failing, "sender" if limit == "sender" else "loss", tuple(trials))
