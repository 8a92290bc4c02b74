"""A replay sends what a capture holds: scapy wrote the files, and reads them to compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, CookedLinux, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgWriter, PcapWriter, rdpcap, wrpcap

from testbed.records.payload import HEADER, PayloadMaker, parse
from testbed.scenario.errors import InputError
from testbed.scenario.load import parse_scenario
from testbed.scenario.model import Scenario
from testbed.scenario.plan import make_plan, plan_digest
from testbed.scenario.recording import load_recording, read_recording
from testbed.scenario.types import NS_PER_S, RunPlan
from traffic.sender import Contents
from traffic.workload import Workload, make_workload, write_workload

START_S = 1_700_000_000
GAPS_MS = (0, 10, 0, 25, 5, 40, 20)
SCENARIO = """
format: 1
name: replayed
topology:
  nodes: [{name: west}, {name: east}]
  links: [{a: west, b: east, length_km: 100}]
servers: {default: {cpu_cores: 1.0}}
chains:
  - {name: one, functions: [fw], rate_pps: 100, l3_bytes: 200, delay_bound_s: 0.1, flows: 2}
traffic:
  duration_s: 11
  setup_s: 1.0
  pairs: [[west, east]]
  initial_requests: 1
  process: PROCESS
  LOAD
policies: [deft]
seeds: [1]
"""


def ip_packets() -> list[Packet]:
    """Of five flows, one in both directions; large, small and cut by a network card's offload."""
    there = {"src": "10.0.0.1", "dst": "10.0.0.2"}
    back = {"src": "10.0.0.2", "dst": "10.0.0.1"}
    return [
        IP(**there) / TCP(sport=4000, dport=80, flags="S", options=[("MSS", 1460)]),
        IP(**back) / TCP(sport=80, dport=4000, flags="SA"),
        IP(**there) / TCP(sport=4000, dport=80, flags="PA") / Raw(b"GET /secret HTTP/1.1\r\n"),
        IP(**back) / TCP(sport=80, dport=4000) / Raw(b"b" * 1460),
        IP(**there) / UDP(sport=53, dport=53) / Raw(b"q" * 300),
        IP(**there) / ICMP() / Raw(b"ping"),
        IPv6(src="2001:db8::1", dst="2001:db8::2")
        / IPv6ExtHdrHopByHop()
        / UDP(sport=7, dport=9)
        / Raw(b"six" * 40),
    ]


def timed(packets: Sequence[Packet]) -> list[Packet]:
    at_ms = np.cumsum(GAPS_MS)
    for packet, ms in zip(packets, at_ms.tolist(), strict=False):
        packet.time = START_S + ms / 1000
    return list(packets)


def ethernet(packets: Sequence[Packet]) -> list[Packet]:
    return timed([Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / p for p in packets])


def written(folder: Path, packets: Sequence[Packet], name: str = "file.pcap") -> str:
    wrpcap(str(folder / name), packets)
    return str(folder / name)


@pytest.fixture
def capture(tmp_path: Path) -> str:
    return written(tmp_path, ethernet(ip_packets()))


def scenario_of(process: str, load: str = "") -> Scenario:
    return parse_scenario(SCENARIO.replace("PROCESS", process).replace("LOAD", load))


def plan_of(process: str) -> RunPlan:
    return make_plan(scenario_of(process), 1)


def workload(process: str, load: str = "") -> tuple[RunPlan, Workload]:
    scenario = scenario_of(process, load)
    plan = make_plan(scenario, 1)
    request = dataclasses.replace(plan.requests[0], end_ns=11 * NS_PER_S)
    return plan, make_workload(plan, request, scenario.traffic.process)


def test_what_is_read_is_what_scapy_dissects(capture: str) -> None:
    recording = load_recording(capture)
    found = read_recording(capture, recording.sha256)
    dissected = rdpcap(capture)
    assert found.times_ns.tolist() == [1_000_000 * ms for ms in np.cumsum(GAPS_MS).tolist()]
    assert found.l3_bytes.tolist() == [len(packet.payload) for packet in dissected]
    payloads = [
        found.payloads[row["offset"] : row["offset"] + row["bytes"]] for row in found.contents
    ]
    above = [bytes((p.getlayer(TCP) or p.getlayer(UDP) or p[IP]).payload) for p in dissected]
    assert payloads == above
    assert found.flows.tolist() == [0, 1, 0, 1, 2, 3, 4]
    assert (recording.packets, recording.skipped, recording.flows) == (7, 0, 5)
    assert (recording.raised, recording.cut) == (3, 1)
    assert recording.mean_pps == pytest.approx(6 / 0.1)


