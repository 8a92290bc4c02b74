"""The network is what the plan says, as the kernel and Open vSwitch see it, and goes wholly."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.substrate.commands import CommandError, json_of, run
from testbed.substrate.emulated_network import Network
from testbed.substrate.namespaces import inside
from testbed.substrate.ownership import has_record, is_alive
from testbed.substrate.processes import lives
from tests.support.substrate_support import (
    NO_CONTROLLER_PORT,
    VIRTUAL_MAC,
    add_rule,
    forget,
    frame,
    fresh_run_id,
    leftovers,
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


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    run_id = fresh_run_id()
    with make_network(
        row_of_three(delay_ns=1_000_000), run_id, tmp_path_factory.mktemp("net")
    ) as made:
        yield made
    forget(run_id)


def ask(column: str, table: str, record: str) -> str:
    return run(["ovs-vsctl", "get", table, record, column]).strip().strip('"')


def test_each_switch_is_a_marked_secure_openflow_13_bridge(network: Network) -> None:
    for node, bridge in enumerate(network.layout.bridges):
        assert int(ask("datapath_id", "Bridge", bridge), 16) == node + 1
        assert ask("protocols", "Bridge", bridge) == "[OpenFlow13]"
        assert ask("fail_mode", "Bridge", bridge) == "secure"
        assert network.layout.run_id in ask("external_ids", "Bridge", bridge)
        target = run(["ovs-vsctl", "get-controller", bridge]).strip()
        assert target == f"tcp:127.0.0.1:{NO_CONTROLLER_PORT}"


def test_the_wiring_names_the_ports_that_open_vswitch_uses(network: Network) -> None:
    for host in network.layout.hosts:
        assert int(ask("ofport", "Interface", host.switch_interface)) == host.switch_port
    for link in network.layout.links:
        assert int(ask("ofport", "Interface", link.a_interface)) == link.a_port
        assert int(ask("ofport", "Interface", link.b_interface)) == link.b_port
    assert network.wiring()["links"][1]["a"] == "s1"


def test_interfaces_in_the_root_namespace_carry_the_mark(network: Network) -> None:
    shown = {row["ifname"]: row for row in json_of(["ip", "-j", "-d", "link", "show"])}
    for name in network.layout.switch_interfaces:
        assert shown[name]["ifalias"] == f"deftbed:{network.layout.run_id}"
        assert shown[name]["mtu"] == 1500 and "UP" in shown[name]["flags"]


def test_hosts_have_namespaces_addresses_and_neighbours_of_their_own(network: Network) -> None:
    spaces = {os.readlink(f"/proc/{host.pid}/ns/net") for host in network.hosts.values()}
    assert len(spaces) == 6 and os.readlink("/proc/self/ns/net") not in spaces
    for host in network.hosts.values():
        with inside(host.pid):
            shown = {row["ifname"]: row for row in json_of(["ip", "-j", "address", "show"])}
            neighbours = json_of(["ip", "-j", "neigh", "show", "nud", "permanent"]) or []
        assert shown[host.interface]["address"] == host.mac
        assert "UP" in shown["lo"]["flags"] and "UP" in shown[host.interface]["flags"]
        addresses = [entry["local"] for entry in shown[host.interface]["addr_info"]]
        assert addresses == ([] if host.address is None else [host.address])
        others = {
            (other.address, other.mac)
            for other in network.hosts.values()
            if host.address and other.address and other is not host
        }
        assert {(entry["dst"], entry["lladdr"]) for entry in neighbours} == others


def test_no_interface_merges_packets_or_leaves_sums_to_the_hardware(network: Network) -> None:
    def on(interface: str) -> list[str]:
        names = ("rx-checksumming", "tx-checksumming", "tx-tcp-segmentation",
                 "tx-tcp6-segmentation", "generic-segmentation-offload",
                 "generic-receive-offload")  # fmt: skip
        lines = [line.strip() for line in run(["ethtool", "-k", interface]).splitlines()]
        assert {line.partition(":")[0] for line in lines} >= set(names)
        return [line for line in lines if line.startswith(names) and ": off" not in line]

    for name in network.layout.switch_interfaces:
        assert on(name) == [], name
    for host in network.hosts.values():
        with inside(host.pid):
            assert on(host.interface) == [], host.name


def test_nothing_is_forwarded_without_a_rule_and_with_one_it_is(network: Network) -> None:
    source, target = network.hosts["user-0"], network.hosts["server-2"]
    mac = "02:00:00:0a:00:00"
    with raw_socket(source) as sender, raw_socket(target, 0.3) as receiver:
        sender.send(frame(source, 0, 100, mac))
        assert receive_all(receiver) == []
        first, second = network.layout.links
        for node, port in ((0, first.a_port), (1, second.a_port), (2, target.switch_port)):
            add_rule(network, node, f"dl_dst={mac}", port)
        sender.send(frame(source, 1, 100, mac))
        assert [number for number, _, _ in receive_all(receiver)] == [1]


def test_servers_reach_each_other_by_address_over_the_links(network: Network) -> None:
    a, b = network.hosts["server-0"], network.hosts["server-1"]
    link = network.layout.links[0]
    for node, mac, port in (
        (0, b.mac, link.a_port), (1, b.mac, b.switch_port),
        (1, a.mac, link.b_port), (0, a.mac, a.switch_port),
    ):  # fmt: skip
        add_rule(network, node, f"dl_dst={mac}", port)
    with inside(a.pid):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inside(b.pid):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.bind((b.address, 5000))
        receiver.settimeout(2.0)
        sender.settimeout(2.0)
        sender.sendto(b"there", (b.address, 5000))
        data, back = receiver.recvfrom(100)
        receiver.sendto(data + b" and back", back)
        assert sender.recv(100) == b"there and back"


def test_a_server_that_is_down_receives_nothing(network: Network) -> None:
    source, target = network.hosts["user-2"], network.hosts["server-2"]
    add_rule(network, 2, f"in_port={source.switch_port},dl_dst={VIRTUAL_MAC}", target.switch_port)
    with raw_socket(source) as sender, raw_socket(target, 0.3) as receiver:
        sender.send(frame(source, 0, 100))
        assert len(receive_all(receiver)) == 1
        network.server_down(2)
        sender.send(frame(source, 1, 100))
        # The interface's going down is itself an error that the socket reports once.
        with pytest.raises(OSError, match="down"):
            receiver.recv(100)
        assert receive_all(receiver) == []


def test_removal_leaves_nothing(tmp_path: Path) -> None:
    run_id = fresh_run_id()
    with make_network(row_of_three(), run_id, tmp_path) as network:
        assert has_record(run_id) and is_alive(run_id)
        assert len([name for name in leftovers(run_id) if name.startswith(run_id)]) >= 13
        holders = [host.pid for host in network.hosts.values()]
    wait_for(lambda: leftovers(run_id) == [], f"left: {leftovers(run_id)}")
    assert not any(map(lives, holders))
    network.close()  # once more does no harm
    names = [
        json.loads(line)["event"] for line in (tmp_path / "events.jsonl").read_text().splitlines()
    ]
    assert names == ["network-build-begin", "switch-class", "network-built", "network-removed"]
    forget(run_id)


def test_interfaces_go_even_if_a_process_stays_in_a_hosts_namespace(tmp_path: Path) -> None:
    run_id = fresh_run_id()
    with (
        make_network(row_of_three(), run_id, tmp_path) as network,
        inside(network.hosts["server-1"].pid),
    ):
        guest = subprocess.Popen(["sleep", "600"])
    wait_for(lambda: leftovers(run_id) == [], f"left: {leftovers(run_id)}")
    assert guest.poll() is None
    guest.kill()
    guest.wait()
    forget(run_id)


def test_a_build_that_fails_removes_what_it_made_and_spares_what_was_there(tmp_path: Path) -> None:
    run_id = fresh_run_id()
    clash = f"{run_id}s2p1"
    run(["ip", "tuntap", "add", clash, "mode", "tap"])
    try:
        with (
            pytest.raises(CommandError, match="File exists"),
            make_network(row_of_three(), run_id, tmp_path),
        ):
            pytest.fail("built in spite of the clash")
        wait_for(lambda: leftovers(run_id) == [clash], f"left: {leftovers(run_id)}")
    finally:
        subprocess.run(["ip", "link", "delete", clash], check=True)
        forget(run_id)
