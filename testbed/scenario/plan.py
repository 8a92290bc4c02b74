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
from testbed.scenario.model import Scenario
from testbed.scenario.modelled import left_out
from testbed.scenario.modulation import Path, draw_path, product
from testbed.scenario.node_names import node_index
from testbed.scenario.quota import refusal
from testbed.scenario.recording import Recording, load_recording
from testbed.scenario.requests import check_packets, check_shapes, make_requests
from testbed.scenario.scheduled import MoveSpec, ScaleSpec
from testbed.scenario.servers import FunctionSpec, ServerSpec
from testbed.scenario.shapes import Replay
from testbed.scenario.topology import make_topology
from testbed.scenario.types import (
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

_LOAD_DOMAIN = 5
"""Sets these draws apart from others of the same seed."""

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
    _check_times(scenario)
    check_shapes(scenario.traffic)
    topology = make_topology(scenario)
    check_captures(scenario.captures, topology)
    servers = _servers(scenario, topology)
    duration_ns = _ns(scenario.traffic.duration_s)
    recording = _recording(scenario)
    requests = make_requests(scenario, topology, seed, recording)
    load = _load(scenario, seed)
    check_packets(scenario, requests, load, recording)
    return RunPlan(
        seed=seed,
        duration_ns=duration_ns,
        topology=topology,
        servers=servers,
        profiles=_profiles(scenario),
        requests=requests,
        load_steps=_load_steps(scenario, load),
        faults=_faults(scenario, topology, servers, seed),
        moves=_moves(scenario, topology, requests),
        scales=_scales(scenario, requests),
        admission=scenario.servers.admission,
        mode=scenario.replication.mode,
        backups=scenario.replication.backups_wanted,
        refused=tuple(f"{each.key} {each.value}" for each in left_out(scenario) if each.refused),
        link_changes=link_changes(topology, scenario.links),
        applications=_applications(scenario, requests),
        recording=recording,
    )


def _check_times(scenario: Scenario) -> None:
    """InputError for what is to happen after the run."""
    end_s = scenario.traffic.duration_s
    times = (
        ("traffic.load_steps", [step.at_s for step in scenario.traffic.load_steps]),
        ("links.changes", [change.at_s for change in scenario.links.changes]),
        ("faults", [fault.at_s for fault in scenario.faults]),
        ("moves", [move.at_s for move in scenario.moves]),
        ("scales", [scale.at_s for scale in scenario.scales]),
    )
    for key, all_s in times:
        for number, at_s in enumerate(all_s):
            if at_s >= end_s:
                expected = f"before traffic.duration_s, {end_s:g} s"
                raise InputError(f"{key}.{number}.at_s", at_s, expected)


def _recording(scenario: Scenario) -> Recording | None:
    process = scenario.traffic.process
    return load_recording(process.file) if isinstance(process, Replay) else None


def _load(scenario: Scenario, seed: int) -> Path:
    """The steps of the file, times the shape that all requests follow."""
    traffic = scenario.traffic
    steps = sorted(traffic.load_steps, key=lambda step: step.at_s)
    asked = Path(
        np.array([0.0, *(step.at_s for step in steps)]),
        np.array([1.0, *(step.factor for step in steps)]),
    )
    if traffic.load is None:
        return asked
    rng = np.random.default_rng(np.random.SeedSequence([seed, _LOAD_DOMAIN]))
    return product([asked, draw_path(traffic.load, traffic.duration_s, rng)])


def _load_steps(scenario: Scenario, load: Path) -> tuple[tuple[int, float], ...]:
    """From when on which factor holds; none before the first step of the file."""
    first = 0 if scenario.traffic.load is not None else 1
    times_s, factors = load.columns
    return tuple(
        (_ns(at), factor) for at, factor in zip(times_s[first:], factors[first:], strict=True)
    )


def plan_digest(plan: RunPlan) -> str:
    """SHA-256 of the plan: equal digests mean equal requests, servers, faults and substrate.

    Replication is not in it: manifests hold it by itself. What the twin refuses has the name that
    it had in older versions, so that their results can be read.
    """
    values = dataclasses.asdict(plan)
    for name in ("mode", "backups"):
        del values[name]
    values["unmodelled"] = values.pop("refused")
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def _servers(scenario: Scenario, topology: Topology) -> tuple[Server, ...]:
    names = [node.name for node in topology.nodes]
    for name in scenario.servers.by_node:
        node_index(topology, name, f"servers.by_node.{name}")
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


def _faults(
    scenario: Scenario, topology: Topology, servers: tuple[Server, ...], seed: int
) -> tuple[Fault, ...]:
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    cores = np.array([server.cpu_cores for server in servers])
    faults = []
    for number, spec in enumerate(scenario.faults):
        drawn = int(rng.choice(len(cores), p=cores / cores.sum()))
        if spec.node is not None:
            drawn = node_index(topology, spec.node, f"faults.{number}.node")
        faults.append(Fault(spec.kind, _ns(spec.at_s), drawn))
    return tuple(sorted(faults, key=lambda fault: fault.at_ns))


def _moves(scenario: Scenario, topology: Topology, requests: Sequence[Request]) -> tuple[Move, ...]:
    moves = []
    for number, spec in enumerate(scenario.moves):
        request = _request_of(spec, f"moves.{number}", requests)
        if spec.shard is not None and request is not None and spec.shard >= request.shards:
            expected = f"below {request.shards}, the shards of the chain {request.chain}"
            raise InputError(f"moves.{number}.shard", spec.shard, expected)
        node = node_index(topology, spec.to, f"moves.{number}.to")
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
