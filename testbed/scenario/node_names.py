"""Which node a name of the scenario file means."""

from __future__ import annotations

import difflib

from testbed.scenario.errors import InputError
from testbed.scenario.types import Topology

_SHOWN = 12


def node_index(topology: Topology, name: str, field: str) -> int:
    """The number of the node called `name`; InputError naming `field` if there is none."""
    names = [node.name for node in topology.nodes]
    if name in names:
        return names.index(name)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = ", ".join(names[:_SHOWN])
    raise InputError(field, name, f"one of the nodes {shown}{more}{hint}")
