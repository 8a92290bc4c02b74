"""Runs one episode of a campaign: chains under load, faults in turn, then the end state."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from testbed import __version__
from testbed.decisions.placement import ledger_of
from testbed.decisions.policy import Policy
from testbed.lab.faults.kinds import KINDS, LAST
from testbed.lab.faults.stage import Stage, StageError
from testbed.lab.lab import Lab, open_lab
from testbed.orchestration.control.orchestrator import Orchestrator
from testbed.orchestration.messages.control_client import ControlError, OrderRefused
from testbed.records import packets as packet_records
from testbed.records.files import write_json
from testbed.records.revision import git_revision
from testbed.results.folder import make_folder
from testbed.scenario.endings import Endings
from testbed.scenario.errors import RunError, run_error
from testbed.scenario.model import Scenario
from testbed.scenario.names import edge_name, fdu_name, sender_name
from testbed.scenario.plan import make_plan
from testbed.scenario.types import RunPlan
from testbed.substrate.ownership import clean
from testbed.substrate.probe import Backends, Capabilities
from traffic.workload import write_workload

FORMAT = 1
WARM_UP_S = 1.5
"""From the first packets to the first fault."""
PAUSE_S = (0.3, 1.2)
"""Between the moment when all is well and the next fault, drawn."""
QUIET_S = 10.0
"""How long the groups may take to be done after the last packet."""


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """An episode: which faults, on what, who places its chains, and where its results go.

    `kinds` are injected in this order; the kind "none" lets `idle_s` pass without a fault.
    """

    scenario: Scenario
    policy: Policy
    seed: int
    kinds: tuple[str, ...]
    folder: Path
    backends: Backends
    capabilities: Capabilities
    idle_s: float = 0.0


def run_episode(spec: EpisodeSpec, progress: Callable[[str], None]) -> int:
    """Carry out an episode; how many of its faults were injected.

    It ends early if the groups do not heal. `progress` is told what is going on. Whatever ends
    the episode, nothing of it stays on the host. Raises RunError.
    """
    plan = make_plan(spec.scenario, spec.seed)
    make_folder(spec.folder)
    (spec.folder / "raw").mkdir()
    run_id = secrets.token_hex(3)
    manifest = _manifest(spec, plan, run_id)
    write_json(spec.folder / "manifest.json", manifest)
    with Endings() as endings:
        endings.add(_collect, spec.folder)
        endings.add(write_json, spec.folder / "manifest.json", manifest)
        endings.add(clean, run_id)
        try:
            done = _emulate(spec, plan, run_id, manifest, progress)
        except (RunError, OSError) as error:
            raise run_error(error, spec.folder.name, spec.folder) from error
    return done


def _collect(folder: Path) -> None:
    packet_records.write(packet_records.collect(folder), folder / "packets.parquet")


def _emulate(
    spec: EpisodeSpec,
    plan: RunPlan,
    run_id: str,
    manifest: dict[str, Any],
    progress: Callable[[str], None],
) -> int:
    raw, process = spec.folder / "raw", spec.scenario.traffic.process
    schedules = {
        request.id: str(write_workload(raw, plan, request, process)) for request in plan.requests
    }
    rng = np.random.default_rng(np.random.SeedSequence([spec.seed, 7]))
    realtime = spec.capabilities.realtime.available
    lab_of = open_lab(spec.scenario, plan, run_id, spec.folder, spec.backends, realtime)
    with lab_of as lab:
        ledger = ledger_of(plan)
        orchestrator = Orchestrator(
            lab.site,
            spec.policy,
            ledger,
            schedules,
            lab.network.server_down,
            lambda _: None,
            lab.network.begin,
            (lab.network.check,),
        )
        stage = Stage(lab, orchestrator, rng)
        psutil.cpu_times_percent(None)
        with orchestrator.under_way():
            manifest["origin_ns"] = orchestrator.origin_ns
            with Endings() as endings:
                endings.add(lambda: manifest.update(host=_host_load()))
                done = _inject_all(stage, spec, progress)
            _finish(stage, lab, plan, manifest)
    return done


def _inject_all(stage: Stage, spec: EpisodeSpec, progress: Callable[[str], None]) -> int:
    stage.attend(WARM_UP_S)
    if not stage.await_healthy():
        return 0
    for number, kind in enumerate(spec.kinds):
        stage.attend(stage.uniform(*PAUSE_S))
        stage.number, stage.kind = number, kind
        stage.snapshot()
        progress(f"fault {number + 1} of {len(spec.kinds)}: {kind}")
        if not _inject(stage, kind, spec.idle_s):
            return number + 1
    return len(spec.kinds)


def _inject(stage: Stage, kind: str, idle_s: float) -> bool:
    """Inject a fault and wait until all is well; whether the episode can go on."""
    try:
        if kind == "none":
            stage.injected(time.monotonic_ns(), stage.groups(), "nothing")
            stage.attend(idle_s)
        else:
            KINDS[kind](stage)
    except (StageError, ControlError) as error:
        stage.note("not-healed", error=str(error))
        return False
    return kind in LAST or stage.await_healthy()


def _finish(stage: Stage, lab: Lab, plan: RunPlan, manifest: dict[str, Any]) -> None:
    """End the traffic, wait until all have done their work, and let everybody write it down."""
    site = lab.site
    for request in plan.requests:
        with contextlib.suppress(OrderRefused):  # its last packet is sent already
            sender = site.socket(sender_name(request.source))
            site.control.call(sender, "stop-stream", request=request.id)
    stage.attend(site.scenario.traffic.drain_s)
    stage.snapshot()
    stage.await_quiescence(QUIET_S)
    for node in sorted({node for r in plan.requests for node in (r.source, r.destination)}):
        name = edge_name(node)
        manifest["edges"][name] = site.control.call(site.socket(name), "stats")
    # The FDU first: it would take the instances for failed that end now.
    site.spawner.end([fdu_name(number) for number in stage.fdu_numbers()])
    names = [group.instance(number) for group in stage.groups() for number in group.members]
    site.spawner.end(names)


def _host_load() -> dict[str, float]:
    """How busy the host was since the last call, and is."""
    times = psutil.cpu_times_percent(None)
    one, five, _ = os.getloadavg()
    return {
        "idle_percent": times.idle,
        "steal_percent": float(getattr(times, "steal", 0.0)),
        "load_1min": round(one, 2),
        "load_5min": round(five, 2),
    }


def _manifest(spec: EpisodeSpec, plan: RunPlan, run_id: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "deftbed": __version__,
        "run_id": run_id,
        "scenario": spec.scenario.name,
        "seed": spec.seed,
        "kinds": list(spec.kinds),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "origin_ns": 0,
        "requests": [asdict(request) for request in plan.requests],
        "servers": [asdict(server) for server in plan.servers],
        "replication": spec.scenario.replication.model_dump(),
        "backends": asdict(spec.backends),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "git_revision": git_revision(),
        "edges": {},
        "host": {},
    }
