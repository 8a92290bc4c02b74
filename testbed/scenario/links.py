"""The links of a scenario file: what holds for all, which differ, and what changes when."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from testbed.scenario.base import Model, Moment, Pair, Rate, Share
from testbed.scenario.limits import MAX_DELAY_S, MAX_ENTRIES

LinkChoice = Literal["auto", "netem", "userspace", "none"]
Delay = Annotated[float, Field(ge=0, le=MAX_DELAY_S)]
LEAST_CHANCE = 1e-9


def _counted(chance: float) -> float:
    if 0 < chance < LEAST_CHANCE:
        raise ValueError(f"0, or from {LEAST_CHANCE:g} to 1: the kernel counts in steps of 2^-32")
    return chance


Chance = Annotated[Share, AfterValidator(_counted)]
QueueBytes = Annotated[int, Field(ge=1, le=500_000_000)]


class BurstLossSpec(Model):
    """Loss in bursts by Gilbert and Elliott; the loss is to_bad / (to_bad + to_good) by default.

    A burst is 1 / to_good frames long on average.
    """

    to_bad: Chance = Field(description="chance to go bad after a frame; 0 loses nothing")
    to_good: float = Field(ge=LEAST_CHANCE, le=1, description="chance to become good again")
    loss_bad: Chance = Field(default=1.0, description="chance to lose a frame while bad")
    loss_good: Chance = Field(default=0.0, description="and while good")


class LinkSettings(Model):
    """Settings of a link; what is not given stays as it is."""

    rate_bps: Rate | None = None
    queue_bytes: QueueBytes | None = None
    delay_s: Delay | None = Field(default=None, description="instead of length / speed")
    jitter_s: Delay | None = None
    jitter_reorders: bool | None = None
    loss: Chance | None = None
    burst_loss: BurstLossSpec | None = None
    reorder: Chance | None = None
    duplicate: Chance | None = None
    trace: str | None = Field(
        default=None, description="a file in mahimahi's format, instead of rate_bps"
    )

    @model_validator(mode="after")
    def _one_rate(self) -> LinkSettings:
        if self.trace is not None and self.rate_bps is not None:
            raise ValueError("either trace or rate_bps")
        return self


class LinkOverride(LinkSettings):
    """A link that differs."""

    between: Pair = Field(description="the names of its two nodes")


class LinkChangeSpec(LinkSettings):
    """From `at_s` on, a link (or all) has other settings; `up: false` cuts it, `up: true` mends."""

    at_s: Moment
    between: Pair | None = Field(default=None, description="two nodes; by default all links")
    up: bool | None = None


class LinkSpec(Model):
    """What holds for each direction of every link, and the links that differ or change."""

    backend: LinkChoice = Field(
        default="auto",
        description="netem, the userspace line, or bare wires (none); auto takes netem where the "
        "host has it and it can do what the links ask, else the line",
    )
    rate_bps: Rate = Field(default=100e6, description="L2 bits per second")
    propagation_km_per_s: Annotated[float, Field(ge=1, le=1e9)] = 200_000.0
    queue_bytes: QueueBytes = Field(default=250_000, description="L2 bytes waiting at most")
    jitter_s: Delay = Field(
        default=0.0, description="the delay is uniform within this around its mean"
    )
    jitter_reorders: bool = Field(default=False, description="jitter may change the order")
    loss: Chance = Field(default=0.0, description="chance of a frame to be lost")
    burst_loss: BurstLossSpec | None = None
    reorder: Chance = Field(default=0.0, description="chance of a frame to go without the delay")
    duplicate: Chance = Field(default=0.0, description="chance of a frame to come twice")
    trace: str | None = Field(
        default=None, description="a file in mahimahi's format that gives the rate"
    )
    by_link: list[LinkOverride] = Field(default_factory=list, max_length=MAX_ENTRIES)
    changes: list[LinkChangeSpec] = Field(default_factory=list, max_length=MAX_ENTRIES)
