"""Probes go every way of a chain before its packets do, and nobody else is shown them."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.lab.lab import Lab, open_lab
from testbed.orchestration.deploying import chain, deploy, reconfigure, users
from testbed.orchestration.deploying.deploy import Chain
from testbed.orchestration.deploying.warm_ways import KeptWarm, Way, warm, ways_of
from testbed.orchestration.deploying.watchers import start_servers
from testbed.scenario.load import load_scenario
from testbed.scenario.names import GroupKey, edge_name, instance_name
from testbed.scenario.plan import make_plan
from testbed.scenario.types import Placement
from testbed.substrate.commands import run
from testbed.substrate.ownership import clean
from testbed.substrate.probe import choose, probe
from tests.support.places import SMOKE

pytestmark = pytest.mark.emulation

WAIT_S = 10.0
SEEN_BY_INSTANCES = ("received", "malformed", "foreign", "kernel_drops")
SEEN_BY_EDGES = ("malformed", "foreign", "kernel_drops")


@dataclass
class Deployed:
    """A chain of two functions on the smoke network; `folder` has its events."""

    lab: Lab
    chain: Chain
    run_id: str
    folder: Path

    def rules(self) -> list[str]:
        """The rules of chains on all switches, as Open vSwitch shows them."""
        lines = []
        for number in range(3):
            bridge = f"{self.run_id}s{number}"
            text = run(["ovs-ofctl", "-O", "OpenFlow13", "dump-flows", bridge, "--no-names"])
            lines += [f"{bridge} {line}" for line in text.splitlines() if "priority=100" in line]
        return lines

    def rules_without_frames(self) -> list[str]:
        """The rules of chains that no frame has met."""
        return [line for line in self.rules() if _frames(line) == 0]

    def frames_for(self, mac: str) -> int:
        """Frames for this address that rules have met, on all switches together."""
        return sum(_frames(line) for line in self.rules() if f"dl_dst={mac}" in line)

    def await_frames_everywhere(self) -> None:
        """The counters of rules follow those of the datapath after a while."""
        deadline = time.monotonic() + WAIT_S
        while cold := self.rules_without_frames():
            assert time.monotonic() < deadline, cold
            time.sleep(0.05)

    def seen(self) -> dict[str, int]:
        """What instances and edges have counted of frames that are none of a chain's packets."""
        counts: dict[str, int] = {}
        for key, members in self.chain.members.items():
            for number in members:
                name = instance_name(self.chain.request, key, number)
                stats = self.lab.site.control.call(self.lab.site.socket(name), "stats")
                counts |= {f"{name} {what}": stats[what] for what in SEEN_BY_INSTANCES}
        for node in (self.chain.request.source, self.chain.request.destination):
            stats = self.lab.site.control.call(self.lab.site.socket(edge_name(node)), "stats")
            counts |= {f"edge-{node} {what}": stats[what] for what in SEEN_BY_EDGES}
        return {name: count for name, count in counts.items() if count}

    def events(self, name: str) -> list[str]:
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        return [line for line in lines if json.loads(line)["event"] == name]


def _frames(rule: str) -> int:
    found = re.search(r"n_packets=(\d+)", rule)
    assert found is not None, rule
    return int(found[1])


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("probes")
    (folder / "raw").mkdir()
    scenario = load_scenario(SMOKE)
    plan = make_plan(scenario, 1)
    capabilities = probe()
    run_id = secrets.token_hex(3)
    realtime = capabilities.realtime.available
    try:
        with open_lab(scenario, plan, run_id, folder, choose(capabilities), realtime) as lab:
            start_servers(lab.site)
            users.start_edges(lab.site)
            placements = [Placement(0, 1), Placement(1, 2)]
            placed = deploy.deploy(lab.site, plan.requests[0], placements)
            yield Deployed(lab, placed, run_id, folder)
            deploy.remove(lab.site, placed)
    finally:
        clean(run_id)


def test_a_frame_has_met_every_rule_of_a_chain_before_its_traffic(deployed: Deployed) -> None:
    assert len(deployed.chain.ways) >= 12
    deployed.await_frames_everywhere()
    assert deployed.events("cold-ways") == []


def test_nobody_is_shown_a_probe(deployed: Deployed) -> None:
    deployed.await_frames_everywhere()
    assert deployed.seen() == {}


def test_so_has_one_the_rules_of_a_member_that_joins_later(deployed: Deployed) -> None:
    before = set(deployed.chain.ways)
    reconfigure.add_member(deployed.lab.site, deployed.chain, GroupKey(1), 0)
    assert deployed.chain.ways > before
    deployed.await_frames_everywhere()
    assert deployed.events("cold-ways") == []
    assert deployed.seen() == {}


def test_a_way_is_probed_anew_each_time(deployed: Deployed) -> None:
    """What came before says nothing about the way now."""
    (way,) = sorted(deployed.chain.ways)[:1]
    before = deployed.frames_for(way.mac)
    assert warm(deployed.lab.site, [way], 0) == set()
    deadline = time.monotonic() + WAIT_S
    while deployed.frames_for(way.mac) == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_way_that_no_rule_leads_is_found_cold(deployed: Deployed) -> None:
    site = deployed.lab.site
    way = Way("user-0", "02:00:77:77:00:00", "server-1")
    begun = time.monotonic()
    assert warm(site, [way], 0) == {way}
    assert time.monotonic() - begun < 2.0


def test_an_end_without_its_process_is_not_waited_for(deployed: Deployed) -> None:
    assert warm(deployed.lab.site, [Way("user-0", "02:00:77:77:00:00", "server-9")], 0) == set()


def test_ways_are_kept_warm_where_the_kernel_forwards(deployed: Deployed) -> None:
    """The word is what the site says; the probes themselves go through either datapath."""
    (way,) = sorted(deployed.chain.ways)[:1]
    before = deployed.frames_for(way.mac)
    kept = KeptWarm(dataclasses.replace(deployed.lab.site, datapath="kernel"))
    try:
        kept.keep([[way]])
        kept.keep([[way]])  # not before its time
    finally:
        kept.close()
    deadline = time.monotonic() + WAIT_S
    while deployed.frames_for(way.mac) == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert deployed.seen() == {}


def test_the_ways_of_segments_are_their_ends(deployed: Deployed) -> None:
    segments = chain.segments(deployed.chain.request, deployed.chain.members)
    assert deployed.chain.ways == ways_of(segments)
