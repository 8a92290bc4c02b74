"""The controller with Open vSwitch: real frames, updates, reconnection, the process's end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from controller.client import ControllerClient, ControllerError
from testbed.records.events import read_events
from testbed.scenario.steering import Segment, path_mac
from tests.support.controller_lab import (
    BOUND_S,
    NODES,
    Relay,
    Triangle,
    controller_process,
    free_port,
    send_while,
    steer,
    until,
)

pytestmark = pytest.mark.emulation
MAC = path_mac(2, 0, 0)


@dataclass
class Running:
    """A triangle whose switches are connected to a controller and have their host rules."""

    triangle: Triangle
    process: subprocess.Popen[bytes]
    client: ControllerClient
    folder: Path
    port: int

    def connected(self, node: int) -> bool:
        state = self.client.status()["switches"][f"s{node}"]
        return bool(state["connected"] and state["confirmed"])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    port = free_port()
    with Triangle() as triangle, controller_process(tmp_path, port) as process:
        triangle.point_at(port)
        with ControllerClient(tmp_path / "nb.sock") as client:
            client.topology(triangle.wiring)
            client.wait(BOUND_S)
            yield Running(triangle, process, client, tmp_path, port)


def test_frames_are_copied_to_two_hosts_once_each_and_to_no_other(running: Running) -> None:
    lab = running.triangle
    steer(running.client, MAC, 1, 2)
    texts = [str(number) for number in range(50)]
    with lab.host(0) as h0, lab.host(1) as h1, lab.host(2) as h2:
        for text in texts:
            h0.send(MAC, text)
        assert h1.collect("49") == texts
        assert h2.collect("49") == texts
        assert h0.pending() == h1.pending() == h2.pending() == []
    assert any("type=all" in group for group in lab.groups(1))
    trace = lab.trace(1, running.triangle.wiring.links[0].b_port, MAC)
    assert "group:1" in trace and "Datapath actions: drop" not in trace


def test_a_copy_for_the_sender_s_own_host_comes_back(running: Running) -> None:
    steer(running.client, MAC, 0, 2)
    with running.triangle.host(0) as h0, running.triangle.host(2) as h2:
        h0.send(MAC, "both")
        assert h0.collect("both") == h2.collect("both") == ["both"]
    steer(running.client, MAC, 0)
    with running.triangle.host(0) as h0:
        h0.send(MAC, "self")
        assert h0.collect("self") == ["self"]


def test_host_rules_lead_to_real_addresses_and_the_rest_is_dropped(running: Running) -> None:
    lab = running.triangle
    with lab.host(0) as h0, lab.host(1) as h1, lab.host(2) as h2:
        h0.send("ff:ff:ff:ff:ff:ff", "flood")
        h0.send("0a:00:00:00:99:99", "unknown")
        h0.send(lab.wiring.host("server-1").mac, "one")
        h0.send(lab.wiring.host("server-2").mac, "two")
        assert h1.collect("one") == ["one"]
        assert h2.collect("two") == ["two"]


def test_no_frame_is_lost_while_targets_move(running: Running) -> None:
    lab = running.triangle
    steer(running.client, MAC, 1)
    with lab.host(1) as h1, lab.host(2) as h2:

        def move() -> None:
            for _ in range(15):
                for targets in ((2,), (1, 2), (1,)):
                    steer(running.client, MAC, *targets)

        sent = send_while(lab, MAC, move)
        steer(running.client, MAC, 1, 2)
        at_1: list[str] = []
        at_2: list[str] = []

        def ended() -> bool:
            # Cached actions may outlive the answer for a moment: then only host 1 gets the frame.
            h0.send(MAC, "end")
            at_1.extend(h1.pending())
            at_2.extend(h2.pending())
            return "end" in at_1 and "end" in at_2

        with lab.host(0) as h0:
            until(ended, "the last frame at both hosts")
    at_1, at_2 = ([text for text in texts if text != "end"] for texts in (at_1, at_2))
    assert {*at_1, *at_2} == {str(number) for number in range(sent)}
    for texts in (at_1, at_2):
        assert len(texts) == len(set(texts))  # never two copies
    assert len(at_1) < sent and len(at_2) < sent


def test_after_an_update_only_new_targets_are_served(running: Running) -> None:
    lab = running.triangle
    with lab.host(0) as h0, lab.host(1) as h1, lab.host(2) as h2:
        steer(running.client, MAC, 1)
        h0.send(MAC, "first")
        assert h1.collect("first") == ["first"]
        steer(running.client, MAC, 2)

        def moved() -> bool:
            # Cached actions may outlive the answer for a moment: then host 1 gets a frame more.
            h0.send(MAC, "more")
            return "more" in h2.pending() and not h1.pending()

        until(moved, "frames for host 2 alone")
        h0.send(MAC, "last")
        assert "last" in h2.collect("last")
        assert h1.pending() == []


def test_removed_and_swept_rules_are_gone(running: Running) -> None:
    lab = running.triangle
    steer(running.client, MAC, 1, 2)
    steer(running.client, MAC, 1)
    until(lambda: not any(MAC in flow for flow in lab.flows(2)), "the sweep")
    assert any(MAC in flow for flow in lab.flows(1))
    running.client.remove("r0")
    for node in range(NODES):
        assert not any(MAC in flow for flow in lab.flows(node))
        assert lab.groups(node) == []


def test_rules_come_back_when_a_switch_comes_back(running: Running) -> None:
    lab = running.triangle
    steer(running.client, MAC, 1, 2)
    before = [(lab.flows(node), lab.groups(node)) for node in range(NODES)]
    lab.disconnect(1)
    until(lambda: not running.connected(1), "the controller sees the switch go")
    assert lab.flows(1) == []
    lab.connect(1, running.port)
    until(lambda: running.connected(1), "the switch comes back")
    assert [(lab.flows(node), lab.groups(node)) for node in range(NODES)] == before
    with lab.host(0) as h0, lab.host(1) as h1, lab.host(2) as h2:
        h0.send(MAC, "again")
        assert h1.collect("again") == h2.collect("again") == ["again"]


def test_no_frame_is_lost_when_control_connections_break(running: Running) -> None:
    lab = running.triangle
    relay = Relay(running.port)
    try:
        lab.point_at(relay.port)
        until(lambda: all(map(running.connected, range(NODES))), "switches by the relay")
        steer(running.client, MAC, 1, 2)
        with lab.host(1) as h1, lab.host(2) as h2:
            count = len(_connections(running))

            def cut() -> None:
                relay.cut()
                until(lambda: len(_connections(running)) == count + NODES, "new connections")
                until(lambda: all(map(running.connected, range(NODES))), "rules again")

            sent = send_while(lab, MAC, cut)
            with lab.host(0) as h0:
                h0.send(MAC, "end")
            expected = [*(str(number) for number in range(sent)), "end"]
            assert h1.collect("end") == h2.collect("end") == expected
        for node in range(NODES):
            # It saw the connection end before the switch was back, not by a late echo.
            assert _connection_events(running, node)[-2:] == [
                "switch-disconnected",
                "switch-connected",
            ]
    finally:
        relay.close()


def _connections(running: Running) -> list[object]:
    events = read_events(running.folder / "events.jsonl")
    return [e for e in events if e["event"] == "switch-connected"]


def _connection_events(running: Running, node: int) -> list[str]:
    events = read_events(running.folder / "events.jsonl")
    return [
        str(event["event"])
        for event in events
        if event["event"].startswith("switch-") and event["switch"] == f"s{node}"
    ]


def test_a_new_controller_removes_what_the_old_one_left(running: Running, tmp_path: Path) -> None:
    lab = running.triangle
    clean = [lab.flows(node) for node in range(NODES)]
    steer(running.client, MAC, 1, 2)
    running.process.terminate()
    assert running.process.wait(BOUND_S) == 0
    assert any(MAC in flow for flow in lab.flows(1))
    with controller_process(tmp_path, running.port):
        with ControllerClient(tmp_path / "nb.sock") as client:
            client.topology(lab.wiring)
            client.wait(BOUND_S)
        assert [lab.flows(node) for node in range(NODES)] == clean
        assert all(lab.groups(node) == [] for node in range(NODES))


def test_what_a_switch_refuses_fails_the_install(running: Running) -> None:
    lab = running.triangle
    # Open vSwitch has port numbers of 16 bits only, OpenFlow 1.3 of 32.
    hosts = tuple(
        replace(host, port=70_000) if host.name == "user-2" else host for host in lab.wiring.hosts
    )
    running.client.topology(replace(lab.wiring, hosts=hosts))
    with pytest.raises(ControllerError, match=r"switch s2: OpenFlow error OFPET_BAD_ACTION"):
        running.client.wait(BOUND_S)
    with pytest.raises(ControllerError, match=r"install: switch s2: OpenFlow error OFPET_BAD_"):
        running.client.install("r1", [Segment(MAC, "server-0", ("user-2",))])
    assert running.client.status()["chains"] == {}
    assert not any(MAC in flow for node in range(NODES) for flow in lab.flows(node))


def test_sigterm_ends_the_process_with_switches_connected(running: Running) -> None:
    assert all(map(running.connected, range(NODES)))
    running.process.terminate()
    assert running.process.wait(BOUND_S) == 0


def test_it_listens_on_the_loopback_address_only(running: Running) -> None:
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [
        row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{running.port:04X}")
    ]
    assert listening == [f"0100007F:{running.port:04X}"]
