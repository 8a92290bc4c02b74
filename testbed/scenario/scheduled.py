"""What happens in a run besides requests: faults and moves on schedule, and answers to load."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from testbed.scenario.base import Factor, Model, Moment, Timer
from testbed.scenario.limits import MAX_SHARDS, MAX_UNITS


class FaultSpec(Model):
    """A fault on schedule. Without `node`, the seed draws one, larger servers more often."""

    kind: Literal["server-down"]
    at_s: Moment
    node: str | None = None


class MoveSpec(Model):
    """A move on schedule: a request's function goes to another node."""

    at_s: Moment
    request: int = Field(ge=0, lt=MAX_UNITS, description="requests are numbered by their arrival")
    function: int = Field(ge=0, le=7, description="place in the chain, from 0")
    to: str = Field(description="the name of a node")
    shard: int | None = Field(
        default=None,
        ge=0,
        lt=MAX_SHARDS,
        description="this shard alone; by default all that are where the first one is",
    )


class ScaleSpec(Model):
    """On schedule: a request's function is spread over so many servers."""

    at_s: Moment
    request: int = Field(ge=0, lt=MAX_UNITS, description="requests are numbered by their arrival")
    function: int = Field(ge=0, le=7, description="place in the chain, from 0")
    instances: int = Field(ge=1, le=MAX_SHARDS, description="at most as many as shards")


class ScalingSpec(Model):
    """Functions are spread over more or fewer servers by measured load.

    The load of a server is what the packets that came to its instances cost, over its capacity.
    """

    high: Factor = Field(
        default=0.8, description="a function whose busiest server is above gets one server more"
    )
    low: Factor = Field(
        default=0.4,
        description="it gets one fewer if its busiest server would then be below this",
    )
    period_s: Timer = Field(default=0.5, description="over which a load is measured")
    hold_s: Moment = Field(default=1.0, description="above high for so long, to scale out")
    cool_s: Moment = Field(
        default=5.0, description="below low for so long, to scale in; and a pause after any change"
    )
    max_instances: int = Field(
        default=MAX_SHARDS, ge=1, le=MAX_SHARDS, description="servers of a function at most"
    )

    @model_validator(mode="after")
    def _ordered(self) -> ScalingSpec:
        if self.low >= self.high:
            raise ValueError("low less than high")
        return self


class OverloadSpec(Model):
    """The policy is asked what to move away from a server that is overloaded.

    It is asked about each group whose primary is there, those with most work first, until it moves
    one. The load of a server is measured as for `scaling`.
    """

    high: Factor = Field(default=0.95, description="a server above is overloaded")
    period_s: Timer = Field(default=0.5, description="over which a load is measured")
    hold_s: Moment = Field(default=1.0, description="above high for so long, to ask")
    cool_s: Moment = Field(
        default=2.0, description="for so long after a question loads are not looked at"
    )
