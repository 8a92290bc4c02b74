"""From a scenario and a seed to the plan of a run: requests, servers and faults.

Everything here depends on the scenario and the seed alone, never on a policy: that is what makes
two runs of a seed comparable.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from testbed.scenario.applications import PlannedApplication
from testbed.scenario.capture import check_captures
from testbed.scenario.errors import InputError
from testbed.scenario.link_plan import link_changes
from testbed.scenario.model import (
    ChainSpec,
    FunctionSpec,
    MoveSpec,
    ScaleSpec,
    Scenario,
    ServerSpec,
)
from testbed.scenario.modulation import Path, draw_path, points, product
from testbed.scenario.placement import FloatArray
from testbed.scenario.quota import refusal
from testbed.scenario.recording import Recording, load_recording
from testbed.scenario.sizes import imix
from testbed.scenario.topology import delay_matrix_ns, make_topology
from testbed.scenario.types import (
    MAX_UNITS,
    NS_PER_S,
    Fault,
    FunctionName,
    FunctionProfile,
    Move,
    Request,
    RunPlan,
    Scale,
    Server,
    Topology,
)
from testbed.scenario.workload import Replay

_ARRIVAL_DOMAIN, _LOAD_DOMAIN = 4, 5
"""Set these draws apart from others of the same seed."""
PATH_SHARE_OF_BOUND = 0.5
"""A request's shortest path may take this share of its delay bound at most."""

DEFAULT_FUNCTIONS: dict[FunctionName, FunctionSpec] = {
    "nat": FunctionSpec(service_s=600e-6, backup_service_s=150e-6),
    "fw": FunctionSpec(service_s=300e-6, backup_service_s=75e-6),
    "voc": FunctionSpec(service_s=1100e-6, backup_service_s=275e-6),
    "tm": FunctionSpec(service_s=700e-6, backup_service_s=175e-6),
    "idps": FunctionSpec(service_s=200e-6, backup_service_s=50e-6),
    "wo": FunctionSpec(service_s=800e-6, backup_service_s=200e-6),
    "lb": FunctionSpec(service_s=300e-6, backup_service_s=75e-6),
}
"""Ten times the processing times of Onsu et al. (2024): emulated cores are ten times slower than
the paper's, so that a few hundred packets a second load a server while the real cores stay
free. A backup buffers a copy and applies a log entry, which costs a quarter."""


def make_plan(scenario: Scenario, seed: int) -> RunPlan:
    """The plan of a run of `scenario` with `seed`; raises InputError for what cannot be run."""
    topology = make_topology(scenario)
    check_captures(scenario.captures, topology)
    servers = _servers(scenario, topology)
    duration_ns = _ns(scenario.traffic.duration_s)
    recording = _recording(scenario)
    requests = _requests(scenario, topology, seed, recording)
    return RunPlan(
        seed=seed,
        duration_ns=duration_ns,
        topology=topology,
        servers=servers,
        profiles=_profiles(scenario),
        requests=requests,
        load_steps=_load_steps(scenario, seed),
        faults=_faults(scenario, topology, servers, seed),
        moves=_moves(scenario, topology, requests),
        scales=_scales(scenario, requests),
        admission=scenario.servers.admission,
        unmodelled=_unmodelled(scenario),
        link_changes=link_changes(topology, scenario.links),
        applications=_applications(scenario, requests),
        recording=recording,
    )


def _recording(scenario: Scenario) -> Recording | None:
    process = scenario.traffic.process
    return load_recording(process.file) if isinstance(process, Replay) else None


def _load_steps(scenario: Scenario, seed: int) -> tuple[tuple[int, float], ...]:
    """The steps of the file, times the shape that all requests follow."""
    traffic = scenario.traffic
    steps = sorted(traffic.load_steps, key=lambda step: step.at_s)
    if traffic.load is None:
        return tuple((_ns(step.at_s), step.factor) for step in steps)
    rng = np.random.default_rng(np.random.SeedSequence([seed, _LOAD_DOMAIN]))
    asked = Path(
        np.array([0.0, *(step.at_s for step in steps)]),
        np.array([1.0, *(step.factor for step in steps)]),
    )
    path = product([asked, draw_path(traffic.load, traffic.duration_s, rng)])
    return tuple((_ns(at), float(factor)) for at, factor in zip(*path.columns, strict=True))


def _unmodelled(scenario: Scenario) -> tuple[str, ...]:
    """What the twin cannot mean: it knows Poisson packets at a rate that all requests share."""
    process = scenario.traffic.process
    found = [] if isinstance(process, str) else [f"traffic.process {process.kind}"]
    return (*found, *(["traffic.applications"] if scenario.traffic.applications else []))


