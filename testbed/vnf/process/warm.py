"""What an instance does first, done once in the parent that all of them are forked from.

Numba finds out types, conversions and the addresses of compiled functions when they are first asked
for: 10 ms of each start, if each instance asks for itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from testbed.records.events import EventLog
from testbed.scenario.types import FunctionName
from testbed.vnf.dataplane.loop import new_plane
from testbed.vnf.dataplane.ring import CURSORS, Ring
from testbed.vnf.dataplane.system import poll_set
from testbed.vnf.functions.function import Function
from testbed.vnf.functions.registry import MAKERS, make_function
from testbed.vnf.process.instance import Identity, Instance
from testbed.vnf.replication.member import ReplicationConfig

_ADDRESS = "192.0.2.1"
_NEEDED: Mapping[FunctionName, Mapping[str, Any]] = {
    "nat": {"public_address": _ADDRESS},
    "lb": {"virtual_address": _ADDRESS, "backends": [{"address": "192.0.2.2"}]},
}
"""The keys that must be given."""
_kept: list[Instance] = []
"""The C library takes memory that was freed for large tables, too, and has to clear it, while it
gets zeros from the kernel page by page as they are touched."""
_IDENTITY = Identity("", "", 0, "02:00:00:00:00:00", (0, 0), (0, 0))
_REPLICATION = ReplicationConfig("none", 1, 0, 1, 1, 1, 1, 256, 1)
_CONFIGURATION: dict[str, Any] = {
    "epoch": 1,
    "primary": None,
    "backups": [],
    "learners": [],
    "confirmed": False,
    "members": {},
}


def warm_up() -> None:
    """Make an instance of each function, and call what Python calls of it."""
    with contextlib.closing(EventLog(os.devnull)) as events:
        _kept.extend(_used(make_function(name, _NEEDED.get(name, {})), events) for name in MAKERS)


def _used(function: Function, events: EventLog) -> Instance:
    nothing = np.zeros(0, np.uint8)
    ring = Ring(nothing, nothing, np.zeros(CURSORS, np.int64))
    plane = new_plane(ring, poll_set(()), np.zeros(8, np.int64))
    instance = Instance(_IDENTITY, function, _REPLICATION, plane, events)
    instance.configure(_CONFIGURATION)
    instance.drain({"on": False})
    instance.serve(0)
    instance.dump()
    return instance
