"""The fidelity gate: are links and servers what the scenario asks for, before traffic flows?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from testbed.lab.lab import Lab
from testbed.scenario.model import Scenario
from testbed.scenario.types import RunPlan
from testbed.substrate.measure_links import measure_links
from testbed.substrate.measure_servers import measure_servers


def measure(lab: Lab, scenario: Scenario, plan: RunPlan) -> dict[str, Any]:
    """The figures of every link and of every server that has a quota, for the manifest.

    {"links": [...], "servers": [...]} (`testbed.records.fidelity_checks` judges them). With
    service times in place of quotas a server's speed is what its clock says; what the host has
    to give is watched while traffic flows. Raises OSError.
    """
    directions = lab.network.directions()
    links = measure_links(directions, scenario.tolerances) if directions else []
    servers = []
    if scenario.servers.capacity_model == "quota":
        cores = {server.node: server.cpu_cores for server in plan.servers}
        servers = measure_servers(lab.cgroups, cores)
    lab.site.events.write("links-measured", links=len(links), servers=len(servers))
    return {
        "links": [asdict(figures) for figures in links],
        "servers": [asdict(figures) for figures in servers],
    }
