"""The scheduling class of the userspace switch while a run uses it.

Every frame passes `ovs-vswitchd` at every hop. In the usual class it stands behind each real-time
process of the run that wakes on its core, also while another core is idle, until the balancer
moves it: frames then pile up before the switch and not where the scenario's queues are. So its
main thread, which forwards all frames of the userspace datapath, is in SCHED_FIFO meanwhile:
above the instances and below the edges, the line and the senders, which hold to times. With what
it starts meanwhile it does not share the class.

The process belongs to the host. A class that its owner gave it stays; ours is told by PRIORITY and
the flag SCHED_RESET_ON_FORK, and the last run, or the clean-up after one that died, takes it back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from testbed.substrate.processes import name_of
from testbed.substrate.runtime_folder import STATE, locked

PRIORITY = 8
PROCESS = "ovs-vswitchd"
PID_FILE = Path(os.environ.get("OVS_RUNDIR", "/var/run/openvswitch")) / f"{PROCESS}.pid"
LOCK = STATE / "switch.lock"
_OURS = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK


def make_prompt(pid_file: Path = PID_FILE, lock: Path = LOCK) -> str:
    """Put the switch into the real-time class; the class that it has then, for the event log.

    It is left as it is if it has another class than the usual one already, or if the host does not
    grant the class.
    """
    with locked(lock):
        pid = _switch(pid_file)
        if pid is None:
            return "unknown"
        try:
            if os.sched_getscheduler(pid) == os.SCHED_OTHER:
                with contextlib.suppress(PermissionError):
                    os.sched_setscheduler(pid, _OURS, os.sched_param(PRIORITY))
            return _told(pid)
        except ProcessLookupError:  # it ended just now
            return "unknown"


def restore(is_used: Callable[[], bool], pid_file: Path = PID_FILE, lock: Path = LOCK) -> int:
    """Give the switch its usual class back unless `is_used`; its process, 0 if nothing was done.

    `is_used` says whether another run goes on; no run begins to use the switch meanwhile.
    """
    with locked(lock):
        pid = prompt_process(pid_file)
        with contextlib.suppress(ProcessLookupError):
            if pid and not is_used():
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
                return pid
        return 0


def prompt_process(pid_file: Path = PID_FILE) -> int:
    """The switch's process if it has the class that runs give it, else 0."""
    pid = _switch(pid_file)
    with contextlib.suppress(ProcessLookupError):
        if pid is not None and os.sched_getscheduler(pid) == _OURS:
            return pid if os.sched_getparam(pid).sched_priority == PRIORITY else 0
    return 0


def _told(pid: int) -> str:
    policy = os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK
    name = {os.SCHED_OTHER: "SCHED_OTHER", os.SCHED_FIFO: "SCHED_FIFO", os.SCHED_RR: "SCHED_RR"}
    return f"{name.get(policy, policy)} {os.sched_getparam(pid).sched_priority}"


def _switch(pid_file: Path) -> int | None:
    """The process in the file, if it is a switch indeed; it may have ended without its file."""
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return pid if name_of(pid) == PROCESS else None
