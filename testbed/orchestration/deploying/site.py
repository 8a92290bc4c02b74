"""The site of a run: its hosts, its folders, and the processes that serve the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from controller.client import ControllerClient
from testbed.orchestration.deploying.spawner import Spawner
from testbed.orchestration.detection.fdu_client import FduClient
from testbed.orchestration.messages.control_client import ControlClient
from testbed.records.events import EventLog
from testbed.scenario.model import Scenario
from testbed.scenario.names import fdu_name
from testbed.scenario.types import RunPlan
from testbed.substrate.emulated_network import Host

READY_S = 10.0
"""How long a process may take until it answers."""
INSTANCE_PRIORITY = 5
"""Below the userspace switch (`substrate.switch_class`), which all others wait for."""
EDGE_PRIORITY = 10
FDU_PRIORITY = 15
TRAFFIC_PRIORITY = 12
SENDER_PRIORITY = 25
"""Above the line: a sender that waits for it is late, and what it does for a packet is short."""
STALLS_PRIORITY = 90
"""Above all others: what keeps it from running is the host."""


def fdu_sockets(folder: Path, members: int) -> list[dict[str, str]]:
    """Where each member of the FDU takes heartbeats, and orders."""
    return [
        {
            "heartbeat_socket": str(folder / f"heartbeats-{number}.sock"),
            "control_socket": str(folder / f"{fdu_name(number)}.sock"),
        }
        for number in range(members)
    ]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a run happens: its hosts, folders and the processes that serve it."""

    plan: RunPlan
    scenario: Scenario
    hosts: Mapping[str, Host]
    sockets: Path
    run_dir: Path
    spawner: Spawner
    controller: ControllerClient
    control: ControlClient
    fdu: FduClient
    events: EventLog
    server_cgroups: Mapping[int, Sequence[str]]
    realtime: bool
    datapath: Literal["kernel", "netdev"]

    @property
    def events_path(self) -> str:
        """The event log's file."""
        return str(self.run_dir / "events.jsonl")

    def socket(self, name: str) -> str:
        """The control socket of the process `name`."""
        return str(self.sockets / f"{name}.sock")

    def sign_of_life(self, name: str) -> str:
        """The named pipe that the process `name` holds open while it lives."""
        return str(self.sockets / f"{name}.alive")

    def fdu_sockets(self) -> list[dict[str, str]]:
        """Where each member of the FDU takes heartbeats, and orders."""
        return fdu_sockets(self.sockets, self.scenario.replication.fdu_members)

    def raw(self, name: str) -> str:
        """A file of raw records in the run's folder."""
        return str(self.run_dir / "raw" / name)

    def trace(self, name: str, node: int) -> dict[str, Any] | None:
        """Where the process `name` at `node` notes packets, in how many rows; None: it does not."""
        spec = self.scenario.trace
        if spec is None:
            return None
        return {"path": self.raw(f"trace-{name}.npy"), "rows": spec.rows, "node": node}

    def cpu_clock(self, node: int) -> str:
        """The file of the server clock of `node`."""
        return str(self.sockets / f"cpu-{node}")

    def priority(self, value: int) -> int | None:
        """A real-time priority where the host grants one."""
        return value if self.realtime else None
