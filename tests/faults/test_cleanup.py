"""After a kill, clean-up removes all of a run and nothing of anybody else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.substrate.commands import run
from testbed.substrate.ownership import (
    RUN_VARIABLE,
    RunRecord,
    clean,
    clean_stale,
    end_found,
    is_alive,
    marked_bridges,
    marked_processes,
    processes_of,
    stale_runs,
    state_folder,
)
from tests.support.places import ROOT

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
BUILDER = """
import sys, time
from pathlib import Path
from testbed.scenario.types import Link, Node, RunPlan, Server, Topology
from testbed.substrate.cgroups import ServerCgroups
from testbed.substrate.emulated_network import Network
from testbed.substrate.ownership import RunRecord
from testbed.substrate.probe import choose, probe

run_id, folder = sys.argv[1], Path(sys.argv[2])
nodes = tuple(Node(i, f"n{i}", 0.0, 0.0) for i in range(3))
links = tuple(Link(i, i + 1, 5_000_000, 100_000_000, 250_000) for i in range(2))
servers = tuple(Server(i, 1.0, 1) for i in range(3))
plan = RunPlan(0, 1, Topology(nodes, links, ()), servers, {}, (), (), ())
backends = choose(probe())
with RunRecord(run_id, folder), ServerCgroups(run_id, plan, backends.cgroup) as groups:
    with Network(plan, run_id, backends, 1, folder, folder / "events.jsonl") as network:
        groups.join(0, network.hosts["server-0"].pid)
        print("built", flush=True)
        time.sleep(600)
"""


def wait_for(done: Callable[[], bool], what: str, bound_s: float = 10.0) -> None:
    deadline = time.monotonic() + bound_s
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def interfaces(prefix: str) -> set[str]:
    return {name for _, name in socket.if_nameindex() if name.startswith(prefix)}


def bridges() -> set[str]:
    return set(run(["ovs-vsctl", "list-br"]).split())


def cgroup_folders(run_id: str) -> list[Path]:
    top = Path("/sys/fs/cgroup")
    return [*top.glob(f"*/deftbed/{run_id}"), *top.glob(f"deftbed/{run_id}")]


def killed_run(run_id: str, folder: Path) -> None:
    """Build a network in a process of its own and kill that process."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDER, run_id, str(folder)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"built\n"
        assert is_alive(run_id) and run_id not in stale_runs()
        process.kill()


@dataclass(frozen=True)
class Strangers:
    """What belongs to others: bridges, a namespace, processes and the id of another run."""

    bridges: set[str]
    namespace: str
    processes: list[subprocess.Popen[bytes]]
    other_run: str

    def are_whole(self) -> bool:
        spaces = run(["ip", "netns", "list"]).split()
        return (
            self.bridges <= bridges()
            and self.namespace in spaces
            and all(process.poll() is None for process in self.processes)
        )


@contextmanager
def strangers(run_id: str) -> Iterator[Strangers]:
    """Things that a careless clean-up would take for the run's: alike in name, but not marked."""
    other = f"{int(run_id, 16) ^ 1:06x}"
    alike, marked = f"{run_id}s9", f"{other}s0"
    space = f"{run_id}stranger"
    with ExitStack() as stack:
        for name in (alike, marked):
            run(["ovs-vsctl", "add-br", name, "--", "set", "bridge", name, "datapath_type=netdev"])
            stack.callback(run, ["ovs-vsctl", "--if-exists", "del-br", name])
        run(["ovs-vsctl", "set", "bridge", marked, f"external_ids:deftbed-run={other}"])
        run(["ip", "netns", "add", space])
        stack.callback(run, ["ip", "netns", "delete", space])
        # One as a stranger's ping, one of another run, one that names the run in its arguments.
        bare = {name: value for name, value in os.environ.items() if name != RUN_VARIABLE}
        made = [
            subprocess.Popen(["ip", "netns", "exec", space, "sleep", "600"], env=bare),
            subprocess.Popen(["sleep", "600"], env={**bare, RUN_VARIABLE: other}),
            subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(600)", f"{RUN_VARIABLE}={run_id}"],
                env=bare,
            ),
        ]
        for process in made:
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield Strangers({alike, marked}, space, made, other)


@pytest.fixture
def run_id() -> Iterator[str]:
    number = f"{int.from_bytes(os.urandom(3), 'big') | 2:06x}"
    yield number
    clean(number)


