"""Two real instances, real frames: replication keeps the copies equal, promotion loses nothing."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from testbed.records.events import read_events
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.cpu import ServerCpu
from testbed.vnf.dataplane.socket import FRAME_BYTES, FrameSocket
from testbed.vnf.dataplane.stamp import Stamp
from testbed.vnf.edge.stamper import DuplicateFilter
from tests.support.dataplane_lab import INTERFACE, Lab, until

pytestmark = pytest.mark.emulation

PATH, REVERSE, HOP = 2, 3, 1
FLOWS = 5
FRAMES = 2000
SPACING_S = 0.002
ADDRESSES = ("10.78.0.1", "10.78.0.2", "10.78.0.3")
LEASE_NS = 200_000_000
CONFIGS: dict[str, dict[str, Any]] = {"fw": {}, "nat": {"public_address": "100.64.0.1"}}


def udp_packet(flow: int, seq: int) -> bytes:
    """A UDP packet that carries which input it is."""
    payload = struct.pack("!II", flow, seq) + bytes(72)
    udp = struct.pack("!HHHH", 20000 + flow, 5001, 8 + len(payload), 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), seq & 0xFFFF, 0, 64, 17, 0)
    addresses = bytes([10, 77, 0, 1, 10, 77, 0, 2])
    total = sum(struct.unpack("!10H", head + addresses))
    total = 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))
    return head[:10] + total.to_bytes(2, "big") + addresses + udp + payload


def input_of(packet: bytes) -> tuple[int, int]:
    """(flow, seq) that `udp_packet` wrote."""
    flow, seq = struct.unpack_from("!II", packet, 28)
    return flow, seq


@dataclass
class Driver:
    """Sends stamped inputs and collects what the group emits."""

    frames: FrameSocket
    mac: bytes
    sent: int = 0
    emitted: list[nsh.Frame] = field(default_factory=list)

    def send(self, count: int, spacing_s: float = SPACING_S) -> None:
        """Send the next `count` inputs, round the flows, on schedule."""
        prefix = nsh.header_prefix(PATH, HOP, 0, self.mac)
        begin = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begin + number * spacing_s - time.monotonic()))
            flow, seq = self.sent % FLOWS, self.sent // FLOWS
            packet = udp_packet(flow, seq)
            self.frames.send(nsh.encode(prefix, Stamp(PATH, flow, flow, 0, seq), packet))
            self.sent += 1
            self.collect()

    def collect(self) -> None:
        """Take what has been emitted."""
        while True:
            try:
                data = self.frames.recv(FRAME_BYTES)
            except BlockingIOError:
                return
            frame = nsh.decode(data)
            assert frame is not None
            self.emitted.append(frame)

    def await_inputs(self) -> None:
        """Wait until every input sent has come out at least once."""

        def complete() -> bool:
            self.collect()
            return len({input_of(frame.packet) for frame in self.emitted}) >= self.sent

        until(complete, "all inputs emitted")

    def await_outputs(self, count: int) -> None:
        """Wait until `count` frames have come out."""

        def complete() -> bool:
            self.collect()
            return len(self.emitted) >= count

        until(complete, f"{count} frames emitted")

    def accepted(self) -> list[nsh.Frame]:
        """What a receiver takes of what was emitted: each stamp once."""
        seen = DuplicateFilter()
        return [frame for frame in self.emitted if seen.first_time(frame.stamp) is not None]

    def assert_complete_and_ordered(self) -> None:
        """Every input came out once and in the order of its flow."""
        taken = [input_of(frame.packet) for frame in self.accepted()]
        for flow in range(FLOWS):
            numbers = [seq for of, seq in taken if of == flow]
            assert numbers == list(range(self.sent // FLOWS))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as made:
        yield made


def configuration(epoch: int, primary: int, backups: list[int], **more: Any) -> dict[str, Any]:
    """What the FDU would say of the group."""
    members = {m: {"address": ADDRESSES[m], "port": 7000 + m} for m in range(len(ADDRESSES))}
    said = {"epoch": epoch, "primary": primary, "backups": backups, "learners": []}
    return {**said, "confirmed": True, "members": members, **more}


def start_group(
    lab: Lab,
    function: str,
    mode: str = "pipelined",
    cpus: list[dict[str, Any]] | None = None,
    retransmit_ns: int = 50_000_000,
    fdu: list[dict[str, str]] | None = None,
    **replication: Any,
) -> Driver:
    macs = [lab.host(f"server{m}", address) for m, address in enumerate(ADDRESSES)]
    mac = lab.host("driver")
    for member in range(len(ADDRESSES)):
        config = {
            **lab.common(f"m{member}"),
            "group": "r0-h1",
            "member": member,
            "function": function,
            "function_config": CONFIGS[function],
            "mac": macs[member],
            "paths": {
                "forward": {"path": PATH, "hop": HOP},
                "reverse": {"path": REVERSE, "hop": HOP},
            },
            "replication": {
                "mode": mode,
                "batch_packets": 8,
                "batch_ns": 0,
                "gap_timeout_ns": 200_000_000,
                "retransmit_ns": retransmit_ns,
                "lease_ns": LEASE_NS,
                "buffer_packets": 4096,
                **replication,
            },
            "address": ADDRESSES[member],
            "port": 7000 + member,
            "cpu": cpus[member] if cpus is not None else None,
            "fdu": fdu or [],
            "heartbeat_ns": 20_000_000,
            "rx_frames": 1024,
            "tx_frames": 256,
            "core": None,
            # The third member waits to be asked in.
            "configuration": configuration(1, 0, [1]) if member < 2 else None,
        }
        lab.start(f"server{member}", "testbed.vnf.process.runtime", config)
    with lab.inside("driver"):
        frames = FrameSocket(INTERFACE, [(PATH, HOP + 1)])
    return Driver(frames, nsh.mac_bytes(mac))


def configure(lab: Lab, members: list[int], *said: Any, **more: Any) -> None:
    """Give members a configuration."""
    for member in members:
        lab.order(f"m{member}", "configure", **configuration(*said, **more))


def server_clocks(folder: Path, service_ns: int) -> list[dict[str, Any]]:
    clocks = []
    for member in range(len(ADDRESSES)):
        path = folder / f"cpu-{member}"
        ServerCpu.create(path, 2.0, 50_000_000).close()
        costs = {"service_ns": service_ns, "backup_service_ns": service_ns // 4}
        clocks.append({"path": str(path), **costs})
    return clocks


@pytest.mark.parametrize("function", ["fw", "nat"])
@pytest.mark.parametrize("emulated_cpu", [False, True])
def test_every_input_is_emitted_once_in_order_and_the_states_agree(
    lab: Lab, function: str, emulated_cpu: bool
) -> None:
    cpus = server_clocks(lab.folder, 600_000) if emulated_cpu else None
    driver = start_group(lab, function, cpus=cpus)
    driver.send(FRAMES)
    driver.await_inputs()

    def settled() -> bool:
        primary, backup = lab.order("m0", "stats"), lab.order("m1", "stats")
        return (primary["unacknowledged"], backup["log_index"], backup["received"]) == (
            0,
            FRAMES,
            FRAMES,
        )

    until(settled, "log acknowledged")
    costs_us = [round(lab.cpu_s(f"m{m}") / FRAMES * 1e6) for m in range(2)]
    print(f"{function}, emulated CPU {emulated_cpu}: us a packet (with start) {costs_us}")
    primary, backup = lab.end("m0"), lab.end("m1")
    assert len(driver.emitted) == FRAMES
    driver.assert_complete_and_ordered()
    assert {frame.member for frame in driver.emitted} == {0}
    assert {frame.hop for frame in driver.emitted} == {HOP + 1}
    assert primary["state"] != []
    assert primary["state_sha256"] == backup["state_sha256"]
    assert primary["state"] == backup["state"]
    assert primary["marks"] == backup["marks"]
    assert primary["log_index"] == backup["log_index"] == FRAMES
    counters = primary["counters"]
    assert counters["received"] == counters["handed"] == counters["emitted"] == FRAMES
    assert counters["processed"] == FRAMES
    assert backup["counters"]["processed"] == backup["counters"]["emitted"] == 0


@pytest.mark.parametrize("mode", ["pipelined", "deft"])
@pytest.mark.parametrize("emulated_cpu", [False, True])
def test_a_promoted_backup_loses_nothing_and_keeps_the_order(
    lab: Lab, mode: str, emulated_cpu: bool
) -> None:
    cpus = server_clocks(lab.folder, 600_000) if emulated_cpu else None
    driver = start_group(lab, "nat", mode, cpus, availability=True)
    driver.send(500)
    lab.kill("m0")
    driver.send(100)  # nobody is the primary now
    configure(lab, [1], 2, 1, [])
    configure(lab, [1], 2, 1, [])  # said again, as every member of the FDU does
    driver.send(400)
    driver.await_inputs()
    driver.assert_complete_and_ordered()
    assert {frame.member for frame in driver.emitted} == {0, 1}
    stats = lab.order("m1", "stats")
    assert stats["role"] == "primary" and not stats["protected"]
    assert stats["received"] == driver.sent
    events = list(read_events(lab.folder / "events.jsonl"))
    assert [event["event"] for event in events] == ["promoted", "first-release"]
    assert events[0]["replayed"] >= 0


def test_a_primary_that_lost_its_backup_holds_its_output_until_a_new_one_has_caught_up(
    lab: Lab,
) -> None:
    driver = start_group(lab, "fw")
    driver.send(20)
    driver.await_inputs()
    lab.kill("m1")
    driver.send(30)
    until(lambda: lab.order("m0", "stats")["log_index"] == 50, "inputs in the log")
    configure(lab, [0], 2, 0, [])
    driver.send(10)
    until(lambda: lab.order("m0", "stats")["log_index"] == 60, "inputs in the log")
    driver.collect()
    assert len(driver.emitted) == 20
    # A new backup joins: it takes a snapshot, then follows the log, and outputs go out again.
    configure(lab, [0, 2], 3, 0, [], learners=[2])
    driver.await_inputs()
    until(lambda: lab.order("m0", "stats")["required"] == [2], "the learner has caught up")
    configure(lab, [0, 2], 4, 0, [2])
    driver.send(40)
    driver.await_inputs()
    driver.assert_complete_and_ordered()
    until(lambda: lab.order("m2", "stats")["log_index"] == 100, "log applied")
    primary, backup = lab.end("m0"), lab.end("m2")
    assert primary["state"] == backup["state"] != []
    assert primary["marks"] == backup["marks"]


def test_without_a_backup_a_group_for_availability_goes_on(lab: Lab) -> None:
    driver = start_group(lab, "fw", availability=True)
    lab.kill("m1")
    driver.send(50)
    until(lambda: lab.order("m0", "stats")["log_index"] == 50, "inputs in the log")
    driver.collect()
    assert driver.emitted == []  # nobody said yet that the backup is gone
    configure(lab, [0], 2, 0, [])
    driver.send(50)
    driver.await_inputs()
    assert len(driver.emitted) == 100
    driver.assert_complete_and_ordered()


def test_a_move_loses_nothing_and_keeps_the_order(lab: Lab) -> None:
    driver = start_group(lab, "nat")
    driver.send(200)
    configure(lab, [0, 1, 2], 2, 0, [1], learners=[2])
    driver.send(100)
    until(lambda: 2 in lab.order("m0", "stats")["required"], "the learner has caught up")
    configure(lab, [0, 1, 2], 3, 0, [1, 2])
    driver.send(100)
    lab.order("m0", "drain", on=True)
    driver.send(20)
    until(lambda: lab.order("m0", "stats")["drained"], "drained")
    configure(lab, [0, 1, 2], 4, 2, [1])
    driver.send(180)
    driver.await_inputs()
    driver.assert_complete_and_ordered()
    assert lab.order("m0", "stats")["role"] == "out"
    assert lab.order("m2", "stats")["declared_lost"] == 0
    assert {frame.member for frame in driver.emitted} == {0, 2}


def test_a_primary_that_slept_past_its_lease_finds_itself_fenced(lab: Lab) -> None:
    driver = start_group(lab, "nat", availability=True)
    driver.send(100)
    driver.await_inputs()
    lab.stop("m0")
    driver.send(50)  # these are in its ring when it wakes up
    configure(lab, [1], 2, 1, [], confirmed=False)
    driver.await_inputs()
    before = len(driver.emitted)
    lab.resume("m0")
    # It hears of the new epoch from the backup that it sends its log to.
    until(lambda: lab.order("m0", "stats")["received"] == 150, "it is awake")
    driver.send(50)
    driver.await_inputs()
    driver.assert_complete_and_ordered()
    assert {frame.member for frame in driver.emitted[before:]} == {1}
    zombie = lab.order("m0", "stats")
    assert zombie["emitted"] == 100
    configure(lab, [0], 2, 1, [])
    assert lab.order("m0", "stats")["role"] == "out"


def test_a_packet_that_is_lost_on_the_way_does_not_stop_its_flow(lab: Lab) -> None:
    driver = start_group(lab, "fw")
    prefix = nsh.header_prefix(PATH, HOP, 0, driver.mac)
    for seq in (0, 1, 3, 4):
        driver.frames.send(nsh.encode(prefix, Stamp(PATH, 0, 0, 0, seq), udp_packet(0, seq)))
    driver.await_outputs(4)
    assert [input_of(frame.packet)[1] for frame in driver.emitted] == [0, 1, 3, 4]
    assert [frame.stamp.seq for frame in driver.emitted] == [0, 1, 2, 3]
    assert lab.order("m0", "stats")["dropped"] == {"gap": 1}


def test_a_batch_that_is_not_full_goes_when_the_input_runs_empty(lab: Lab) -> None:
    # Without retransmissions within the test, nothing else would ever send it.
    driver = start_group(lab, "fw", retransmit_ns=3_600_000_000_000)
    for _ in range(3):
        driver.send(1)
        driver.await_inputs()


def test_heartbeats_carry_name_epoch_and_time(lab: Lab) -> None:
    path = lab.folder / "heartbeats"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unit:
        unit.bind(str(path))
        unit.settimeout(20)
        start_group(lab, "fw", fdu=[{"heartbeat_socket": str(path), "control_socket": str(path)}])
        times: dict[str, list[int]] = {"m0": [], "m1": []}
        while min(map(len, times.values())) < 5:
            name, epoch, sent_ns = unit.recv(100).split(b" ")
            if name == b"m2":
                continue
            assert epoch == b"1"
            times[name.decode()].append(int(sent_ns))
        now_ns = time.monotonic_ns()
    for sent in times.values():
        assert sent == sorted(sent) and len(set(sent)) == len(sent)
        assert sent[-1] < now_ns
    # With nobody to hear them, the instances go on.
    path.unlink()
    assert lab.end("m0")["counters"]["role"] == "primary"


def test_what_the_server_cannot_take_is_declared_lost_and_counted(lab: Lab) -> None:
    # 4 ms a packet on 2 cores is 500 a second; 10 times as much is offered. Packets wait for the
    # CPU up to 50 ms, far longer than a gap may last; but those before a refused one are no gap.
    cpus = server_clocks(lab.folder, 4_000_000)
    driver = start_group(lab, "fw", cpus=cpus, gap_timeout_ns=5_000_000)
    driver.send(500, spacing_s=0.0002)

    def explained() -> bool:
        stats = lab.order("m0", "stats")
        fates = stats["emitted"] + stats["dropped"].get("no-cpu", 0)
        return bool(stats["received"] == 500 and fates == 500)

    until(explained, "a fate for every packet")
    stats = lab.order("m0", "stats")
    assert stats["no_cpu"] == stats["dropped"]["no-cpu"] > 0
    assert stats["dropped"] == {"no-cpu": stats["no_cpu"]}
    driver.await_outputs(stats["emitted"])
    outputs = [frame.stamp.seq for frame in driver.emitted if frame.stamp.flow == 0]
    assert outputs == list(range(len(outputs)))  # a loss is no gap for the next hop
    until(lambda: lab.order("m1", "stats")["log_index"] == 500, "log applied")
    primary, backup = lab.end("m0"), lab.end("m1")
    assert primary["state_sha256"] == backup["state_sha256"]


def test_malformed_and_foreign_frames_are_counted_and_harm_nothing(lab: Lab) -> None:
    driver = start_group(lab, "fw")
    good = nsh.encode(
        nsh.header_prefix(PATH, HOP, 0, driver.mac), Stamp(PATH, 0, 0, 0, 0), udp_packet(0, 0)
    )
    driver.frames.send(good[:40])
    driver.frames.send(good[:46] + b"\x35" + good[47:])
    driver.frames.send(good[:25] + b"\x00" + good[26:])
    driver.send(FLOWS)
    driver.await_inputs()
    stats = lab.order("m0", "stats")
    assert (stats["malformed"], stats["received"]) == (3, FLOWS)
    with pytest.raises(Exception, match="unknown op"):
        lab.order("m0", "dance")
    with pytest.raises(Exception, match="members"):
        lab.order("m1", "configure")
