"""A link has the delay, rate and queue that it was asked to have, and counts what it drops.

Bounds: no frame is early; the median is late by less than 2 ms, two switch hops on a loaded
machine included; the rate is kept within -2 % and +20 % of the time that it asks for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.records.fidelity_checks import link_reasons
from testbed.scenario.impairments import Impairments
from testbed.scenario.link_plan import SURELY_CARRIED_BPS
from testbed.scenario.model import ToleranceSpec
from testbed.scenario.types import LinkChange, RunPlan
from testbed.substrate.emulated_network import Network
from testbed.substrate.greatest_rate import measure_greatest_rate
from testbed.substrate.links.line import DirectionCounters
from testbed.substrate.measure_links import measure_links
from testbed.substrate.ownership import processes_of
from testbed.substrate.probe import choose, probe
from testbed.substrate.processes import command_of, lives
from tests.support.substrate_support import (
    VIRTUAL_MAC,
    add_rule,
    forget,
    frame,
    fresh_run_id,
    make_network,
    raw_socket,
    receive_all,
    row_of_three,
    wait_for,
)

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
LATE_NS = 2_000_000
Build = Callable[[RunPlan], Network]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Builds a network whose switch 0 sends the virtual MAC over link 0 to server 1."""
    run_id = fresh_run_id()
    made: list[Network] = []

    def make(plan: RunPlan) -> Network:
        network = make_network(plan, run_id, tmp_path)
        made.append(network)
        network.build()
        link = network.layout.links[0]
        add_rule(network, 0, f"dl_dst={VIRTUAL_MAC}", link.a_port)
        add_rule(network, 1, f"dl_dst={VIRTUAL_MAC}", network.hosts["server-1"].switch_port)
        return network

    yield make
    for network in made:
        network.close()
    forget(run_id)


def send(network: Network, count: int, l2_bytes: int, gap_s: float) -> list[tuple[int, int, int]]:
    """Send frames from server 0; what arrived at server 1 as (number, made_ns, received_ns)."""
    source = network.hosts["server-0"]
    with raw_socket(source) as sender, raw_socket(network.hosts["server-1"]) as receiver:
        # The first frame makes the switches compute the flow's path; it is not measured.
        sender.send(frame(source, -1, l2_bytes))
        receiver.recv(4096)
        for number in range(count):
            sender.send(frame(source, number, l2_bytes))
            time.sleep(gap_s)
        return receive_all(receiver)


def test_frames_are_late_by_the_delay_and_never_early(build: Build) -> None:
    asked_ns = 5_000_000 + 200 * 80  # and 200 bytes at 100 Mb/s
    arrived = send(build(row_of_three(delay_ns=5_000_000)), 300, 200, 0.003)
    assert [number for number, _, _ in arrived] == list(range(300))
    delays_ns = [received_ns - made_ns for _, made_ns, received_ns in arrived]
    assert min(delays_ns) >= asked_ns - 5_000
    assert statistics.median(delays_ns) <= asked_ns + LATE_NS


def test_a_burst_leaves_at_the_rate(build: Build) -> None:
    arrived = send(build(row_of_three(rate_bps=10_000_000)), 200, 1000, 0.0)
    assert [number for number, _, _ in arrived] == list(range(200))
    asked_ns = 199 * 800_000
    spent_ns = arrived[-1][2] - arrived[0][2]
    assert 0.98 * asked_ns <= spent_ns <= 1.2 * asked_ns


def test_what_does_not_fit_the_queue_is_dropped_and_counted(build: Build) -> None:
    if choose(probe()).link != "userspace":
        pytest.skip("netem counts its queue in packets")
    network = build(row_of_three(rate_bps=1_000_000, queue_bytes=20_000))
    arrived = send(network, 100, 1000, 0.0)
    network.close()  # the last counters are written at the end
    counters = network.line_counters()
    assert counters is not None
    forth, back, *others = counters.directions
    assert (forth.name, back.name) == ("s0>s1#0", "s1>s0#0")
    # 20 frames fit; a frame leaves each 8 ms, so few more find room while the burst comes in.
    assert 20 <= len(arrived) <= 30
    assert [number for number, _, _ in arrived[:20]] == list(range(20))
    assert forth.drops == 100 - len(arrived)
    assert forth.frames == len(arrived) + 1
    assert forth.l2_bytes == 1000 * forth.frames
    assert all(other.frames == other.drops == 0 for other in (back, *others))
    assert counters.kernel_drops == counters.errors == counters.strange == 0


def test_counters_survive_a_kill_and_the_network_can_still_be_removed(build: Build) -> None:
    network = build(row_of_three())
    if network.line_counters() is None:
        pytest.skip("netem has no process")
    assert len(send(network, 50, 200, 0.0)) == 50
    run_id = network.layout.run_id
    line = [
        pid for pid in processes_of(run_id) if "testbed.substrate.links.line" in command_of(pid)
    ]
    assert len(line) == 1
    os.kill(line[0], signal.SIGKILL)
    wait_for(lambda: not lives(line[0]), "the line is still there")
    counters = network.line_counters()
    assert counters is not None and counters.frames == 51
    assert counters.lag_max_ns >= counters.directions[0].lag_max_ns > 0
    assert 0 < counters.lag_p50_ns <= counters.lag_p99_ns


