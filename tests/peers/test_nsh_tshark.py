"""Wireshark's dissector reads our frames: they are NSH, and the packet inside is IPv4 or IPv6."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.stamp import Stamp

SOURCE = "06:00:00:00:00:01"
HEADER = {
    "eth.dst": "02:01:02:03:04:01",
    "eth.src": SOURCE,
    "eth.type": "0x894f",
    "nsh.version": "0",
    "nsh.ttl": "0x003f",
    "nsh.length": "8",
    "nsh.mdtype": "2",
    "nsh.spi": str(0x010203),
    "nsh.si": "251",
    "nsh.metadataclass": str(0xFFF6),
    "nsh.metadatatype": "1",
    "nsh.metadatalen": "0x14",
    "nsh.metadata": "0000000700090003000000000000006300000000",
    "udp.checksum.status": "1",
    "udp.dstport": "5001",
    "_ws.malformed": "",
}
INNER = {
    "IPv4": (
        IP(src="10.77.0.1", dst="10.77.0.2"),
        {
            "nsh.nextproto": "1",
            "ip.src": "10.77.0.1",
            "ip.dst": "10.77.0.2",
            "ip.checksum.status": "1",
            "ipv6.dst": "",
        },
    ),
    "IPv6": (
        IPv6(src="fd77::1", dst="fd77::2"),
        {"nsh.nextproto": "2", "ipv6.src": "fd77::1", "ipv6.dst": "fd77::2", "ip.dst": ""},
    ),
}


@pytest.mark.peers
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("protocol", INNER)
def test_tshark_reads_every_field(protocol: str, tmp_path: Path) -> None:
    header, fields = INNER[protocol]
    fields = {**HEADER, **fields}
    packet = bytes(header / UDP(sport=4000, dport=5001) / b"hello")
    stamp = Stamp(path=0x010203, flow=7, bucket=9, epoch=3, seq=99)
    prefix = nsh.header_prefix(stamp.path, 4, 1, nsh.mac_bytes(SOURCE))
    capture = tmp_path / "frames.pcap"
    wrpcap(str(capture), [Ether(nsh.encode(prefix, stamp, packet))])
    command = ["tshark", "-r", str(capture), "-T", "fields", "-E", "separator=|"]
    command += ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    values = done.stdout.rstrip("\n").split("|")
    assert dict(zip(fields, values, strict=True)) == fields
