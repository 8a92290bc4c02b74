"""Provisioning: what each data centre installs, runs and uninstalls, in the world of its paper.

On the emulated network what has learned it is asked as a placement policy.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from testbed.scenario.base import Model
from testbed.scenario.problems.deciding import DecidingSpec

Centres = Annotated[int, Field(ge=1, le=100)]
Load = Annotated[float, Field(gt=0, le=1000)]


class StreamsSpec(Model):
    """The streams of requests by which policies are compared in the paper's world."""

    data_centres: list[Centres] = Field(default=[2, 4, 8, 12], min_length=1, max_length=100)
    loads: list[Load] = Field(
        default=[1.0, 2.0, 4.0], min_length=1, max_length=100, description="of the paper's bundles"
    )
    count: int = Field(default=10, ge=1, le=10_000, description="streams for each seed")
    arrival_steps: int = Field(
        default=100, ge=1, le=10_000, description="milliseconds in which requests come"
    )


class ProvisioningSpec(DecidingSpec):
    """The policies of provisioning; `dqn` and `ppo` learn in the paper's world."""

    name: Literal["provisioning"]
    streams: StreamsSpec = StreamsSpec()
