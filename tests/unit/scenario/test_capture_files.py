"""Capture files of every shape: read as Wireshark reads them, or refused; never a traceback."""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapReader

from testbed.scenario.errors import InputError
from testbed.scenario.pcap import CaptureError, Frame, frames
from testbed.scenario.recording import RecordedPackets, load_recording, read_recording

FRAME = bytes(Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(b"x" * 50))
FCS = b"\xde\xad\xbe\xef"
S, NS = 1_700_000_000, 1_000_000_000


def pcap(
    *packets: bytes,
    network: int = 1,
    order: str = "<",
    magic: int = 0xA1B2C3D4,
    step: int = 500_000,
) -> bytes:
    """A file whose packets come `step` smaller units of time apart."""
    whole = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262_144, network)
    for number, packet in enumerate(packets):
        times = S + number * step // 1_000_000, number * step % 1_000_000
        whole += struct.pack(order + "4I", *times, len(packet), len(packet)) + packet
    return whole


def option(order: str, code: int, value: bytes) -> bytes:
    padded = value + b"\0" * (-len(value) % 4)
    return struct.pack(order + "HH", code, len(value)) + padded


def block(order: str, kind: int, body: bytes) -> bytes:
    body += b"\0" * (-len(body) % 4)
    length = 12 + len(body)
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


def section(order: str = "<") -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str = "<", *options: bytes, link_type: int = 1) -> bytes:
    end = option(order, 0, b"") if options else b""
    return block(order, 1, struct.pack(order + "HHI", link_type, 0, 0) + b"".join(options) + end)


