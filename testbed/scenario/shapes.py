"""The workload part of a scenario file: arrivals that come and go, flow sizes, packet sizes.

One family of shapes says how a rate varies with time, wherever a rate is: of requests
(`traffic.arrivals`), of every request's packets together (`traffic.load`) and of each request's
packets on their own (`traffic.process`). A shape is a factor on a rate; `testbed.scenario.
modulation` draws its path. The random shapes have mean factor 1, so a rate stays the mean rate.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from testbed.scenario.base import Model, Moment, Timer


class OnOff(Model):
    """Full rate and silence in turn, each for an exponential time."""

    kind: Literal["on-off"]
    on_s: Timer = Field(description="mean length of a burst")
    off_s: Timer = Field(description="mean length of a silence")


class Mmpp(Model):
    """A Markov-modulated Poisson process: states with a factor each, left for any other alike."""

    kind: Literal["mmpp"]
    factors: list[Annotated[float, Field(ge=0, le=1e6)]] = Field(
        min_length=2, max_length=16, description="of each state; scaled so that their mean is 1"
    )
    mean_s: list[Timer] = Field(min_length=2, max_length=16, description="stay in each state")

    @model_validator(mode="after")
    def _matching(self) -> Mmpp:
        if len(self.factors) != len(self.mean_s):
            raise ValueError("as many factors as mean_s")
        if max(self.factors) < 1e-6:
            raise ValueError("one of the factors at least 1e-6")
        return self


class Diurnal(Model):
    """A sine around 1: 1 + amplitude * sin(2 pi (t / period_s + phase)), in steps of step_s."""

    kind: Literal["diurnal"]
    period_s: Timer = Field(description="a day, as long as the run can afford")
    amplitude: Annotated[float, Field(gt=0, le=1)] = 0.5
    phase: Annotated[float, Field(ge=0, lt=1)] = 0.0
    step_s: Timer = 0.5


class FlashCrowd(Model):
    """Rate 1, a rise by a straight line to `peak`, a plateau, and an exponential decay back."""

    kind: Literal["flash-crowd"]
    at_s: Moment
    peak: Annotated[float, Field(gt=1, le=1e6)]
    rise_s: Timer = 1.0
    hold_s: Moment = 1.0
    decay_s: Timer = Field(default=2.0, description="time constant; over after five of them")
    step_s: Timer = 0.25


class Flows(Model):
    """Flows that come at random, each with a size from a published distribution.

    A flow's packets leave evenly at `flow_pps`; flows arrive as a Poisson process, as many as
    give the chain its mean `rate_pps`. The flows of a request take its `flows` ports in turn.
    """

    kind: Literal["flows"]
    sizes: Literal["web-search", "data-mining"]
    scale: float = Field(
        default=0.001, ge=1e-9, le=10, description="flow sizes are multiplied by this"
    )
    flow_pps: float = Field(
        default=200.0, ge=1e-3, le=1e7, description="packets per second of a flow"
    )


class Replay(Model):
    """The packets of a capture file (pcap or pcapng): their times, sizes, flows and contents.

    Every request replays the file from its own start. Packets go as UDP, from the request's source
    to its destination; the file's flows take the request's `flows` ports in turn.
    """

    kind: Literal["replay"]
    file: str = Field(description="its path; relative to where deftbed is started")
    speed: float | None = Field(
        default=None,
        ge=1e-6,
        le=1e6,
        description="times as fast as recorded; by default what gives the chain its rate_pps",
    )
    repeat: bool = Field(default=False, description="begin anew until the request ends")
    contents: bool = Field(
        default=True, description="carry what was recorded, as far as it fits behind our header"
    )


Shape = Annotated[OnOff | Mmpp | Diurnal | FlashCrowd, Field(discriminator="kind")]
ArrivalShape = Annotated[
    Literal["poisson", "constant"] | Shape,
    Field(description="how requests come, arrivals_per_s on average (of a crowd: outside it)"),
]
Process = Annotated[
    Literal["cbr", "poisson"]
    | Annotated[OnOff | Mmpp | Flows | Replay, Field(discriminator="kind")],
    Field(description="how the packets of a request come, each request on its own"),
]
