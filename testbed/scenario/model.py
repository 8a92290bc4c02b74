"""The scenario file: every key, its unit, its bounds and its default.

The models refuse unknown keys and are frozen. `testbed.scenario.load.load_scenario` reads a file
into a `Scenario`; `testbed.scenario.plan.make_plan` turns it and a seed into a `RunPlan`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from testbed.scenario.base import Model, Name, Percent, Seed, Share
from testbed.scenario.capture import CaptureSpec
from testbed.scenario.graph import TopologySpec
from testbed.scenario.limits import MAX_ENTRIES, MAX_RUN_S
from testbed.scenario.links import LinkSpec
from testbed.scenario.problems import ProblemSpec
from testbed.scenario.replication import ReplicationSpec
from testbed.scenario.scheduled import FaultSpec, MoveSpec, OverloadSpec, ScaleSpec, ScalingSpec
from testbed.scenario.servers import FunctionSpec, ServersSpec
from testbed.scenario.traffic import ChainSpec, TrafficSpec
from testbed.scenario.types import FunctionName

Span = Annotated[float, Field(gt=0, le=MAX_RUN_S)]
FORMATS = (1, 2)
LIFTED = ("policies", "baseline", "training")
"""Keys of the section `problem` that a file of format 1 has at its top; it knows placement."""


class ToleranceSpec(Model):
    """A run outside these is marked invalid and says why."""

    sender_lag_p99_s: Span = 0.010
    line_lag_p99_s: Span = 0.010
    measure_links: bool = Field(
        default=True, description="measure every link and server before the traffic"
    )
    link_delay_s: Span = Field(
        default=500e-6,
        description="a link's median delay is off by no more, or by the share",
    )
    link_delay_share: Share = Field(default=0.01, description="of the delay that was asked for")
    link_rate_share: Share = Field(default=0.05, description="a link's rate is off by no more")
    server_cpu_share: Share = Field(
        default=0.1, description="a server's CPU quota is missed by no more (model quota)"
    )
    host_idle_percent: Percent = Field(
        default=5.0, description="mean idle share of the host's cores while traffic flows"
    )
    host_stall_s: Span = Field(
        default=0.2, description="a core of the host stands still for no longer"
    )
    host_steal_percent: Percent = Field(
        default=5.0, description="mean share of time that a hypervisor gave to others"
    )


class TraceSpec(Model):
    """Edges and instances note when they saw each packet: see `testbed.records.traces`."""

    rows: int = Field(
        default=50_000,
        ge=1,
        le=10_000_000,
        description="room in the file of each edge and instance, 80 bytes a row; a packet takes "
        "up to five rows at an instance; what does not fit is counted",
    )


class Scenario(Model):
    """An experiment: substrate, servers, chains, traffic, faults, who decides what, and seeds."""

    format: Literal[1, 2]
    name: Name
    description: str = ""
    topology: TopologySpec
    links: LinkSpec = LinkSpec()
    servers: ServersSpec
    functions: dict[FunctionName, FunctionSpec] = Field(default_factory=dict)
    chains: list[ChainSpec] = Field(min_length=1, max_length=100)
    traffic: TrafficSpec
    replication: ReplicationSpec = ReplicationSpec()
    faults: list[FaultSpec] = Field(default_factory=list, max_length=MAX_ENTRIES)
    moves: list[MoveSpec] = Field(default_factory=list, max_length=MAX_ENTRIES)
    scales: list[ScaleSpec] = Field(default_factory=list, max_length=MAX_ENTRIES)
    scaling: ScalingSpec | None = Field(default=None, description="none: only by order")
    overload: OverloadSpec | None = Field(
        default=None, description="none: nothing is moved because a server is overloaded"
    )
    captures: list[CaptureSpec] = Field(default_factory=list, max_length=MAX_ENTRIES)
    problem: ProblemSpec = Field(description="who decides what; in format 1, policies of placement")
    seeds: list[Seed] = Field(min_length=1, max_length=MAX_ENTRIES)
    tolerances: ToleranceSpec = ToleranceSpec()
    trace: TraceSpec | None = Field(default=None, description="none: packets are not traced")

    @model_validator(mode="before")
    @classmethod
    def _from_format_1(cls, data: Any) -> Any:
        """A file of format 1 as one of format 2; what is wrong in it keeps the keys that it has."""
        if not isinstance(data, Mapping) or data.get("format") != 1:
            return data
        if "problem" in data:
            raise ValueError("format 2, if it has the section problem")
        rest = {key: value for key, value in data.items() if key not in LIFTED}
        lifted = {key: data[key] for key in LIFTED if key in data}
        return {**rest, "format": 2, "problem": {"name": "placement", **lifted}}

    @model_validator(mode="after")
    def _distinct(self) -> Scenario:
        names = [chain.name for chain in self.chains]
        for what, values in (("chains", names), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                raise ValueError(f"{what} without repetition")
        return self


def decided_by(scenario: Scenario, policies: Sequence[str], seeds: Sequence[int]) -> Scenario:
    """The scenario with these policies, the first of which is the baseline, and these seeds."""
    among = {"policies": list(policies), "baseline": policies[0]}
    problem = scenario.problem.model_copy(update=among)
    return scenario.model_copy(update={"problem": problem, "seeds": list(seeds)})


def with_training(scenario: Scenario, **changes: Any) -> Scenario:
    """The scenario with other values in `problem.training`."""
    training = scenario.problem.training.model_copy(update=changes)
    problem = scenario.problem.model_copy(update={"training": training})
    return scenario.model_copy(update={"problem": problem})


def schema_of(version: int) -> dict[str, Any]:
    """The JSON schema of a scenario file of format 1 or 2."""
    schema = Scenario.model_json_schema()
    if version == 1:
        lifted = schema["$defs"]["PlacementSpec"]["properties"]
        schema["properties"] |= {key: lifted[key] for key in LIFTED}
        del schema["properties"]["problem"]
    return schema
