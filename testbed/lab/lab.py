"""The emulated network of a run with everything that serves it, ready for chains."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from controller.client import ControllerClient
from testbed.orchestration.deploying.site import Site, fdu_sockets
from testbed.orchestration.deploying.spawner import Spawner
from testbed.orchestration.detection.fdu_client import FduClient
from testbed.orchestration.messages.control_client import ControlClient
from testbed.records.events import EventLog
from testbed.scenario.endings import Endings
from testbed.scenario.model import Scenario
from testbed.scenario.types import NS_PER_S, RunPlan
from testbed.substrate.cgroups import ServerCgroups
from testbed.substrate.emulated_network import Network
from testbed.substrate.ownership import RUN_VARIABLE, RunRecord, state_folder
from testbed.substrate.probe import Backends
from testbed.vnf.dataplane.cpu import ServerCpu

SWITCHES_S = 30.0
STOP_S = 5.0
BACKLOG = 128
"""Switches that may connect before the controller takes them."""


@dataclass(frozen=True, slots=True)
class Lab:
    """What `open_lab` gives: the site for deployments, and what a run watches and breaks."""

    site: Site
    network: Network
    cgroups: ServerCgroups
    clocks: dict[int, ServerCpu]
    controller: subprocess.Popen[bytes]


@contextlib.contextmanager
def open_lab(
    scenario: Scenario,
    plan: RunPlan,
    run_id: str,
    folder: Path,
    backends: Backends,
    realtime: bool,
) -> Iterator[Lab]:
    """Build substrate, controller, server clocks and the warm parent; remove them at the end.

    `folder` takes the event log, logs and raw records and must exist, with a folder `raw` in it.
    """
    state = state_folder(run_id)
    os.environ[RUN_VARIABLE] = run_id  # whatever the run starts inherits its mark
    with Endings() as endings:
        # What comes after the run is not of it, and must not be taken for what a dead run left.
        endings.add(os.environ.pop, RUN_VARIABLE, None)
        endings.enter(RunRecord(run_id, folder))
        events_path = folder / "events.jsonl"
        events = EventLog(events_path)
        endings.add(events.close)
        spawner = endings.enter(Spawner(run_id, folder / "log"))
        northbound = state / "northbound.sock"
        with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
            # The controller inherits it: no other process can take the port in between.
            port = int(listener.getsockname()[1])
            log = folder / "log"
            controller = endings.enter(_controller(listener, northbound, events_path, log))
        network = endings.enter(Network(plan, run_id, backends, port, state, events_path))
        client = ControllerClient(northbound)
        endings.add(client.close)
        client.topology(network.wiring())
        client.wait(SWITCHES_S)
        cgroups = endings.enter(ServerCgroups(run_id, plan, backends.cgroup))
        if scenario.servers.capacity_model == "quota":
            cgroups.set_quotas(scenario.servers.quota_period_s)
        control = endings.enter(ControlClient(state / "orchestrator.sock"))
        fdu = fdu_sockets(state, scenario.replication.fdu_members)
        site = Site(
            plan=plan,
            scenario=scenario,
            hosts=network.hosts,
            sockets=state,
            run_dir=folder,
            spawner=spawner,
            controller=client,
            control=control,
            fdu=FduClient(control, [member["control_socket"] for member in fdu]),
            events=events,
            server_cgroups={s.node: cgroups.procs_files(s.node) for s in plan.servers},
            realtime=realtime,
            datapath=backends.datapath,
        )
        endings.add(_note_deaths, site, controller)
        yield Lab(site, network, cgroups, _clocks(scenario, plan, state), controller)


def _note_deaths(site: Site, controller: subprocess.Popen[bytes]) -> None:
    """Write an event of each process that ended by itself before anything was taken off."""
    died = site.spawner.died()
    status = controller.poll()
    if status is not None:
        died["controller"] = status
    for name, code in died.items():
        site.events.write("process-died", process=name, status=code)


def _clocks(scenario: Scenario, plan: RunPlan, state: Path) -> dict[int, ServerCpu]:
    queue_ns = round(scenario.servers.queue_s * NS_PER_S)
    return {
        server.node: ServerCpu.create(state / f"cpu-{server.node}", server.cpu_cores, queue_ns)
        for server in plan.servers
    }


@contextlib.contextmanager
def timed(phases: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds that the block takes to `phases[name]`."""
    begin = time.monotonic()
    try:
        yield
    finally:
        phases[name] = phases.get(name, 0.0) + time.monotonic() - begin


@contextlib.contextmanager
def _controller(
    listener: socket.socket, northbound: Path, events: Path, log_dir: Path
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "controller", "--openflow-fd", str(listener.fileno())]
    command += ["--northbound", str(northbound), "--events", str(events)]
    with open(log_dir / "controller.log", "ab") as log:
        process = subprocess.Popen(
            command,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
