"""The scenario file: every key, its unit, its bounds and its default.

The models refuse unknown keys and are frozen. `testbed.scenario.load.load_scenario` reads a file
into a `Scenario`; `testbed.scenario.plan.make_plan` turns it and a seed into a `RunPlan`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from testbed.scenario.applications import Application
from testbed.scenario.base import NAME_PATTERN, Model, NonNegative, Pair, Positive, Share
from testbed.scenario.capture import CaptureSpec
from testbed.scenario.graph import TopologySpec
from testbed.scenario.links import LinkSpec
from testbed.scenario.types import MAX_SHARDS, FunctionName, ReplicationMode
from testbed.scenario.workload import ArrivalShape, Diurnal, Mmpp, OnOff, Process, Shape

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
PolicyName = Literal[
    "deft", "random", "round-robin", "first-fit", "best-fit", "greedy-delay", "pl-rank", "milp",
    "milp-hindsight", "ppo", "dqn",
]  # fmt: skip


class ServerSpec(Model):
    """A server's capacity."""

    cpu_cores: Positive = Field(description="speed in reference cores")
    memory_bytes: int = Field(default=1_000_000_000, gt=0)


class ServersSpec(Model):
    """The servers: a default, and nodes that differ."""

    default: ServerSpec
    by_node: dict[str, ServerSpec] = Field(default_factory=dict)
    capacity_model: Literal["service-time", "quota"] = Field(
        default="service-time",
        description="emulated service times in the server, or a CFS quota with a short period",
    )
    quota_period_s: Positive = 0.005
    queue_s: Positive = Field(
        default=0.1, description="packets that would wait longer for the CPU are dropped"
    )
    admission: bool = Field(
        default=False,
        description="a request is refused whose placement needs more CPU or memory than is free",
    )


class FunctionSpec(Model):
    """What a packet costs on one reference core."""

    service_s: Positive
    backup_service_s: NonNegative
    memory_bytes: int = Field(default=20_000_000, gt=0)


class ChainSpec(Model):
    """A type of service function chain."""

    name: Name
    functions: list[FunctionName] = Field(min_length=1, max_length=8)
    rate_pps: Positive = Field(description="packets per second of a request, over its flows")
    l3_bytes: Annotated[int, Field(ge=64, le=1400)] | Literal["imix"] = Field(
        description="L3 bytes of a packet, or a mix of 56, 576 and 1400 bytes as 7:4:1"
    )
    delay_bound_s: Positive
    flows: int = Field(default=2, ge=1, le=64)
    shards: int = Field(
        default=1,
        ge=1,
        le=MAX_SHARDS,
        description="parts into which its flows hash; each function scales out to as many servers",
    )
    weight: Positive = Field(default=1.0, description="how often this type is asked for")


class LoadStep(Model):
    """From `at_s` on, every request's rate is multiplied by `factor`."""

    at_s: NonNegative
    factor: Positive


