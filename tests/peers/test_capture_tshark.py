"""Captures at a port: tshark reads them, NSH included, with nanoseconds; kills leave them whole."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP

from testbed.records.capture_files import describe
from testbed.substrate.captures import Captures
from testbed.substrate.commands import CommandError, run
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.stamp import Stamp
from tests.support.places import ROOT

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]
SOURCE = "06:00:00:00:00:01"
HOLDER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from pathlib import Path
from testbed.substrate.captures import Captures
with Captures([("port", sys.argv[1], 0)], Path(sys.argv[2])):
    print("captures", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def port() -> Iterator[tuple[str, str]]:
    """Both ends of a pair of interfaces that nothing else uses."""
    a, b = f"cap{os.getpid()}a", f"cap{os.getpid()}b"
    run(["ip", "link", "add", a, "type", "veth", "peer", "name", b])
    for name in (a, b):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        run(["ip", "link", "set", name, "up"])
    yield a, b
    run(["ip", "link", "delete", a])


def send(interface: str, count: int) -> None:
    """NSH frames that carry UDP, numbered by their stamps."""
    packet = bytes(IP(src="10.77.0.1", dst="10.77.0.2") / UDP(sport=4000, dport=5001) / b"hello")
    prefix = nsh.header_prefix(0x010203, 4, 1, nsh.mac_bytes(SOURCE))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        for seq in range(count):
            stamp = Stamp(path=0x010203, flow=7, bucket=9, epoch=3, seq=seq)
            raw.send(nsh.encode(prefix, stamp, packet))


def wait_for(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def fields(path: Path, *names: str) -> list[list[str]]:
    command = ["tshark", "-r", str(path), "-Y", "nsh", "-T", "fields"]
    for name in names:
        command += ["-e", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_tshark_reads_what_passed_a_port(port: tuple[str, str], tmp_path: Path) -> None:
    with Captures([("port", port[1], 0)], tmp_path / "captures"):
        send(port[0], 50)
        send(port[1], 3)
    path = tmp_path / "captures" / "port.pcapng"
    rows = fields(path, "nsh.spi", "nsh.metadata", "udp.dstport", "frame.time_epoch")
    # Both directions of the port.
    assert len(rows) == 53
    assert {(spi, to) for spi, _, to, _ in rows} == {(str(0x010203), "5001")}
    assert len({stamp for _, stamp, _, _ in rows}) == 50
    assert any(not stamp.endswith("000") for *_, stamp in rows), "no nanoseconds"
    found = describe(path)
    assert (found["packets"], found["dropped"]) == (53, 0)
    assert (found["resolution_digits"], found["complete"]) == (9, True)


def test_frames_are_cut_where_that_is_asked(port: tuple[str, str], tmp_path: Path) -> None:
    with Captures([("port", port[1], 40)], tmp_path):
        send(port[0], 2)
    command = ["tshark", "-r", str(tmp_path / "port.pcapng"), "-T", "fields", "-e", "frame.cap_len"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["40", "40"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_capture_ends_in_order_when_its_harness_is_killed(
    port: tuple[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    words = [sys.executable, "-c", HOLDER, port[1], str(tmp_path)]
    holder = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    path = tmp_path / "port.pcapng"
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"captures\n"
        send(port[0], 5)
        wait_for(lambda: describe(path)["packets"] == 5, "the frames are not captured")
        holder.send_signal(number)
    wait_for(lambda: describe(path)["complete"], "the capture goes on without its harness")
    assert describe(path)["packets"] == 5


def test_a_capture_that_is_cut_short_is_read_and_called_so(
    port: tuple[str, str], tmp_path: Path
) -> None:
    with Captures([("port", port[1], 0)], tmp_path):
        send(port[0], 4)
    whole = tmp_path / "port.pcapng"
    cut = tmp_path / "cut.pcapng"
    cut.write_bytes(whole.read_bytes()[:-150])
    found = describe(cut)
    assert (found["complete"], found["dropped"]) == (False, None)
    assert found["packets"] in (3, 4)


def test_a_port_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with (
        pytest.raises(CommandError, match="nosuchport"),
        Captures([("port", "nosuchport", 0)], tmp_path),
    ):
        pass
