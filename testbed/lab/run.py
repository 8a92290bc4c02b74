"""One run: scenario x policy x seed, from an empty host to a results folder."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from testbed import __version__
from testbed.decisions.placement import ledger_of
from testbed.decisions.problem import MakePolicy
from testbed.lab.fidelity_gate import measure
from testbed.lab.lab import Lab, open_lab, timed
from testbed.orchestration.control.orchestrator import Orchestrator
from testbed.orchestration.detection.watch import ServerWatch
from testbed.records import packets as packet_records
from testbed.records import server_usage as server_records
from testbed.records.capture_files import read_captures
from testbed.records.events import read_events
from testbed.records.files import write_json
from testbed.records.raw import RawFormatError
from testbed.records.revision import git_revision
from testbed.records.run_records import RunRecords
from testbed.results.folder import make_folder
from testbed.results.journeys import cut_traces, fill_hops, read_traced, share_traced
from testbed.results.summaries import summarise_records
from testbed.results.validity import judge
from testbed.scenario.endings import Endings, uninterrupted
from testbed.scenario.errors import RunError, run_error
from testbed.scenario.model import Scenario
from testbed.scenario.plan import make_plan, plan_digest
from testbed.scenario.types import RunPlan
from testbed.substrate.captures import Captures, interface_of
from testbed.substrate.emulated_network import Network
from testbed.substrate.ownership import clean
from testbed.substrate.probe import Backends, Capabilities
from testbed.twin.calibration import Calibration
from testbed.twin.constants import constants_for
from traffic.workload import write_workload

Read = TypeVar("Read")
MANIFEST_FORMAT = 1
CAPTURES = "captures"
LIBRARIES = ("mininet", "os-ken", "torch", "numba", "numpy", "pandas", "pyarrow", "topohub")


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What is to be run and where its results go; `make_policy` makes the policy of that name."""

    scenario: Scenario
    make_policy: MakePolicy
    policy: str
    seed: int
    folder: Path
    model: Path | None
    backends: Backends
    capabilities: Capabilities
    calibration: Calibration | None = None
    """What policies that solve a cost take the host's constants from."""


def run_one(spec: RunSpec, progress: Callable[[float], None]) -> dict[str, Any]:
    """Carry out one run; its summary (see `testbed.results.run_summary`).

    `progress` is told the seconds since the origin of the run. Whatever ends the run, nothing of
    it stays on the host, and what was measured is in the folder, marked incomplete if it is.
    """
    plan = make_plan(spec.scenario, spec.seed)
    make_folder(spec.folder)
    (spec.folder / "raw").mkdir()
    run_id = secrets.token_hex(3)
    manifest = _manifest(spec, plan, run_id)
    write_json(spec.folder / "manifest.json", manifest)
    phases: dict[str, float] = {}
    summary: dict[str, Any] = {}
    with Endings() as endings:
        endings.add(lambda: summary.update(_collect(spec, plan, manifest, phases)))
        endings.add(_remove, run_id, phases)
        try:
            _emulate(spec, plan, run_id, manifest, phases, progress)
        except (RunError, OSError) as error:
            raise run_error(error, f"{spec.policy}, seed {spec.seed}", spec.folder) from error
        manifest["complete"] = True
    return summary


def _remove(run_id: str, phases: dict[str, float]) -> None:
    with uninterrupted(), timed(phases, "remove_s"):
        clean(run_id)


def _emulate(
    spec: RunSpec,
    plan: RunPlan,
    run_id: str,
    manifest: dict[str, Any],
    phases: dict[str, float],
    progress: Callable[[float], None],
) -> None:
    constants = constants_for(spec.scenario, spec.calibration)
    policy = spec.make_policy(spec.policy, spec.seed, spec.model, plan, constants)
    schedules = _write_schedules(spec, plan)
    with Endings() as endings:
        with timed(phases, "build_s"):
            lab = endings.enter(
                open_lab(
                    spec.scenario,
                    plan,
                    run_id,
                    spec.folder,
                    spec.backends,
                    spec.capabilities.realtime.available,
                )
            )
        if spec.scenario.tolerances.measure_links:
            with timed(phases, "measure_s"):
                manifest["fidelity"] = measure(lab, spec.scenario, plan)
        captures = _captures(spec, plan, lab)
        endings.add(lambda: manifest.update(cut_captures=captures.cut_short))
        endings.enter(captures)
        ledger = ledger_of(plan)
        network = lab.network

        def pids(node: int) -> list[int]:
            found = (lab.site.spawner.pid(name) for name in orchestrator.instances_at(node))
            return [pid for pid in found if pid is not None]

        watch = ServerWatch(lab.clocks, lab.cgroups.usage_ns, pids, lab.site.events)
        orchestrator = Orchestrator(
            lab.site,
            policy,
            ledger,
            schedules,
            network.server_down,
            progress,
            network.begin,
            (network.check, watch.check),
        )
        endings.add(_note_counters, manifest, network)
        endings.add(lambda: _write_samples(spec.folder, watch, manifest["origin_ns"]))
        endings.add(_note_origin, manifest, orchestrator)
        with timed(phases, "traffic_s"), watch:
            orchestrator.run()
        with timed(phases, "remove_s"):
            endings.close()


