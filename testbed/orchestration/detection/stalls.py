"""Notes when a core of the host stood still: every process on it seemed to fail meanwhile.

A virtual machine's host may take a core away for a third of a second. Processes on it look dead to
a failure detector meanwhile, though nothing in the run had stopped them. So a thread on each core,
in the real-time class above everything else of a run, asks to be woken every few milliseconds.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

from testbed.records.events import EventLog
from testbed.records.threads import run_together

PERIOD_NS = 20_000_000
NOTED_NS = 50_000_000
"""A thread that is woken so late writes an event."""
_NS_PER_S = 1_000_000_000


def main(config: dict[str, Any]) -> None:
    """The process, until it is ended. Keys of `config`: `cores` (numbers), `events` (path)."""
    events = EventLog(config["events"])
    run_together({f"core-{core}": partial(_watch, core, events) for core in config["cores"]})


def _watch(core: int, events: EventLog) -> None:
    os.sched_setaffinity(0, {core})  # 0: this thread alone
    due_ns = time.monotonic_ns()
    while True:
        due_ns += PERIOD_NS
        time.sleep(max(0, due_ns - time.monotonic_ns()) / _NS_PER_S)
        late_ns = time.monotonic_ns() - due_ns
        if late_ns >= NOTED_NS:
            events.write("core-stalled", core=core, stalled_ns=late_ns)
            due_ns += late_ns
