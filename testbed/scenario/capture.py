"""What of a run is captured: the scenario's `captures`."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from testbed.scenario.base import Model, Pair
from testbed.scenario.errors import InputError
from testbed.scenario.node_names import node_index
from testbed.scenario.types import Topology


class CaptureSpec(Model):
    """One port of a switch: towards a neighbour, a server or a user host; both directions."""

    link: Pair | None = Field(default=None, description="the first node's port towards the second")
    server: str | None = Field(default=None, description="the port towards this node's server")
    user: str | None = Field(default=None, description="the port towards this node's user host")
    snap_bytes: int = Field(
        default=0, ge=0, le=262_144, description="of each frame at most so many; 0: all"
    )

    @model_validator(mode="after")
    def _one_port(self) -> CaptureSpec:
        if sum(each is not None for each in (self.link, self.server, self.user)) != 1:
            raise ValueError("one of link, server and user")
        return self

    @property
    def name(self) -> str:
        """What the capture's file is called, without its ending."""
        if self.link is not None:
            return f"link-{self.link[0]}-{self.link[1]}"
        return f"server-{self.server}" if self.server is not None else f"user-{self.user}"


def check_captures(specs: Sequence[CaptureSpec], topology: Topology) -> None:
    """InputError unless each capture is of a port that there is, and no two are of one."""
    names = [spec.name for spec in specs]
    for number, spec in enumerate(specs):
        if names.count(spec.name) > 1:
            raise InputError(f"captures.{number}", spec.name, "no port twice")
        ends = spec.link or [spec.server or spec.user or ""]
        pair = {node_index(topology, end, f"captures.{number}") for end in ends}
        neighbours = [{link.a, link.b} for link in topology.links]
        if spec.link is not None and pair not in neighbours:
            raise InputError(f"captures.{number}.link", spec.link, "two neighbours")
