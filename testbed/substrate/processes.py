"""What is known of the processes of this host, whoever started them.

A process may end at any moment, also while it is looked at: one that has ended has no start, no
name and no variables.
"""

from __future__ import annotations

import os

import psutil

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it has ended (a zombie has).

    Process number and start time together name a process for good.
    """
    while True:
        boot_s = psutil.boot_time()
        try:
            process = psutil.Process(pid)
            if process.status() in _ENDED:
                return None
            since_boot_s = process.create_time() - boot_s
        except psutil.NoSuchProcess:
            return None
        # psutil counts from the epoch: from a boot that moves whenever the clock is set.
        if psutil.boot_time() == boot_s:
            return round(since_boot_s * _TICKS_PER_S)


def lives(pid: int) -> bool:
    """Whether there is such a process and it has not ended."""
    return start_ticks(pid) is not None


def name_of(pid: int) -> str | None:
    """The name of a process, without its folder; None if it has ended."""
    try:
        return str(psutil.Process(pid).name())
    except psutil.NoSuchProcess:
        return None


def command_of(pid: int) -> list[str]:
    """The words that a process was started with; none if it has ended or may not be looked at."""
    try:
        return list(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def variable_of(pid: int, name: str) -> str | None:
    """A variable in its environment; None if it has none, has ended, or may not be looked at."""
    try:
        return psutil.Process(pid).environ().get(name)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def with_variable(name: str) -> dict[int, str]:
    """Process number -> value, of every process that has the variable in its environment."""
    values = ((pid, variable_of(pid, name)) for pid in psutil.pids())
    return {pid: value for pid, value in values if value is not None}


def own_line() -> set[int]:
    """This process and those above it."""
    own = psutil.Process()
    return {own.pid, *(parent.pid for parent in own.parents())}


def cpu_ns(pid: int) -> int:
    """CPU time of a process so far; raises ProcessLookupError if it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(f"process {pid} has ended") from error
    return round((times.user + times.system) * 1_000_000_000)
