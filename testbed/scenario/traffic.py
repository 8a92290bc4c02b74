"""The chains of a scenario file, and the traffic through them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from testbed.scenario.applications import Application
from testbed.scenario.base import Factor, Model, Moment, Name, Pair, Timer
from testbed.scenario.limits import (
    MAX_ENTRIES,
    MAX_FAR_S,
    MAX_NODES,
    MAX_RUN_S,
    MAX_SHARDS,
    MAX_UNITS,
)
from testbed.scenario.shapes import ArrivalShape, Diurnal, Mmpp, OnOff, Process, Shape
from testbed.scenario.types import FunctionName


class ChainSpec(Model):
    """A type of service function chain."""

    name: Name
    functions: list[FunctionName] = Field(min_length=1, max_length=8)
    rate_pps: float = Field(
        ge=1e-3, le=1e7, description="packets per second of a request, over its flows"
    )
    l3_bytes: Annotated[int, Field(ge=64, le=1400)] | Literal["imix"] = Field(
        description="L3 bytes of a packet, or a mix of 56, 576 and 1400 bytes as 7:4:1"
    )
    delay_bound_s: Annotated[float, Field(ge=1e-6, le=MAX_RUN_S)]
    flows: int = Field(default=2, ge=1, le=64)
    shards: int = Field(
        default=1,
        ge=1,
        le=MAX_SHARDS,
        description="parts into which its flows hash; each function scales out to as many servers",
    )
    weight: Factor = Field(default=1.0, description="how often this type is asked for")


class LoadStep(Model):
    """From `at_s` on, every request's rate is multiplied by `factor`."""

    at_s: Moment
    factor: Factor


class TrafficSpec(Model):
    """Requests and their packets."""

    duration_s: Timer = Field(description="from the first request to the last packet")
    initial_requests: int = Field(
        default=0, ge=0, le=MAX_UNITS, description="requests that arrive at time 0"
    )
    arrivals_per_s: float = Field(default=0.0, ge=0, le=1e6, description="requests after that")
    arrivals: ArrivalShape = "poisson"
    mean_lifetime_s: float = Field(
        default=MAX_FAR_S, ge=1e-3, le=MAX_FAR_S, description="exponential; cut at the run's end"
    )
    setup_s: Timer = Field(default=1.0, description="from a request to its first packet")
    drain_s: Timer = Field(default=1.0, description="from the last packet to the end")
    process: Process = "poisson"
    pairs: list[Pair] | None = Field(
        default=None,
        max_length=MAX_NODES**2,
        description="source and destination nodes, instead of the demand matrix",
    )
    load_steps: list[LoadStep] = Field(default_factory=list, max_length=MAX_ENTRIES)
    applications: list[Application] = Field(
        default_factory=list,
        max_length=MAX_UNITS,
        description="real traffic beside the packets: iperf3, http",
    )
    load: Shape | None = Field(
        default=None, description="a shape that every request's rate follows, besides load_steps"
    )

    @model_validator(mode="after")
    def _one_application_a_request(self) -> TrafficSpec:
        requests = [each.request for each in self.applications]
        if len(set(requests)) != len(requests):
            raise ValueError("one of the applications a request: they would share its port")
        return self

    @model_validator(mode="after")
    def _never_silent(self) -> TrafficSpec:
        silent = (
            isinstance(self.load, OnOff)
            or (isinstance(self.load, Mmpp) and min(self.load.factors) == 0)
            or (isinstance(self.load, Diurnal) and self.load.amplitude == 1)
        )
        if silent:
            raise ValueError("load above 0 at all times: silences belong to process")
        return self
