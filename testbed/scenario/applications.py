"""The part of a scenario file on real applications, whose traffic runs beside the test packets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from testbed.scenario.base import Model, Moment, Rate, Timer
from testbed.scenario.limits import MAX_UNITS

ApplicationKind = Literal["iperf3", "http"]


class ApplicationSpec(Model):
    """What two applications have in common: they use TCP, through the chain of a request."""

    request: int = Field(ge=0, lt=MAX_UNITS, description="requests are numbered by their arrival")
    at_s: Moment
    duration_s: Timer


class IperfSpec(ApplicationSpec):
    """One TCP transfer by iperf3, from the request's source to its destination."""

    kind: Literal["iperf3"]
    duration_s: float = Field(
        ge=1, le=86_400, multiple_of=1, description="iperf3 counts in whole seconds"
    )
    rate_bps: Rate | None = Field(
        default=None, description="of the payload; by default as fast as TCP goes"
    )
    reverse: bool = Field(default=False, description="from the destination to the source")


class HttpSpec(ApplicationSpec):
    """Clients at the source that fetch from a server at the destination, a connection a fetch."""

    kind: Literal["http"]
    clients: int = Field(default=1, ge=1, le=64, description="at the same time")
    object_bytes: int = Field(default=100_000, ge=0, le=1_000_000_000)
    think_s: Moment = Field(default=0.0, description="from an answer to the next fetch")


Application = Annotated[IperfSpec | HttpSpec, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class PlannedApplication:
    """An application of a run; times from the run's origin, options as in the scenario."""

    kind: ApplicationKind
    request: int
    at_ns: int
    end_ns: int
    options: tuple[tuple[str, float | int | bool | None], ...]
