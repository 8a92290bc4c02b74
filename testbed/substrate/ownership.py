"""Whose is what: run records, marks on everything a run makes, and removal of just that.

A run is known by a record in /run/deftbed/<run id>/run.json. Its processes carry DEFTBED_RUN in
their environment, its bridges an external id, its interfaces in the root namespace an alias, its
cgroups a folder of its name. Removal goes by these marks, so it works after a crash and never
touches what carries no mark of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from testbed.records.files import write_json
from testbed.scenario.endings import Endings, carry_out
from testbed.substrate import cgroups, switch_class
from testbed.substrate.commands import CommandError, json_of, run, vsctl_rows
from testbed.substrate.layout import check_run_id, interface_group, mark
from testbed.substrate.processes import own_line, start_ticks, variable_of, with_variable
from testbed.substrate.runtime_folder import STATE, make_folder

RUN_VARIABLE = "DEFTBED_RUN"
"""Names the run in the environment of each of its processes."""
BRIDGE_MARK = "deftbed-run"
"""The external id of a run's bridges."""
_STATE = STATE
_RUN_ID = r"[0-9a-f]{6}"
_TERM_S = 2.0
_KILL_S = 2.0
_PORTS_S = 5.0


def state_folder(run_id: str) -> Path:
    """Where a run keeps its record, sockets and counters; ValueError for a bad run id."""
    check_run_id(run_id)
    return _STATE / run_id


class RunRecord:
    """Says on disk that this process runs `run_id`; a context manager that writes the record.

    The record outlives the context: `clean` removes it together with everything else, and a
    record whose process is dead is how a crashed run is recognised.
    """

    def __init__(self, run_id: str, results: Path) -> None:
        self._path = state_folder(run_id) / "run.json"
        self._record = {
            "run_id": run_id,
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "results": str(results.absolute()),
        }

    def __enter__(self) -> RunRecord:
        self.touch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def touch(self) -> None:
        """Write the record anew, whole or not at all."""
        make_folder(self._path.parent)
        write_json(self._path, self._record)


def has_record(run_id: str) -> bool:
    """Whether the run has a record."""
    return (state_folder(run_id) / "run.json").exists()


def is_alive(run_id: str) -> bool:
    """Whether the harness that wrote the run's record lives."""
    return _living(run_id) is not None


