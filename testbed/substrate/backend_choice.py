"""The back ends of a scenario on this host: the one way in which every command chooses them."""

from __future__ import annotations

from testbed.scenario.link_plan import link_changes
from testbed.scenario.model import Scenario
from testbed.scenario.topology import make_topology
from testbed.substrate.links.netem import lacking
from testbed.substrate.probe import Backends, Capabilities, choose, probe


def able_host(scenario: Scenario) -> tuple[Capabilities, Backends]:
    """What this host can do, and what carries the scenario's runs here.

    Raises CapabilityError, saying all that is missing, if the host cannot run the scenario.
    """
    capabilities = probe()
    return capabilities, backends_for(capabilities, scenario)


def backends_for(capabilities: Capabilities, scenario: Scenario) -> Backends:
    """What carries a scenario's runs on a host; CapabilityError if that cannot."""
    topology = make_topology(scenario)
    changes = link_changes(topology, scenario.links)
    links = [*topology.links, *(change.link for change in changes)]
    return choose(capabilities, scenario.links.backend, lacking(links))
