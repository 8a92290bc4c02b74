"""The servers of a scenario file, and what a packet costs them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from testbed.scenario.base import MemoryBytes, Model


class ServerSpec(Model):
    """A server's capacity."""

    cpu_cores: float = Field(ge=1e-3, le=1e4, description="speed in reference cores")
    memory_bytes: MemoryBytes = 1_000_000_000


class ServersSpec(Model):
    """The servers: a default, and nodes that differ."""

    default: ServerSpec
    by_node: dict[str, ServerSpec] = Field(default_factory=dict)
    capacity_model: Literal["service-time", "quota"] = Field(
        default="service-time",
        description="emulated service times in the server, or a CFS quota with a short period",
    )
    quota_period_s: Annotated[float, Field(ge=1e-3, le=1)] = 0.005
    queue_s: float = Field(
        default=0.1,
        ge=1e-6,
        le=1e3,
        description="packets that would wait longer for the CPU are dropped",
    )
    admission: bool = Field(
        default=False,
        description="a request is refused whose placement needs more CPU or memory than is free",
    )


class FunctionSpec(Model):
    """What a packet costs on one reference core."""

    service_s: Annotated[float, Field(ge=1e-9, le=10)]
    backup_service_s: Annotated[float, Field(ge=0, le=10)]
    memory_bytes: MemoryBytes = 20_000_000