def plan_digest(plan: RunPlan) -> str:
    """SHA-256 of the plan: equal digests mean equal requests, servers, faults and substrate."""
    text = json.dumps(dataclasses.asdict(plan), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def _servers(scenario: Scenario, topology: Topology) -> tuple[Server, ...]:
    names = [node.name for node in topology.nodes]
    for name in scenario.servers.by_node:
        if name not in names:
            raise InputError(f"servers.by_node.{name}", name, f"one of the nodes {names}")
    backups = scenario.replication.backups_wanted
    if backups >= len(names):
        raise InputError("replication.backups", backups, f"fewer than the {len(names)} nodes")
    specs = [scenario.servers.by_node.get(name, scenario.servers.default) for name in names]
    if scenario.servers.capacity_model == "quota":
        _check_quotas(names, specs, scenario.servers.quota_period_s)
    return tuple(Server(i, spec.cpu_cores, spec.memory_bytes) for i, spec in enumerate(specs))


def _check_quotas(names: Sequence[str], specs: Sequence[ServerSpec], period_s: float) -> None:
    for name, spec in zip(names, specs, strict=True):
        refused = refusal(spec.cpu_cores, period_s)
        if refused is not None:
            raise InputError("servers.quota_period_s", period_s, f"{refused} (server {name})")


def _profiles(scenario: Scenario) -> dict[FunctionName, FunctionProfile]:
    specs = {**DEFAULT_FUNCTIONS, **scenario.functions}
    return {
        name: FunctionProfile(
            name, _ns(spec.service_s), _ns(spec.backup_service_s), spec.memory_bytes
        )
        for name, spec in specs.items()
    }


def _requests(
    scenario: Scenario, topology: Topology, seed: int, recording: Recording | None
) -> tuple[Request, ...]:
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    traffic = scenario.traffic
    delays = delay_matrix_ns(topology)
    pairs = {
        chain.name: _pair_weights(scenario, topology, chain, number, delays)
        for number, chain in enumerate(scenario.chains)
    }
    weights = np.array([chain.weight for chain in scenario.chains])
    requests: list[Request] = []
    units = 0
    for number, arrival_s in enumerate(_arrivals(scenario, seed, rng)):
        chain = scenario.chains[int(rng.choice(len(weights), p=weights / weights.sum()))]
        weight = pairs[chain.name]
        pair = int(rng.choice(weight.size, p=weight.ravel() / weight.sum()))
        source, destination = divmod(pair, len(topology.nodes))
        start_s = arrival_s + traffic.setup_s
        end_s = min(start_s + rng.exponential(traffic.mean_lifetime_s), traffic.duration_s)
        rate_pps, sizes = _rate_and_sizes(scenario, chain, recording)
        requests.append(
            Request(
                id=number,
                chain=chain.name,
                functions=tuple(chain.functions),
                source=source,
                destination=destination,
                arrival_ns=_ns(arrival_s),
                start_ns=_ns(start_s),
                end_ns=_ns(end_s),
                rate_pps=rate_pps,
                l3_bytes=round(sum(size * share for size, share in sizes)),
                delay_bound_ns=_ns(chain.delay_bound_s),
                flows=chain.flows,
                shards=chain.shards,
                first_unit=units,
                l3_sizes=sizes if len(sizes) > 1 else (),
            )
        )
        units += chain.shards
    if not requests:
        raise InputError("traffic", "no request", "initial_requests or arrivals_per_s above 0")
    if units > MAX_UNITS:
        expected = f"at most {MAX_UNITS}: fewer requests (traffic) or fewer shards (chains)"
        raise InputError("shards of all requests", units, expected)
    return tuple(requests)


def _rate_and_sizes(
    scenario: Scenario, chain: ChainSpec, recording: Recording | None
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Packets per second of a request, and (L3 bytes, share); of a recording the mean alone."""
    process, rate_pps = scenario.traffic.process, chain.rate_pps
    if recording is not None and isinstance(process, Replay):
        if process.speed is not None:
            rate_pps = process.speed * recording.mean_pps
        return rate_pps, ((round(recording.mean_l3_bytes), 1.0),)
    return rate_pps, imix() if chain.l3_bytes == "imix" else ((chain.l3_bytes, 1.0),)


def _arrivals(scenario: Scenario, seed: int, rng: np.random.Generator) -> list[float]:
    """When requests arrive, in seconds. Only Poisson arrivals draw from `rng`."""
    traffic = scenario.traffic
    last_s = traffic.duration_s - traffic.setup_s
    if last_s <= 0:
        raise InputError("traffic.setup_s", traffic.setup_s, "less than traffic.duration_s")
    times = [0.0] * traffic.initial_requests
    if traffic.arrivals != "poisson":
        own = np.random.default_rng(np.random.SeedSequence([seed, _ARRIVAL_DOMAIN]))
        even = traffic.arrivals == "constant"
        path = (
            Path(np.zeros(1), np.ones(1))
            if isinstance(traffic.arrivals, str)
            else draw_path(traffic.arrivals, last_s, own)
        )
        times += points(path, traffic.arrivals_per_s, last_s, even, own).tolist()
    elif traffic.arrivals_per_s > 0:
        now = 0.0
        while (now := now + float(rng.exponential(1 / traffic.arrivals_per_s))) < last_s:
            times.append(now)
    return times


def _pair_weights(
    scenario: Scenario, topology: Topology, chain: ChainSpec, number: int, delays: FloatArray
) -> FloatArray:
    """Weights [source, destination]: the demands of pairs near enough for the delay bound."""
    names = [node.name for node in topology.nodes]
    demand = np.array(topology.demand)
    if scenario.traffic.pairs is not None:
        demand = np.zeros_like(demand)
        for pair in scenario.traffic.pairs:
            for name in pair:
                if name not in names:
                    raise InputError("traffic.pairs", name, f"one of the nodes {names}")
            demand[names.index(pair[0]), names.index(pair[1])] += 1.0
    np.fill_diagonal(demand, 0.0)
    demand = np.where(delays <= PATH_SHARE_OF_BOUND * _ns(chain.delay_bound_s), demand, 0.0)
    if demand.sum() <= 0:
        raise InputError(
            f"chains.{number}.delay_bound_s",
            chain.delay_bound_s,
            f"a bound that some pair of nodes can meet: the chain {chain.name} cannot be placed "
            f"(the shortest path may take {PATH_SHARE_OF_BOUND:.0%} of it)",
        )
    return demand


def _faults(
    scenario: Scenario, topology: Topology, servers: tuple[Server, ...], seed: int
) -> tuple[Fault, ...]:
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    cores = np.array([server.cpu_cores for server in servers])
    faults = []
    for number, spec in enumerate(scenario.faults):
        drawn = int(rng.choice(len(cores), p=cores / cores.sum()))
        if spec.node is not None:
            try:
                drawn = topology.index_of(spec.node)
            except KeyError:
                names = [node.name for node in topology.nodes]
                raise InputError(
                    f"faults.{number}.node", spec.node, f"one of the nodes {names}"
                ) from None
        faults.append(Fault(spec.kind, _ns(spec.at_s), drawn))
    return tuple(sorted(faults, key=lambda fault: fault.at_ns))


def _moves(scenario: Scenario, topology: Topology, requests: Sequence[Request]) -> tuple[Move, ...]:
    moves = []
    for number, spec in enumerate(scenario.moves):
        request = _request_of(spec, f"moves.{number}", requests)
        if spec.shard is not None and request is not None and spec.shard >= request.shards:
            expected = f"below {request.shards}, the shards of the chain {request.chain}"
            raise InputError(f"moves.{number}.shard", spec.shard, expected)
        try:
            node = topology.index_of(spec.to)
        except KeyError:
            names = [node.name for node in topology.nodes]
            raise InputError(f"moves.{number}.to", spec.to, f"one of the nodes {names}") from None
        moves.append(Move(_ns(spec.at_s), spec.request, spec.function, node, spec.shard))
    return tuple(sorted(moves, key=lambda move: move.at_ns))


def _scales(scenario: Scenario, requests: Sequence[Request]) -> tuple[Scale, ...]:
    scales = []
    for number, spec in enumerate(scenario.scales):
        request = _request_of(spec, f"scales.{number}", requests)
        if request is not None and spec.instances > request.shards:
            expected = f"at most {request.shards}, the shards of the chain {request.chain}"
            raise InputError(f"scales.{number}.instances", spec.instances, expected)
        scales.append(Scale(_ns(spec.at_s), spec.request, spec.function, spec.instances))
    return tuple(sorted(scales, key=lambda scale: scale.at_ns))


def _applications(
    scenario: Scenario, requests: Sequence[Request]
) -> tuple[PlannedApplication, ...]:
    """Those whose request there is; each within its request's life."""
    found = []
    for number, spec in enumerate(scenario.traffic.applications):
        if spec.request >= len(requests):
            continue
        request = requests[spec.request]
        begin, end = _ns(spec.at_s), _ns(spec.at_s + spec.duration_s)
        if not request.start_ns <= begin < end <= request.end_ns:
            start_s, end_s = request.start_ns / NS_PER_S, request.end_ns / NS_PER_S
            raise InputError(
                f"traffic.applications.{number}",
                f"{spec.at_s} s to {spec.at_s + spec.duration_s} s",
                f"within the life of request {spec.request}, {start_s:g} s to {end_s:g} s",
            )
        options = spec.model_dump(exclude={"kind", "request", "at_s", "duration_s"})
        found.append(
            PlannedApplication(spec.kind, spec.request, begin, end, tuple(options.items()))
        )
    return tuple(found)


def _request_of(
    spec: MoveSpec | ScaleSpec, field: str, requests: Sequence[Request]
) -> Request | None:
    """The request that a move or scale is about; None if this seed has not so many."""
    if spec.request >= len(requests):
        return None
    request = requests[spec.request]
    if spec.function >= len(request.functions):
        expected = f"below {len(request.functions)}: the chain {request.chain} has no more"
        raise InputError(f"{field}.function", spec.function, expected)
    return request
