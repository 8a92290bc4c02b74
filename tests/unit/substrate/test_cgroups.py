"""Cgroup folders and files.

The v2 tests run on a directory tree in which plain files stand for the kernel's interface files.
They show which files are written, with what, in which order of levels - not that a kernel obeys.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.scenario.types import RunPlan, Server, Topology
from testbed.substrate.cgroups import CgroupError, ServerCgroups, mounts

RUN = "a1b2c3"
PLAN = RunPlan(
    seed=0,
    duration_ns=1,
    topology=Topology((), (), ()),
    servers=(Server(0, 0.5, 1), Server(7, 2.0, 1)),
    profiles={},
    requests=(),
    load_steps=(),
    faults=(),
)
TABLE = """\
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0
tmpfs /sys/fs/cgroup tmpfs rw 0 0
"""


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    for level in (tmp_path, tmp_path / "deftbed", tmp_path / "deftbed" / RUN):
        level.mkdir(exist_ok=True)
        (level / "cgroup.subtree_control").write_text("memory\n")
    return tmp_path


def test_mounts_are_found_by_version_and_controller() -> None:
    both = Path("/sys/fs/cgroup/cpu,cpuacct")
    assert mounts("v1", TABLE) == {"cpu": both, "cpuacct": both}
    assert mounts("v2", TABLE) == {"unified": Path("/sys/fs/cgroup/unified")}


def test_a_tree_that_is_not_mounted_is_an_error() -> None:
    with pytest.raises(CgroupError, match="no cpuacct tree of cgroup v1"):
        ServerCgroups(RUN, PLAN, "v1", {"cpu": Path("/x")})
    with pytest.raises(CgroupError, match="no unified tree of cgroup v2"):
        ServerCgroups(RUN, PLAN, "v2", {})


def test_v2_without_a_quota_only_accounts(v2: Path) -> None:
    groups = ServerCgroups(RUN, PLAN, "v2", {"unified": v2})
    groups.__enter__()
    folder = v2 / "deftbed" / RUN / "server-7"
    (folder / "cpu.stat").write_text("usage_usec 1234\nuser_usec 1000\n")
    assert groups.usage_ns(7) == 1_234_000
    assert list(groups.procs_files(7)) == [str(folder / "cgroup.procs")]
    assert (v2 / "cgroup.subtree_control").read_text() == "memory\n"


def test_v2_quota_enables_the_controller_at_each_level_and_sets_cpu_max(v2: Path) -> None:
    groups = ServerCgroups(RUN, PLAN, "v2", {"unified": v2})
    groups.__enter__()
    groups.set_quotas(0.005)
    for level in (v2, v2 / "deftbed", v2 / "deftbed" / RUN):
        assert (level / "cgroup.subtree_control").read_text() == "+cpu"
    assert (v2 / "deftbed" / RUN / "server-0" / "cpu.max").read_text() == "2500 5000"
    assert (v2 / "deftbed" / RUN / "server-7" / "cpu.max").read_text() == "10000 5000"


@pytest.mark.parametrize(("cores", "period_s"), [(0.1, 0.005), (1.0, 0.0005), (1.0, 2.0)])
def test_a_quota_that_the_kernel_refuses_is_an_error(
    v2: Path, cores: float, period_s: float
) -> None:
    groups = ServerCgroups(RUN, PLAN, "v2", {"unified": v2})
    with pytest.raises(CgroupError, match="server-0"):
        groups.set_quota(0, cores, period_s)