def changing(*changes: LinkChange, **impairments: float) -> RunPlan:
    """The row of three, its first link impaired, and changes of it."""
    plan = row_of_three(delay_ns=2_000_000)
    first, second = plan.topology.links
    first = dataclasses.replace(first, impairments=Impairments(**impairments))  # type: ignore[arg-type]
    topology = dataclasses.replace(plan.topology, links=(first, second))
    return dataclasses.replace(plan, topology=topology, link_changes=changes)


def carried(network: Network, count: int) -> set[int]:
    """Numbers of the frames that arrive, of `count` that are sent from now on."""
    source = network.hosts["server-0"]
    with raw_socket(source) as sender, raw_socket(network.hosts["server-1"], 0.5) as receiver:
        for number in range(count):
            sender.send(frame(source, number, 100))
            time.sleep(0.0005)
        return {number for number, _, _ in receive_all(receiver)}


def test_the_same_frames_are_lost_each_time_the_run_begins(build: Build) -> None:
    if choose(probe()).link != "userspace":
        pytest.skip("netem is not seeded")
    network = build(changing(loss=0.3))
    network.begin(time.monotonic_ns())
    first = carried(network, 100)
    network.begin(time.monotonic_ns())
    assert carried(network, 100) == first
    assert 40 < len(first) < 95


def test_a_link_degrades_fails_and_comes_back_on_schedule(build: Build, tmp_path: Path) -> None:
    if choose(probe()).link != "userspace":
        pytest.skip("counts what the line counts")
    link = row_of_three(delay_ns=2_000_000).topology.links[0]
    lossy = dataclasses.replace(link, impairments=Impairments(loss=1.0))
    ms = 1_000_000
    network = build(
        changing(
            LinkChange(0, 0, lossy, True),
            LinkChange(300 * ms, 0, lossy, False),
            LinkChange(600 * ms, 0, link, True),
        )
    )
    origin_ns = time.monotonic_ns()
    network.begin(origin_ns)
    assert carried(network, 20) == set()

    def forth() -> DirectionCounters:
        counters = network.line_counters()
        assert counters is not None
        return counters.directions[0]

    assert forth().lost == 20

    def states() -> list[str]:
        lines = (tmp_path / "events.jsonl").read_text().splitlines()
        events = (json.loads(line)["event"] for line in lines)
        return [event for event in events if event in ("link-down", "link-up")]

    wait_for(lambda: states() == ["link-down", "link-up"], "the link was not cut and mended")
    wait_for(lambda: time.monotonic_ns() > origin_ns + 650 * ms, "the change is not due")
    assert carried(network, 20) == set(range(20))
    assert network.failed_changes() == []


def test_links_are_measured_as_they_are(build: Build) -> None:
    plan = changing(loss=0.25)
    network = build(plan)
    tolerances = ToleranceSpec(link_delay_s=0.005, link_rate_share=0.5)
    directions = network.directions()
    figures = measure_links(directions, tolerances)
    assert [each.name for each in figures] == [each.name for each in directions]
    assert [reason for each in figures for reason in link_reasons(each, tolerances, 4)] == []
    assert figures[0].lost > 10 and figures[2].lost == 0
    # Asked for another delay and rate than the link has: told so.
    wrong = dataclasses.replace(
        directions[2],
        link=dataclasses.replace(directions[2].link, delay_ns=30_000_000, rate_bps=400_000_000),
    )
    (other,) = measure_links([wrong], tolerances)
    reasons = link_reasons(other, tolerances, 1)
    assert [reason.split(": ")[1].split()[0] for reason in reasons] == ["delay", "rate"]


def test_slow_links_and_short_queues_are_measured_within_what_they_carry(build: Build) -> None:
    plan = row_of_three()
    slow, short = plan.topology.links
    links = (
        dataclasses.replace(slow, rate_bps=10_000),
        dataclasses.replace(short, rate_bps=200_000, queue_bytes=3_000),
    )
    topology = dataclasses.replace(plan.topology, links=links)
    network = build(dataclasses.replace(plan, topology=topology))
    directions = network.directions()
    figures = measure_links(directions, ToleranceSpec())
    assert [r for each in figures for r in link_reasons(each, ToleranceSpec(), 4)] == []
    assert {each.asked_rate_bps for each in figures if each.rate_bps} == {10_000, 200_000}


def test_what_links_carry_here_is_found_by_the_gate_itself() -> None:
    backends = choose(probe())
    found = measure_greatest_rate(backends, ToleranceSpec(link_rate_share=0.2))
    assert found is not None and found.backend == backends.link
    assert found.carried_bps >= SURELY_CARRIED_BPS
    assert found.failed_bps is None or found.failed_bps > found.carried_bps
