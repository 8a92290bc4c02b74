"""Server cgroups as this host's kernel keeps them (v1 or v2): accounting, quota, removal."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.scenario.types import RunPlan, Server, Topology
from testbed.substrate.cgroups import ServerCgroups, folders_of
from testbed.substrate.measure_servers import measure_servers
from testbed.substrate.probe import choose, probe

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
PLAN = RunPlan(0, 1, Topology((), (), ()), (Server(0, 1.0, 1), Server(1, 1.0, 1)), {}, (), (), ())
BURN = """
import sys, time
from pathlib import Path
for path in sys.argv[2:]:
    Path(path).write_text("0")
begin, joined_with = time.monotonic(), time.process_time()  # the start-up was not in the cgroup
while time.process_time() - joined_with < float(sys.argv[1]):
    pass
print(time.process_time() - joined_with, time.monotonic() - begin)
"""


@pytest.fixture
def groups() -> Iterator[ServerCgroups]:
    run_id = secrets.token_hex(3)
    with ServerCgroups(run_id, PLAN, choose(probe()).cgroup) as made:
        yield made
    assert folders_of(run_id) == []


def burn(cpu_s: float, files: list[str]) -> tuple[float, float]:
    """Spend CPU time in a cgroup; the CPU and the wall-clock seconds since it was joined."""
    command = [sys.executable, "-c", BURN, str(cpu_s), *files]
    spent, wall = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(spent), float(wall)


def test_time_is_counted_for_the_server_that_spent_it(groups: ServerCgroups) -> None:
    before = groups.usage_ns(0)
    spent_s, _ = burn(0.3, list(groups.procs_files(0)))
    assert groups.usage_ns(0) - before >= 0.28e9
    assert groups.usage_ns(0) - before <= (spent_s + 0.2) * 1e9
    assert groups.usage_ns(1) == 0


def test_a_quota_holds_and_without_it_nothing_is_limited(groups: ServerCgroups) -> None:
    groups.set_quota(0, 0.2, 0.01)
    _, wall_s = burn(0.2, list(groups.procs_files(0)))
    # A fifth of a core gives 0.2 s of CPU time in 1 s; the first period may be free.
    assert wall_s >= 0.8


def test_what_a_server_with_a_quota_gets_is_measured(groups: ServerCgroups) -> None:
    groups.set_quota(0, 0.2, 0.01)
    groups.set_quota(1, 0.1, 0.01)
    # A busy host may give less, never more; the first period may be free.
    first, second = measure_servers(groups, {0: 0.2, 1: 0.1})
    assert (first.name, first.asked_cores) == ("server-0", 0.2)
    assert 0.02 < first.measured_cores <= 0.24
    assert 0.01 < second.measured_cores <= 0.13


def test_processes_that_still_live_do_not_keep_the_folders(groups: ServerCgroups) -> None:
    process = subprocess.Popen(["sleep", "60"])
    groups.join(1, process.pid)
    assert str(process.pid) in Path(groups.procs_files(1)[0]).read_text().split()
    groups.__exit__(None, None, None)
    assert process.poll() is None
    process.kill()
    process.wait()
