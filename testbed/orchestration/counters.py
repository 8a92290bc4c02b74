"""Asks the instances of a run for what they have counted."""

from __future__ import annotations

from typing import Any

from testbed.orchestration import chain
from testbed.orchestration.control import ControlError
from testbed.orchestration.deployments import Deployments
from testbed.orchestration.fdu_client import is_there
from testbed.orchestration.loads import Counted
from testbed.orchestration.site import Site

ASK_S = 0.1
"""An instance that does not answer for so long is left out of a period."""


def count(deployments: Deployments) -> dict[str, Counted]:
    """What every living instance has counted, by name."""
    site = deployments.site
    found = {}
    for request, deployed in deployments.chains.items():
        for key, members in deployed.members.items():
            profile = site.plan.profiles[deployed.request.functions[key.hop]]
            for number, node in members.items():
                name = chain.instance_name(deployed.request, key, number)
                stats = _stats(site, name)
                if stats is None:
                    continue
                leads = stats["role"] == "primary"
                cost_ns = profile.service_ns if leads else profile.backup_service_ns
                found[name] = Counted(node, request, key, leads, int(stats["received"]), cost_ns)
    return found


def capacity(site: Site) -> dict[int, float]:
    """The speed of each server in reference cores."""
    return {server.node: server.cpu_cores for server in site.plan.servers}


def _stats(site: Site, name: str) -> dict[str, Any] | None:
    socket = site.socket(name)
    if not is_there(socket):  # not asked in vain: the run would wait as long
        return None
    try:
        return site.control.call(socket, "stats", ASK_S)
    except ControlError:
        return None