def _living(run_id: str) -> dict[str, Any] | None:
    """The record of a run whose harness lives; None if it is dead, or there is no whole record."""
    try:
        record = json.loads((state_folder(run_id) / "run.json").read_text(encoding="utf-8"))
        alive = start_ticks(int(record["pid"])) == record["start_ticks"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return dict(record) if alive and record["start_ticks"] is not None else None


def marked_processes() -> dict[int, str]:
    """Process number -> run id of every process that carries a mark, but not our own line."""
    # A clean-up must never end those that asked for it.
    spared = own_line()
    found = with_variable(RUN_VARIABLE)
    return {pid: run_id for pid, run_id in found.items() if pid not in spared}


def processes_of(run_id: str) -> list[int]:
    """The processes of a run, by the mark in their environment."""
    return sorted(pid for pid, owner in marked_processes().items() if owner == run_id)


def marked_bridges() -> dict[str, str]:
    """Bridge name -> run id of every bridge with our mark; none if Open vSwitch does not answer."""
    try:
        rows = vsctl_rows("Bridge", ("name", "external_ids"))
    except CommandError:
        return {}
    return {
        row["name"]: row["external_ids"][BRIDGE_MARK]
        for row in rows
        if BRIDGE_MARK in row["external_ids"]
    }


def marked_interfaces() -> dict[str, str]:
    """Interface name -> run id of every interface of the root namespace with our alias."""
    return {name: owner for name, owner, _ in _interfaces() if owner is not None}


def _interfaces() -> list[tuple[str, str | None, str]]:
    """(name, run id by its alias, group) of every interface of the root namespace."""
    prefix = mark("")
    found = []
    for row in json_of(["ip", "-j", "-d", "link", "show"]) or []:
        alias = row.get("ifalias", "")
        owner = alias.removeprefix(prefix) if alias.startswith(prefix) else None
        found.append((row["ifname"], owner, str(row.get("group", ""))))
    return found


def remove_bridges(run_id: str) -> list[str]:
    """Delete the run's bridges in one transaction; their names."""
    names = sorted(name for name, owner in marked_bridges().items() if owner == run_id)
    if names:
        words: list[str] = []
        for name in names:
            words += ["--", "--if-exists", "del-br", name]
        run(["ovs-vsctl", *words])
    return names


def await_bridge_ports_gone(run_id: str) -> None:
    """Wait until Open vSwitch has removed the interfaces of the bridges that its database forgot.

    A harness that is killed while it deletes bridges leaves nobody who waits for that.
    """
    deadline = time.monotonic() + _PORTS_S
    while left := {name for _, name in socket.if_nameindex() if name.startswith(run_id)}:
        # A stranger's bridge of a like name is in the database, and stays.
        if left <= set(run(["ovs-vsctl", "list-br"]).split()) or time.monotonic() > deadline:
            return
        time.sleep(0.01)  # nothing tells when an interface of another process is gone


def remove_interfaces(run_id: str) -> list[str]:
    """Delete the run's interfaces in the root namespace; their names.

    A pair's other end goes with the first, and an end may go with its namespace meanwhile, so
    what is left is read again rather than each answer believed.
    """
    there = _interfaces()
    names = sorted(name for name, owner, _ in there if owner == run_id)
    group = str(interface_group(run_id))
    if names and all(owner == run_id for _, owner, number in there if number == group):
        # The kernel waits once for all of a group, and 10 to 30 ms for each one by itself.
        with contextlib.suppress(CommandError):
            run(["ip", "link", "delete", "group", group])
        there = _interfaces()
    left = sorted(name for name, owner, _ in there if owner == run_id)
    if left:
        text = "".join(f"link delete dev {name}\n" for name in left)
        with contextlib.suppress(CommandError):
            run(["ip", "-force", "-batch", "-"], text)
        left = sorted(name for name, owner in marked_interfaces().items() if owner == run_id)
        if left:
            raise CommandError(f"interfaces of run {run_id} that could not be deleted: {left}")
    return names


def end_processes(run_id: str) -> list[int]:
    """End the run's processes: SIGTERM, and SIGKILL for those that stay; their numbers."""
    ended = end_found(run_id, processes_of(run_id), signal.SIGTERM, _TERM_S)
    # Some may have been started in the meantime by those that were asked to end.
    return sorted({*ended, *end_found(run_id, processes_of(run_id), signal.SIGKILL, _KILL_S)})


def end_found(run_id: str, pids: Iterable[int], number: signal.Signals, wait_s: float) -> list[int]:
    """Signal those of `pids` that are the run's still, and wait for their end; their numbers."""
    with contextlib.ExitStack() as stack:
        handles: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
                # The handle is of one process for good: looked at after it was opened, the mark
                # cannot be that of a process whose number was taken over.
                if variable_of(pid, RUN_VARIABLE) == run_id:
                    handles[pid] = handle
        for handle in handles.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
        _wait_for_exits(set(handles.values()), wait_s)
        return sorted(handles)


def _wait_for_exits(handles: set[int], wait_s: float) -> None:
    poller = select.poll()
    for handle in handles:
        poller.register(handle, select.POLLIN)
    deadline = time.monotonic() + wait_s
    left = set(handles)
    while left and (rest := deadline - time.monotonic()) > 0:
        for handle, _ in poller.poll(rest * 1000):
            poller.unregister(handle)
            left.discard(handle)


def clean(run_id: str, dry_run: bool = False) -> list[str]:
    """Remove everything of one run; what was (or with `dry_run` would be) removed and why.

    Each kind of thing is removed though another cannot be. Raises the first error, CommandError for
    one, and ValueError for a bad run id. The run's record goes last, if all else went.
    """
    folder = state_folder(run_id)
    pids: list[int] = []
    bridges: list[str] = []
    interfaces: list[str] = []
    groups: list[str] = []
    if dry_run:
        pids += processes_of(run_id)
        bridges += sorted(name for name, owner in marked_bridges().items() if owner == run_id)
        interfaces += sorted(name for name, owner in marked_interfaces().items() if owner == run_id)
        groups += [str(path) for path in cgroups.folders_of(run_id)]
    else:
        carry_out(
            lambda: pids.extend(end_processes(run_id)),
            lambda: bridges.extend(remove_bridges(run_id)),
            lambda: interfaces.extend(remove_interfaces(run_id)),
            lambda: await_bridge_ports_gone(run_id),
            lambda: groups.extend(cgroups.remove(run_id)),
            lambda: switch_class.restore(lambda: bool(live_runs().keys() - {run_id})),
        )
    found = [f"process {pid}: {RUN_VARIABLE}={run_id} in its environment" for pid in pids]
    found += [f"bridge {name}: external id {BRIDGE_MARK}={run_id}" for name in bridges]
    found += [f"interface {name}: alias {mark(run_id)}" for name in interfaces]
    found += [f"cgroup {path}: folder of run {run_id}" for path in groups]
    if folder.exists():
        found.append(f"folder {folder}: record of run {run_id}")
        if not dry_run:
            shutil.rmtree(folder)
    return found


def known_runs() -> set[str]:
    """Ids of all runs that have a record or anything marked, of cgroups too."""
    found = {*marked_processes().values(), *marked_bridges().values()}
    found |= {*marked_interfaces().values(), *cgroups.runs()}
    if _STATE.is_dir():
        found |= {entry.name for entry in _STATE.iterdir() if entry.is_dir()}
    return {run_id for run_id in found if re.fullmatch(_RUN_ID, run_id)}


def live_runs() -> dict[str, Path]:
    """The runs of this host that are under way, by id, with their results folders."""
    found = {}
    for run_id in sorted(entry.name for entry in _STATE.iterdir()) if _STATE.is_dir() else []:
        record = _living(run_id) if re.fullmatch(_RUN_ID, run_id) else None
        if record is not None:
            found[run_id] = Path(record["results"])
    return found


def stale_runs() -> list[str]:
    """Runs whose harness is dead, and marks that no record explains."""
    return sorted(run_id for run_id in known_runs() if not is_alive(run_id))


def clean_stale(dry_run: bool = False) -> list[str]:
    """`clean` for every stale run, also after one that cannot be cleaned."""
    removed: list[str] = []
    with Endings() as endings:
        for run_id in reversed(stale_runs()):
            endings.add(lambda run_id=run_id: removed.extend(clean(run_id, dry_run)))
    return removed