def in_vlans(packets: Sequence[Packet]) -> list[Packet]:
    return timed([Ether() / Dot1Q(vlan=5) / Dot1Q(vlan=6) / packet for packet in packets])


def cooked(packets: Sequence[Packet]) -> list[Packet]:
    return timed([CookedLinux() / packet for packet in packets])


@pytest.mark.parametrize("framed", [in_vlans, cooked, timed])
def test_whatever_is_below_ip_makes_no_difference(
    framed: Any, capture: str, tmp_path: Path
) -> None:
    path = written(tmp_path, framed(ip_packets()[:6]), "other.pcap")
    ours = read_recording(path, load_recording(path).sha256)
    theirs = read_recording(capture, load_recording(capture).sha256)
    for name in ("times_ns", "l3_bytes", "flows", "contents"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)[:6]), name
    assert theirs.payloads.startswith(ours.payloads)


def test_nanoseconds_of_pcapng_and_pcap_are_kept(tmp_path: Path) -> None:
    packets = ethernet(ip_packets())
    nano, ng = tmp_path / "nano.pcap", tmp_path / "file.pcapng"
    with PcapWriter(str(nano), nano=True, linktype=1) as writer:
        writer.write_header(None)
        for index, packet in enumerate(packets):
            writer.write_packet(bytes(packet), sec=START_S, usec=index * 111_111_111)
    with PcapNgWriter(str(ng)) as writer:
        for packet in packets:
            writer.write(packet)
    found = read_recording(str(nano), load_recording(str(nano)).sha256)
    assert found.times_ns.tolist() == [index * 111_111_111 for index in range(7)]
    of_ng = read_recording(str(ng), load_recording(str(ng)).sha256)
    expected = [1_000_000 * ms for ms in np.cumsum(GAPS_MS).tolist()]
    assert np.abs(of_ng.times_ns - expected).max() < 1000  # scapy counts pcapng in microseconds


def test_frames_without_ip_are_counted_and_disorder_is_put_right(tmp_path: Path) -> None:
    packets = ethernet(ip_packets())
    arp = Ether() / ARP()
    arp.time = START_S
    short = Ether() / Raw(b"\x45\x00")
    short.type, short.time = 0x0800, START_S
    path = written(tmp_path, [arp, packets[2], packets[0], short, *packets[3:]])
    recording = load_recording(path)
    found = read_recording(path, recording.sha256)
    assert (recording.packets, recording.skipped) == (6, 2)
    assert (np.diff(found.times_ns) >= 0).all()
    assert found.l3_bytes[0] == len(packets[0].payload)


def test_fragments_follow_in_a_flow_without_ports(tmp_path: Path) -> None:
    whole = bytes(UDP(sport=5, dport=6) / Raw(b"x" * 1600))
    where = {"src": "10.0.0.1", "dst": "10.0.0.2", "proto": 17, "id": 7}
    parts = [
        IP(**where, flags="MF") / Raw(whole[:1480]),
        IP(**where, frag=185) / Raw(whole[1480:]),
        IPv6(src="::1", dst="::2") / IPv6ExtHdrFragment(offset=10, nh=17) / Raw(b"z" * 50),
    ]
    for index, part in enumerate(parts):
        part.time = START_S + index
    path = written(tmp_path, parts)
    found = read_recording(path, load_recording(path).sha256)
    assert found.flows.tolist() == [0, 1, 2]
    assert found.contents["bytes"].tolist() == [1472, len(whole) - 1480, 50]


def test_times_sizes_flows_and_contents_are_the_captures(capture: str) -> None:
    plan, made = workload(f"{{kind: replay, file: {capture}, speed: 0.5}}")
    request = plan.requests[0]
    assert request.rate_pps == pytest.approx(30.0)
    assert request.l3_bytes == round((56 + 56 + 62 + 1400 + 328 + 56 + 176) / 7)
    due_ms = (made.schedule["scheduled_ns"] - request.start_ns) / 1e6
    assert due_ms == pytest.approx(2 * np.cumsum(GAPS_MS), abs=1e-3)
    assert made.l3_bytes is not None and made.contents is not None
    assert made.l3_bytes.tolist() == [56, 56, 62, 1400, 328, 56, 176]
    assert made.flow_numbers is not None and made.flow_numbers.tolist() == [0, 1, 0, 1, 2, 3, 4]
    assert made.schedule["flow"].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert made.schedule["seq"].tolist() == [0, 0, 1, 1, 2, 2, 3]
    # Behind the header of 28 bytes there is room for what the packet is larger than 56.
    assert made.contents["bytes"].tolist() == [0, 0, 6, 1344, 272, 0, 120]