def test_all_of_a_killed_run_goes_and_nothing_of_others(run_id: str, tmp_path: Path) -> None:
    with strangers(run_id) as others:
        killed_run(run_id, tmp_path)
        assert len(cgroup_folders(run_id)) >= 1
        assert {name for name, owner in marked_bridges().items() if owner == run_id}
        assert not is_alive(run_id)
        assert run_id in stale_runs()

        would = clean(run_id, dry_run=True)
        assert any(line.startswith(f"bridge {run_id}s0: external id") for line in would)
        assert any(line.startswith("cgroup") for line in would)
        assert f"folder {state_folder(run_id)}: record of run {run_id}" in would
        assert {f"{run_id}s{i}" for i in range(3)} <= bridges()

        removed = clean(run_id)
        assert any(f"{run_id}s2" in line for line in removed)
        mine = {name for name in bridges() if name.startswith(run_id)}
        assert mine == {f"{run_id}s9"}
        wait_for(lambda: interfaces(run_id) == {f"{run_id}s9"}, f"left: {interfaces(run_id)}")
        assert processes_of(run_id) == []
        assert cgroup_folders(run_id) == []
        assert not state_folder(run_id).exists()
        assert run_id not in stale_runs()
        assert clean(run_id) == []
        assert others.are_whole()


def test_a_process_that_ignores_requests_to_end_is_killed(run_id: str) -> None:
    code = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(99)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, RUN_VARIABLE: run_id},
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        assert clean(run_id) == [
            f"process {process.pid}: {RUN_VARIABLE}={run_id} in its environment"
        ]
        assert process.wait(5) == -9


def test_a_process_whose_number_was_taken_over_is_spared(run_id: str) -> None:
    # As if the process that was found had ended and a stranger had got its number meanwhile.
    bare = {name: value for name, value in os.environ.items() if name != RUN_VARIABLE}
    with subprocess.Popen(["sleep", "600"], env=bare) as stranger:
        assert end_found(run_id, [stranger.pid], signal.SIGTERM, 0.2) == []
        assert stranger.poll() is None
        stranger.kill()


def test_the_caller_of_clean_is_spared_even_if_it_carries_the_mark(run_id: str) -> None:
    code = "import sys; from testbed.substrate.ownership import clean; print(clean(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, run_id],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, RUN_VARIABLE: run_id},
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_run_that_lives_is_not_stale(run_id: str, tmp_path: Path) -> None:
    with RunRecord(run_id, tmp_path):
        assert is_alive(run_id)
        assert run_id not in stale_runs()
        assert not any(run_id in line for line in clean_stale(dry_run=True))


def test_a_record_of_a_recycled_process_number_is_stale(run_id: str, tmp_path: Path) -> None:
    with RunRecord(run_id, tmp_path):
        path = state_folder(run_id) / "run.json"
        ticks = '"start_ticks": '
        before, _, after = path.read_text().partition(ticks)
        path.write_text(f"{before}{ticks}1{after}")
        assert run_id in stale_runs()


def test_a_marked_process_without_a_record_is_stale_and_nothing_else_is_seen(run_id: str) -> None:
    process = subprocess.Popen(["sleep", "600"], env={**os.environ, RUN_VARIABLE: run_id})
    with process:
        wait_for(lambda: processes_of(run_id) == [process.pid], "the mark is not seen")
        assert run_id in stale_runs()
        assert marked_processes()[process.pid] == run_id
        process.kill()


def test_bridges_that_the_database_forgot_are_waited_for() -> None:
    """As when a harness is killed while it deletes them: Open vSwitch is still at it."""
    run_id = os.urandom(3).hex()
    names = [f"{run_id}s{number}" for number in range(12)]
    add, delete = [], []
    for name in names:
        add += ["--", "add-br", name, "--", "set", "bridge", name, "datapath_type=netdev"]
        delete += ["--", "del-br", name]
    try:
        run(["ovs-vsctl", *add])
        assert interfaces(run_id) == set(names)
        run(["ovs-vsctl", "--no-wait", *delete])
        clean(run_id)
        assert interfaces(run_id) == set()
    finally:
        run(
            [
                "ovs-vsctl",
                *(word for name in names for word in ("--", "--if-exists", "del-br", name)),
            ]
        )