def _note_origin(manifest: dict[str, Any], orchestrator: Orchestrator) -> None:
    """The run's origin; if it was ended before that was set, all was before this moment."""
    manifest["origin_ns"] = orchestrator.origin_ns or time.monotonic_ns()


def _note_counters(manifest: dict[str, Any], network: Network) -> None:
    counters = network.line_counters()
    manifest["line"] = None if counters is None else counters.to_json()
    manifest["unchanged_links"] = network.failed_changes()


def _write_schedules(spec: RunSpec, plan: RunPlan) -> dict[int, str]:
    paths, process = {}, spec.scenario.traffic.process
    for request in plan.requests:
        paths[request.id] = str(write_workload(spec.folder / "raw", plan, request, process))
    return paths


def _captures(spec: RunSpec, plan: RunPlan, lab: Lab) -> Captures:
    ports = [
        (each.name, interface_of(each, lab.network.layout, plan.topology), each.snap_bytes)
        for each in spec.scenario.captures
    ]
    return Captures(ports, spec.folder / CAPTURES)


def _write_samples(folder: Path, watch: ServerWatch, origin_ns: int) -> None:
    rows = [asdict(sample) for sample in watch.samples]
    server_records.write(
        [{**row, "t_ns": row["t_ns"] - origin_ns} for row in rows],
        folder / "servers.parquet",
    )


def _collect(
    spec: RunSpec, plan: RunPlan, manifest: dict[str, Any], phases: dict[str, float]
) -> dict[str, Any]:
    frame = packet_records.collect(spec.folder)
    reasons: list[str] = list(frame.attrs[packet_records.TORN])

    def taken(read: Callable[[], Read], default: Read) -> Read:
        """What is read, or `default` and a reason for the run not to be valid."""
        try:
            return read()
        except RawFormatError as error:
            reasons.append(str(error))
            return default

    taken(lambda: cut_traces(spec.folder / "raw"), None)
    traced = taken(lambda: read_traced(spec.folder, manifest), None)
    if traced is not None:
        frame = fill_hops(frame, traced)
        manifest["trace"] = {"rows_missed": traced.missed, "share": share_traced(frame)}
    packet_records.write(frame, spec.folder / "packets.parquet")
    path = spec.folder / "events.jsonl"
    nothing: tuple[dict[str, Any], ...] = ()
    events = taken(lambda: tuple(read_events(path)) if path.exists() else nothing, nothing)
    tolerances = spec.scenario.tolerances
    reasons += taken(lambda: judge(spec.folder, frame, manifest, tolerances), [])
    if not manifest["complete"]:
        reasons.insert(0, "the run was cut short")
    manifest["captures"] = read_captures(spec.folder / CAPTURES)
    manifest["valid"] = not reasons
    manifest["reasons"] = list(dict.fromkeys(reasons))
    manifest["phases"] = {name: round(value, 3) for name, value in phases.items()}
    write_json(spec.folder / "manifest.json", manifest)
    records = RunRecords(manifest, frame, server_records.empty(), events, ())
    summary = summarise_records(spec.folder, records)
    write_json(spec.folder / "summary.json", summary)
    return summary


def _manifest(spec: RunSpec, plan: RunPlan, run_id: str) -> dict[str, Any]:
    topology = plan.topology
    return {
        "format": MANIFEST_FORMAT,
        "deftbed": __version__,
        "run_id": run_id,
        "scenario": spec.scenario.name,
        "problem": spec.scenario.problem.name,
        "policy": spec.policy,
        "model": None if spec.model is None else _named(spec.model),
        "seed": spec.seed,
        "complete": False,
        "valid": False,
        "reasons": ["the run was cut short"],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "origin_ns": 0,
        "duration_ns": plan.duration_ns,
        "plan_digest": plan_digest(plan),
        "topology": {
            "nodes": [asdict(node) for node in topology.nodes],
            "links": [asdict(link) for link in topology.links],
        },
        "servers": [asdict(server) for server in plan.servers],
        "requests": [asdict(request) for request in plan.requests],
        "faults": [asdict(fault) for fault in plan.faults],
        "load_steps": [list(step) for step in plan.load_steps],
        "applications": [
            {**asdict(each), "options": dict(each.options)} for each in plan.applications
        ],
        "recording": None if plan.recording is None else asdict(plan.recording),
        "replication": spec.scenario.replication.model_dump(),
        "capacity_model": spec.scenario.servers.capacity_model,
        "backends": asdict(spec.backends),
        "capabilities": asdict(spec.capabilities),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "git_revision": git_revision(),
    }


def _named(file: Path) -> dict[str, str]:
    """Which file of a learned policy it was, to be told from others of that name."""
    with file.open("rb") as content:
        return {"file": file.name, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