def test_by_default_the_speed_gives_the_chain_its_rate(capture: str) -> None:
    plan, made = workload(f"{{kind: replay, file: {capture}}}")
    assert plan.requests[0].rate_pps == 100
    assert np.ptp(made.schedule["scheduled_ns"]) == pytest.approx(100e6 * 60 / 100, rel=1e-6)


def test_a_repeated_capture_goes_on_at_its_rate_with_new_flows(capture: str) -> None:
    _, made = workload(f"{{kind: replay, file: {capture}, speed: 2, repeat: true}}")
    assert len(made.schedule) == pytest.approx(10 * 120, abs=7)
    assert made.flow_numbers is not None
    rounds = made.flow_numbers // 5
    assert rounds.max() == (len(made.schedule) - 1) // 7
    assert made.schedule["flow"][7:14].tolist() == made.schedule["flow"][:7].tolist()
    first, second = made.schedule["scheduled_ns"][[0, 7]].tolist()
    assert second - first == pytest.approx((0.1 + 1 / 60) / 2 * 1e9, abs=2)
    assert made.schedule["scheduled_ns"].max() < 11 * NS_PER_S


def test_load_steps_change_the_speed(capture: str) -> None:
    load = "load_steps: [{at_s: 6, factor: 3}]"
    _, made = workload(f"{{kind: replay, file: {capture}, speed: 1, repeat: true}}", load)
    due_s = made.schedule["scheduled_ns"] / 1e9
    early, late = (due_s < 6).sum(), (due_s >= 6).sum()
    assert (early, late) == (pytest.approx(5 * 60, abs=7), pytest.approx(5 * 180, abs=7))


def test_a_packet_carries_what_was_recorded_behind_its_header(capture: str, tmp_path: Path) -> None:
    scenario = scenario_of(f"{{kind: replay, file: {capture}}}")
    plan = make_plan(scenario, 1)
    write_workload(tmp_path, plan, plan.requests[0], scenario.traffic.process)
    spec = {
        "contents": str(tmp_path / "contents-0.npy"),
        "payloads": str(tmp_path / "payloads.npy"),
    }
    contents = Contents.of(spec, 7)
    assert contents is not None
    payload = PayloadMaker(0, 200).make(1, 1, 5, 62, contents[2])
    assert (len(payload), parse(payload)) == (62 - 28, (0, 1, 1, 5))
    assert payload[HEADER.size :] == b"GET /s"
    with pytest.raises(ValueError, match="7 rows, expected 8"):
        Contents.of(spec, 8)


def test_without_contents_there_is_filler(capture: str) -> None:
    _, made = workload(f"{{kind: replay, file: {capture}, contents: false}}")
    assert made.contents is None


def test_another_capture_is_another_plan(capture: str, tmp_path: Path) -> None:
    process = f"{{kind: replay, file: {capture}}}"
    before = plan_digest(plan_of(process))
    assert before == plan_digest(plan_of(process))
    packets = ethernet(ip_packets())
    packets[-1].time += 0.001
    written(tmp_path, packets)
    assert before != plan_digest(plan_of(process))
    assert plan_of(process).refused == ("traffic.process replay",)


def test_a_file_that_changes_under_way_is_noticed(capture: str) -> None:
    sha256 = load_recording(capture).sha256
    read_recording.cache_clear()
    Path(capture).write_bytes(Path(capture).read_bytes() + b"more")
    with pytest.raises(InputError, match="does not change"):
        read_recording(capture, sha256)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "a readable file"), (b"not a capture", "pcap or pcapng"), (b"", "pcap or pcapng")],
)
def test_what_cannot_be_replayed_is_refused(
    content: bytes | None, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.pcap"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"traffic.process.file.*{expected}"):
        plan_of(f"{{kind: replay, file: {path}}}")


def test_a_single_packet_and_a_strange_link_are_refused(tmp_path: Path) -> None:
    one = written(tmp_path, ethernet(ip_packets())[:1], "one.pcap")
    with pytest.raises(InputError, match="two IP packets at two times"):
        load_recording(one)
    strange = str(tmp_path / "strange.pcap")
    wrpcap(strange, ethernet(ip_packets()), linktype=147)
    with pytest.raises(InputError, match="link type 147"):
        load_recording(strange)
