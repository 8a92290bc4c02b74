"""The back ends of a scenario on this host."""

from __future__ import annotations

from testbed.scenario.link_plan import link_changes
from testbed.scenario.model import Scenario
from testbed.scenario.topology import make_topology
from testbed.substrate.netem import lacking
from testbed.substrate.probe import Backends, Capabilities, choose


def backends_for(capabilities: Capabilities, scenario: Scenario) -> Backends:
    """What carries a scenario's runs here; CapabilityError if this host cannot."""
    topology = make_topology(scenario)
    changes = link_changes(topology, scenario.links)
    links = [*topology.links, *(change.link for change in changes)]
    return choose(capabilities, scenario.links.backend, lacking(links))
