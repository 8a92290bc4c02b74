"""Injects the faults of a plan at their times."""

from __future__ import annotations

import time
from collections.abc import Callable

from testbed.orchestration.deploying.site import Site
from testbed.records.threads import Timetable
from testbed.scenario.names import server_name
from testbed.scenario.types import NS_PER_S, Fault


def fault_times(
    site: Site, server_down: Callable[[int], None], instances_at: Callable[[int], list[str]]
) -> Timetable[Fault]:
    """A thread for the faults of the plan; `server_down` cuts a server off its switch.

    One that could not be injected is an event, and the run is not valid.
    """

    def inject(fault: Fault) -> None:
        # The interface goes first: a real server's death sends no farewell to its peers.
        server_down(fault.node)
        t_ns = time.monotonic_ns()
        site.spawner.kill([server_name(fault.node), *instances_at(fault.node)])
        site.events.write("fault", t_ns=t_ns, kind=fault.kind, node=fault.node)

    def note(fault: Fault, error: Exception) -> None:
        what = f"fault {fault.kind} at node {fault.node}"
        note_not_done(site, "fault", what, fault.at_ns, str(error))

    return Timetable("faults", site.plan.faults, inject, note)


def note_not_done(site: Site, kind: str, what: str, at_ns: int, error: str) -> None:
    """Write the event that something that was planned did not happen, and why."""
    due = f"{what}, due at {at_ns / NS_PER_S:g} s"
    site.events.write("not-done", kind=kind, what=due, error=error)
