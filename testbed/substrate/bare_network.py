"""A network without chains and without a controller: for what is measured of the substrate."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.scenario.endings import Endings
from testbed.scenario.types import RunPlan, Server, Topology
from testbed.substrate.emulated_network import Network
from testbed.substrate.ownership import clean, state_folder
from testbed.substrate.probe import Backends

_NO_CONTROLLER_PORT = 1


@contextmanager
def bare_network(topology: Topology, backends: Backends, folder: Path) -> Iterator[Network]:
    """The network of a topology, built as a run builds it; it goes with the context.

    `folder` takes the event log. Raises CommandError, LinkError or OSError if it cannot be built.
    """
    plan = RunPlan(
        seed=0,
        duration_ns=0,
        topology=topology,
        servers=tuple(Server(node.index, 1.0, 1) for node in topology.nodes),
        profiles={},
        requests=(),
        load_steps=(),
        faults=(),
    )
    run_id = secrets.token_hex(3)
    network = Network(
        plan, run_id, backends, _NO_CONTROLLER_PORT, state_folder(run_id), folder / "events.jsonl"
    )
    with Endings() as endings:
        endings.add(clean, run_id)
        yield endings.enter(network)