def packet(ticks: int, frame: bytes, order: str = "<", number: int = 0, tail: bytes = b"") -> bytes:
    numbers = (number, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    padded = frame + b"\0" * (-len(frame) % 4)
    return block(order, 6, struct.pack(order + "5I", *numbers) + padded + tail)


def read(folder: Path, content: bytes) -> RecordedPackets:
    path = folder / "file.pcap"
    path.write_bytes(content)
    return read_recording(str(path), load_recording(str(path)).sha256)


def wireshark(folder: Path, content: bytes) -> tuple[list[int], list[int]]:
    """Times from the first packet in nanoseconds, and lengths of IP packets, as tshark has them."""
    path = folder / "theirs.pcap"
    path.write_bytes(content)
    command = ["tshark", "-r", str(path), "-T", "fields", "-e", "frame.time_epoch", "-e", "ip.len"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in printed.splitlines()]
    times = [int(row[0].replace(".", "").ljust(19, "0")) for row in rows]
    return [time - times[0] for time in times], [int(row[1]) for row in rows]


OFFSET = 1000
FILES = {
    "microseconds": pcap(FRAME, FRAME),
    "other byte order": pcap(FRAME, FRAME, order=">"),
    "nanoseconds": pcap(FRAME, FRAME, magic=0xA1B23C4D, step=999),
    "check sequence in the link type": pcap(FRAME + FCS, FRAME + FCS, network=0x24000001),
    "pcapng": section() + interface() + packet(S * 10**6, FRAME) + packet(S * 10**6 + 5, FRAME),
    "nanoseconds of pcapng": (
        section(">") + interface(">", option(">", 9, b"\x09"))
        + packet(S * NS, FRAME, ">") + packet(S * NS + 5, FRAME, ">")
    ),
    "binary resolution": (
        section() + interface("<", option("<", 9, b"\x8a"))
        + packet(S << 10, FRAME) + packet((S << 10) + 512, FRAME)
    ),
    "offset of an interface": (
        section() + interface()
        + interface("<", option("<", 14, struct.pack("<q", OFFSET)))
        + packet(S * 10**6, FRAME) + packet((S - OFFSET) * 10**6 + 500_000, FRAME, number=1)
    ),
    "two sections": (
        section() + interface() + packet(S * 10**6, FRAME)
        + section(">") + interface(">") + packet(S * 10**6 + 7, FRAME, ">")
    ),
    "other blocks": (
        section() + block("<", 4, b"\0" * 4) + interface() + packet(S * 10**6, FRAME)
        + block("<", 5, b"\0" * 12) + packet(S * 10**6 + 7, FRAME)
    ),
    "check sequence in the flags": (
        section() + interface()
        + packet(S * 10**6, FRAME + FCS, tail=option("<", 2, struct.pack("<I", 4 << 5)))
        + packet(S * 10**6 + 3, FRAME)
    ),
}  # fmt: skip


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", FILES)
def test_times_and_lengths_are_those_of_wireshark(name: str, tmp_path: Path) -> None:
    found = read(tmp_path, FILES[name])
    assert (found.times_ns.tolist(), found.l3_bytes.tolist()) == wireshark(tmp_path, FILES[name])


def test_an_interface_may_count_its_time_from_another_second(tmp_path: Path) -> None:
    assert read(tmp_path, FILES["offset of an interface"]).times_ns.tolist() == [0, NS // 2]


@pytest.mark.parametrize("name", FILES)
def test_a_check_sequence_is_no_part_of_a_frame(name: str) -> None:
    for frame in frames(FILES[name]):
        assert (frame.content, frame.wire_bytes, frame.link_type) == (FRAME, len(FRAME), 1)


@pytest.mark.parametrize("length", [b"\x04", b"\x20"])
def test_an_interface_may_tell_of_check_sequences_in_bytes_or_bits(length: bytes) -> None:
    content = section() + interface("<", option("<", 13, length)) + packet(0, FRAME + FCS)
    assert [frame.content for frame in frames(content)] == [FRAME]


def test_a_capture_may_be_compressed(tmp_path: Path) -> None:
    packed = gzip.compress(FILES["pcapng"])
    found, plain = read(tmp_path, packed), read(tmp_path, FILES["pcapng"])
    assert found.times_ns.tolist() == plain.times_ns.tolist()
    for torn in (packed[:-9], packed[:40], packed[:10] + b"?" * 20):
        with pytest.raises(InputError, match="a whole file of gzip"):
            read(tmp_path, torn)


def test_frames_are_those_that_scapy_reads() -> None:
    for name in ("microseconds", "other byte order", "pcapng", "two sections"):
        with PcapReader(io.BytesIO(FILES[name])) as reader:
            theirs = [bytes(each) for each in reader]
        assert [frame.content for frame in frames(FILES[name])] == theirs


@pytest.mark.parametrize(
    ("link_type", "name"),
    [
        (105, "Wi-Fi"), (127, "Wi-Fi with radiotap's header"), (189, "USB of Linux"),
        (147, "a user's own kind"), (9999, "an unknown kind"),
    ],
)  # fmt: skip
def test_a_link_type_that_cannot_be_read_is_named(
    link_type: int, name: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, pcap(FRAME, FRAME, network=link_type))
    assert f"of {name} (link type {link_type})" in str(caught.value.value)
    assert caught.value.expected.startswith("frames of Ethernet, Linux cooked capture")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (section() + packet(0, FRAME), "interfaces that the capture names"),
        (section() + interface() + block("<", 3, b"\0" * 8), "packets that have a time"),
        (struct.pack("<III", 0x0A0D0D0A, 28, 0) + b"\0" * 16, "with a byte order"),
        (section() + struct.pack("<II", 6, 0), "blocks have a length"),
        (section() + struct.pack("<II", 6, 13), "blocks have a length"),
        (pcap(b"")[:24] + struct.pack("<4I", 0, 0, 1 << 31, 0), "frames of at most"),
    ],
)
def test_what_no_capture_can_be_is_told(content: bytes, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        list(frames(content))


def test_packets_ages_apart_are_refused(tmp_path: Path) -> None:
    content = section() + interface("<", option("<", 9, b"\x00"))
    with pytest.raises(InputError, match=r"packets within \d+ seconds"):
        read(tmp_path, content + packet(0, FRAME) + packet(1 << 63, FRAME))


def test_packets_that_a_card_was_to_cut_may_be_longer_than_any_ip_packet(tmp_path: Path) -> None:
    large = bytearray(FRAME + b"y" * 100_000)
    large[16:18] = b"\0\0"  # the length of the IP packet
    found = read(tmp_path, pcap(bytes(large), FRAME))
    assert found.l3_bytes.tolist() == [len(large) - 14, len(FRAME) - 14]
    assert found.contents["bytes"].tolist() == [0xFFFF, 50]


def _try(folder: Path, content: bytes) -> None:
    try:
        found = read(folder, content)
    except InputError as error:
        assert error.field == "traffic.process.file"
        return
    assert (np.diff(found.times_ns) >= 0).all() and found.times_ns[0] == 0


def test_a_file_that_is_cut_anywhere_is_told_or_read(tmp_path: Path) -> None:
    for name in ("microseconds", "offset of an interface", "check sequence in the flags"):
        whole = list(frames(FILES[name]))
        for length in range(len(FILES[name])):
            cut: list[Frame] = []
            try:
                cut += frames(FILES[name][:length])
            except CaptureError as error:
                assert "capture" in str(error)
            assert cut == whole[: len(cut)] and len(cut) < len(whole)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, 400),
)
def test_any_bytes_give_packets_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[int, bytes]], end: int
) -> None:
    content = bytearray(FILES[name])
    for at, value in changes:
        content[at : at + len(value)] = value
    _try(tmp_path_factory.getbasetemp(), bytes(content[: len(content) - max(0, end - 200)]))
