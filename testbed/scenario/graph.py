"""The substrate graph of a scenario file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from testbed.scenario.base import GRAPH_PATTERN, NODE_PATTERN, Model
from testbed.scenario.limits import MAX_LINKS, MAX_NODES

LengthKm = Annotated[float, Field(ge=0, le=1e10)]


class InlineNode(Model):
    """A node written in the scenario file."""

    name: str = Field(pattern=NODE_PATTERN)
    longitude_deg: Annotated[float, Field(ge=-180, le=180)] = 0.0
    latitude_deg: Annotated[float, Field(ge=-90, le=90)] = 0.0


class InlineLink(Model):
    """A link written in the scenario file; its delay follows from its length."""

    a: str
    b: str
    length_km: LengthKm


class TopologySpec(Model):
    """Where the substrate graph comes from: a `topohub` name, or nodes and links in the file."""

    topohub: str | None = Field(
        default=None, pattern=GRAPH_PATTERN, description="a graph of topohub, e.g. sndlib/abilene"
    )
    mean_length_km: float | None = Field(
        default=None,
        gt=0,
        le=1e10,
        description="links of topohub's graph are so long on average, in the same proportions; "
        "needed where its positions are no degrees on the Earth",
    )
    nodes: list[InlineNode] | None = Field(default=None, min_length=2, max_length=MAX_NODES)
    links: list[InlineLink] | None = Field(default=None, min_length=1, max_length=MAX_LINKS)

    @model_validator(mode="after")
    def _one_source(self) -> TopologySpec:
        inline = self.nodes is not None and self.links is not None
        partly = self.nodes is not None or self.links is not None
        if (self.topohub is not None) == partly or partly != inline:
            raise ValueError("either topohub, or both nodes and links")
        if self.mean_length_km is not None and inline:
            raise ValueError("no mean_length_km where links say how long they are")
        return self