class TrafficSpec(Model):
    """Requests and their packets."""

    duration_s: Positive = Field(description="from the first request to the last packet")
    initial_requests: int = Field(default=0, ge=0, description="requests that arrive at time 0")
    arrivals_per_s: NonNegative = Field(default=0.0, description="requests after that")
    arrivals: ArrivalShape = "poisson"
    mean_lifetime_s: Positive = Field(default=1e9, description="exponential; cut at the run's end")
    setup_s: Positive = Field(default=1.0, description="from a request to its first packet")
    drain_s: Positive = Field(default=1.0, description="from the last packet to the end")
    process: Process = "poisson"
    pairs: list[Pair] | None = Field(
        default=None, description="source and destination nodes, instead of the demand matrix"
    )
    load_steps: list[LoadStep] = Field(default_factory=list)
    applications: list[Application] = Field(
        default_factory=list, description="real traffic beside the packets: iperf3, http"
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


class ReplicationSpec(Model):
    """How state is replicated and failures are detected."""

    mode: ReplicationMode = "pipelined"
    backups: int = Field(
        default=1,
        ge=0,
        le=3,
        description="of each group: as many members may fail at once; mode none has none",
    )
    batch_packets: int = Field(default=80, ge=1, le=1000)
    batch_s: NonNegative = Field(
        default=0.0, description="a batch waits this long for more; 0 sends when input runs empty"
    )
    gap_timeout_s: Positive = 0.05
    retransmit_s: Positive = 0.1
    buffer_packets: int = Field(default=4096, ge=1, description="bound of each packet buffer")
    heartbeat_s: Positive = 0.05
    failure_timeout_s: Positive = 0.25
    lease_s: Positive | None = Field(
        default=None,
        description="a primary releases outputs this long after a message that was acknowledged; "
        "by default as long as failure_timeout_s",
    )
    fdu_members: Literal[1, 3, 5, 7] = Field(
        default=3, description="processes of the failure detection unit; a majority decides"
    )
    without_backup: Literal["safety", "availability"] = Field(
        default="safety",
        description="when the last backup is lost: hold outputs until a new one has caught up, "
        "or go on unprotected",
    )
    replace_backups: bool = Field(
        default=True, description="a group that lost a member gets a new backup"
    )
    share_s: Positive = Field(
        default=1.0, description="how often a group tells the others what it has counted"
    )
    move_hold_s: Positive = Field(
        default=0.1, description="how long a move may hold inputs at the hand-over"
    )
    move_overflow: Literal["refuse", "declare"] = Field(
        default="refuse",
        description="beyond that: give up the move, or hand over and declare what is lost",
    )

    @model_validator(mode="after")
    def _heartbeats(self) -> ReplicationSpec:
        if self.failure_timeout_s < 2 * self.heartbeat_s:
            raise ValueError("failure_timeout_s of at least two heartbeat_s")
        return self

    @model_validator(mode="after")
    def _outputs_can_leave(self) -> ReplicationSpec:
        alone = self.mode != "none" and self.backups == 0
        if alone and self.without_backup == "safety":
            raise ValueError(
                "without_backup: availability if backups is 0: outputs would wait for a backup"
            )
        return self

    @property
    def backups_wanted(self) -> int:
        """How many backups a group has in this mode."""
        return 0 if self.mode == "none" else self.backups


class FaultSpec(Model):
    """A fault on schedule. Without `node`, the seed draws one, larger servers more often."""

    kind: Literal["server-down"]
    at_s: NonNegative
    node: str | None = None


class MoveSpec(Model):
    """A move on schedule: a request's function goes to another node."""

    at_s: NonNegative
    request: int = Field(ge=0, description="requests are numbered by their arrival")
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

    at_s: NonNegative
    request: int = Field(ge=0, description="requests are numbered by their arrival")
    function: int = Field(ge=0, le=7, description="place in the chain, from 0")
    instances: int = Field(ge=1, le=MAX_SHARDS, description="at most as many as shards")


class ScalingSpec(Model):
    """Functions are spread over more or fewer servers by measured load.

    The load of a server is what the packets that came to its instances cost, over its capacity.
    """

    high: Positive = Field(
        default=0.8, description="a function whose busiest server is above gets one server more"
    )
    low: Positive = Field(
        default=0.4,
        description="it gets one fewer if its busiest server would then be below this",
    )
    period_s: Positive = Field(default=0.5, description="over which a load is measured")
    hold_s: NonNegative = Field(default=1.0, description="above high for so long, to scale out")
    cool_s: NonNegative = Field(
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

    high: Positive = Field(default=0.95, description="a server above is overloaded")
    period_s: Positive = Field(default=0.5, description="over which a load is measured")
    hold_s: NonNegative = Field(default=1.0, description="above high for so long, to ask")
    cool_s: NonNegative = Field(
        default=2.0, description="for so long after a question loads are not looked at"
    )


class TrainingSpec(Model):
    """How `ppo` learns on the twin of this scenario."""

    seed: int = Field(default=0, ge=0)
    decisions: int = Field(default=800_000, ge=1)
    environments: int = Field(default=512, ge=1)


class ToleranceSpec(Model):
    """A run outside these is marked invalid and says why."""

    sender_lag_p99_s: Positive = 0.010
    line_lag_p99_s: Positive = 0.010
    measure_links: bool = Field(
        default=True, description="measure every link and server before the traffic"
    )
    link_delay_s: Positive = Field(
        default=500e-6,
        description="a link's median delay is off by no more, or by the share",
    )
    link_delay_share: Share = Field(default=0.01, description="of the delay that was asked for")
    link_rate_share: Share = Field(default=0.05, description="a link's rate is off by no more")
    server_cpu_share: Share = Field(
        default=0.1, description="a server's CPU quota is missed by no more (model quota)"
    )
    host_idle_percent: Annotated[float, Field(ge=0, le=100)] = Field(
        default=5.0, description="mean idle share of the host's cores while traffic flows"
    )
    host_stall_s: Positive = Field(
        default=0.2, description="a core of the host stands still for no longer"
    )
    host_steal_percent: Annotated[float, Field(ge=0, le=100)] = Field(
        default=5.0, description="mean share of time that a hypervisor gave to others"
    )


class TraceSpec(Model):
    """Edges and instances note when they saw each packet: see `testbed.results.traces`."""

    rows: int = Field(
        default=50_000,
        ge=1,
        le=10_000_000,
        description="room in the file of each edge and instance, 80 bytes a row; a packet takes "
        "up to five rows at an instance; what does not fit is counted",
    )


class Scenario(Model):
    """An experiment: substrate, servers, chains, traffic, faults, policies and seeds."""

    format: Literal[1]
    name: Name
    description: str = ""
    topology: TopologySpec
    links: LinkSpec = LinkSpec()
    servers: ServersSpec
    functions: dict[FunctionName, FunctionSpec] = Field(default_factory=dict)
    chains: list[ChainSpec] = Field(min_length=1)
    traffic: TrafficSpec
    replication: ReplicationSpec = ReplicationSpec()
    faults: list[FaultSpec] = Field(default_factory=list)
    moves: list[MoveSpec] = Field(default_factory=list)
    scales: list[ScaleSpec] = Field(default_factory=list)
    scaling: ScalingSpec | None = Field(default=None, description="none: only by order")
    overload: OverloadSpec | None = Field(
        default=None, description="none: nothing is moved because a server is overloaded"
    )
    captures: list[CaptureSpec] = Field(default_factory=list)
    policies: list[PolicyName] = Field(min_length=1)
    baseline: PolicyName = "deft"
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    training: TrainingSpec = TrainingSpec()
    tolerances: ToleranceSpec = ToleranceSpec()
    trace: TraceSpec | None = Field(default=None, description="none: packets are not traced")

    @model_validator(mode="after")
    def _distinct(self) -> Scenario:
        names = [chain.name for chain in self.chains]
        for what, values in (("chains", names), ("policies", self.policies), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                raise ValueError(f"{what} without repetition")
        if self.baseline not in self.policies:
            raise ValueError("baseline to be one of policies")
        times = [step.at_s for step in self.traffic.load_steps]
        times += [fault.at_s for fault in self.faults] + [move.at_s for move in self.moves]
        times += [scale.at_s for scale in self.scales]
        times += [change.at_s for change in self.links.changes]
        if any(at_s >= self.traffic.duration_s for at_s in times):
            raise ValueError(
                "load_steps, faults, moves, scales and changes of links before traffic.duration_s"
            )
        return self
