"""A cgroup for each server: whose CPU time it was, and on request a CFS quota.

On cgroup v1 a server has a folder in the `cpuacct` tree and, when a quota is asked for, one in
the `cpu` tree: with CONFIG_RT_GROUP_SCHED a process in a folder of the `cpu` tree may not be
real-time, so none is made that is not needed. On v2 one folder does both, and the cpu controller
is enabled when a quota is asked for; `cpu.stat` counts time without it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from testbed.scenario.errors import RunError
from testbed.scenario.names import server_name
from testbed.scenario.quota import cpu_quota_us, refusal
from testbed.scenario.types import NS_PER_S, RunPlan

Version = Literal["v1", "v2"]
_TOP = "deftbed"
_REMOVE_S = 2.0


class CgroupError(RunError):
    """A cgroup tree lacks what is needed: says the path and what was expected there."""


def mounts(version: Version, table: str | None = None) -> dict[str, Path]:
    """Mount points: {"cpu": ..., "cpuacct": ...} of v1, {"unified": ...} of v2, as found.

    `table` stands for the text of /proc/self/mounts.
    """
    found: dict[str, Path] = {}
    for line in (Path("/proc/self/mounts").read_text() if table is None else table).splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup2" and version == "v2":
            found.setdefault("unified", Path(point))
        if kind == "cgroup" and version == "v1":
            for controller in {"cpu", "cpuacct"} & set(options.split(",")):
                found.setdefault(controller, Path(point))
    return found


def _roots() -> list[Path]:
    """Every tree in which runs may have folders, each once."""
    both = [*mounts("v1").values(), *mounts("v2").values()]
    return list(dict.fromkeys(both))


def folders_of(run_id: str) -> list[Path]:
    """The run's folders in all trees."""
    return [path for root in _roots() if (path := root / _TOP / run_id).is_dir()]


def runs() -> set[str]:
    """Ids of all runs that have a folder in any tree."""
    tops = [top for root in _roots() if (top := root / _TOP).is_dir()]
    return {entry.name for top in tops for entry in top.iterdir() if entry.is_dir()}


def remove(run_id: str) -> list[str]:
    """Remove the run's folders; their paths. A process still in one goes to the tree's root.

    Raises CgroupError if a folder stays in use.
    """
    removed = []
    for folder in folders_of(run_id):
        root = folder.parents[1]
        for child in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
            _rmdir(child, root)
        _rmdir(folder, root)
        removed.append(str(folder))
    return removed


def _rmdir(folder: Path, root: Path) -> None:
    """Remove a folder; the kernel takes a moment to forget a process that has just ended."""
    if not folder.is_dir():
        return
    for pid in (folder / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (root / "cgroup.procs").write_text(pid)
    deadline = time.monotonic() + _REMOVE_S
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise CgroupError(f"{folder}: in use, expected no process in it") from error
        time.sleep(0.01)


class ServerCgroups:
    """The cgroups of a run's servers; a context manager that makes and removes them.

    `roots` are the mount points (see `mounts`), given in tests only.
    """

    def __init__(
        self, run_id: str, plan: RunPlan, version: Version, roots: dict[str, Path] | None = None
    ) -> None:
        self._run_id = run_id
        self._cores = {server.node: server.cpu_cores for server in plan.servers}
        self._version = version
        self._roots = mounts(version) if roots is None else roots
        self._quota = False
        needed = ("cpu", "cpuacct") if version == "v1" else ("unified",)
        for name in needed:
            if name not in self._roots:
                raise CgroupError(f"no {name} tree of cgroup {version} is mounted")

    def __enter__(self) -> ServerCgroups:
        for node in self._cores:
            self._folder(self._accounting, node).mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for root in dict.fromkeys(self._roots.values()):
            for node in self._cores:
                _rmdir(self._folder(root, node), root)
            _rmdir(root / _TOP / self._run_id, root)

    @property
    def _accounting(self) -> Path:
        return self._roots["cpuacct" if self._version == "v1" else "unified"]

    @property
    def _limiting(self) -> Path:
        return self._roots["cpu" if self._version == "v1" else "unified"]

    def _folder(self, root: Path, node: int) -> Path:
        return root / _TOP / self._run_id / server_name(node)

    def set_quotas(self, period_s: float) -> None:
        """Give every server its `cpu_cores` as a quota, as if cores of this host were reference."""
        for node, cores in self._cores.items():
            self.set_quota(node, cores, period_s)

    def set_quota(self, node: int, host_cores: float, period_s: float) -> None:
        """Limit a server to `host_cores` cores of this host over periods of `period_s`.

        Raises CgroupError if the kernel would refuse: the period lies outside 1 ms .. 1 s, or the
        quota below 1 ms. Real-time processes are not limited by it.
        """
        refused = refusal(host_cores, period_s)
        if refused is not None:
            raise CgroupError(
                f"{server_name(node)}: quota_period_s = {period_s}: expected {refused}"
            )
        quota_us, period_us = cpu_quota_us(host_cores, period_s)
        folder = self._folder(self._limiting, node)
        if self._version == "v1":
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cpu.cfs_period_us").write_text(str(period_us))
            (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            self._enable_cpu()
            (folder / "cpu.max").write_text(f"{quota_us} {period_us}")
        self._quota = True

    def _enable_cpu(self) -> None:
        root = self._limiting
        for level in (root, root / _TOP, root / _TOP / self._run_id):
            control = level / "cgroup.subtree_control"
            if "cpu" not in control.read_text().split():
                control.write_text("+cpu")

    def procs_files(self, node: int) -> Sequence[str]:
        """The files to which a process writes its number to belong to the server."""
        roots = [self._accounting]
        if self._quota and self._limiting != self._accounting:
            roots.append(self._limiting)
        return [str(self._folder(root, node) / "cgroup.procs") for root in roots]

    def join(self, node: int, pid: int | None = None) -> None:
        """Make a process (this one by default) belong to the server."""
        for path in self.procs_files(node):
            Path(path).write_text(str(os.getpid() if pid is None else pid))

    def usage_ns(self, node: int) -> int:
        """CPU time of all the server's processes so far, in nanoseconds."""
        folder = self._folder(self._accounting, node)
        if self._version == "v1":
            return int((folder / "cpuacct.usage").read_text())
        for line in (folder / "cpu.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "usage_usec":
                return int(value) * (NS_PER_S // 1_000_000)
        raise CgroupError(f"{folder / 'cpu.stat'}: expected a line usage_usec")
