"""A run that replays a capture while iperf3 and HTTP use its chains; tshark reads what passed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from tests.support.command import deftbed
from tests.support.places import SMOKE

pytestmark = pytest.mark.emulation

GAPS_S = (0.0, 0.010, 0.002, 0.050, 0.020, 0.015, 0.003)
WORDS = (b"alpha", b"bravo", b"charlie", b"delta", b"echo", b"foxtrot", b"golf")


def capture(path: Path) -> Path:
    """Seven packets of three flows, each with a word of its own and 28 bytes that are cut off."""
    packets = []
    for index, at_s in enumerate(np.cumsum(GAPS_S).tolist()):
        content = WORDS[index].ljust(100, b".") + b"#" * 28
        packet = Ether() / IP(src="192.0.2.1", dst="192.0.2.9")
        packet /= UDP(sport=1000 + index % 3, dport=53) / Raw(content)
        packet.time = 1_700_000_000 + at_s
        packets.append(packet)
    wrpcap(str(path), packets)
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("real")
    content = yaml.safe_load(SMOKE.read_text())
    content["faults"] = []
    content["traffic"] |= {
        "duration_s": 5,
        "initial_requests": 2,
        "process": {
            "kind": "replay",
            "file": str(capture(folder / "seven.pcap")),
            "speed": 0.5,
            "repeat": True,
        },
        "applications": [
            {"kind": "iperf3", "request": 0, "at_s": 1.5, "duration_s": 2, "rate_bps": 400_000},
            {"kind": "http", "request": 1, "at_s": 1.5, "duration_s": 2, "object_bytes": 2000},
        ],
    }
    del content["traffic"]["load_steps"]
    content["captures"] = [{"user": "west"}]
    scenario = folder / "scenario.yaml"
    scenario.write_text(yaml.safe_dump(content))
    done = deftbed("run", str(scenario), "--results", str(folder / "results"), "--json")
    assert done.returncode == 0, done.stderr
    yield folder / "results" / "deft" / "seed-1"
    shutil.rmtree(folder)


def manifest_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "manifest.json").read_text())
    return found


def test_the_schedule_is_the_captures_round_after_round(run_dir: Path) -> None:
    recording = manifest_of(run_dir)["recording"]
    assert (recording["packets"], recording["flows"], recording["skipped"]) == (7, 3, 0)
    packets = pd.read_parquet(run_dir / "packets.parquet")
    first = packets[packets["chain"] == 0].sort_values("scheduled_ns")
    gaps_s = np.diff(first["scheduled_ns"].to_numpy()) / 1e9
    assert gaps_s[:6] == pytest.approx(np.array(GAPS_S[1:]) * 2, abs=1e-6)
    assert gaps_s[7:13] == pytest.approx(gaps_s[:6], abs=1e-6)
    assert (first["l3_bytes"] == 156).all()
    assert packets["received_ns"].notna().mean() > 0.5, "the chains carry the replay"
    scopes = json.loads((run_dir / "metrics.json").read_text())["scopes"]
    spans = [np.ptp(packets[name].to_numpy(np.int64)) for name in ("scheduled_ns", "sent_ns")]
    assert scopes[0]["rate_ratio"] == pytest.approx(spans[0] / spans[1], rel=1e-12)


def test_the_packets_on_the_wire_carry_what_was_recorded(run_dir: Path) -> None:
    path = run_dir / "captures" / "user-west.pcapng"
    command = ["tshark", "-r", str(path), "-Y", "udp", "-T", "fields", "-e", "data.data"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seen = {bytes.fromhex(line)[28:] for line in done.stdout.split() if len(line) == 2 * 128}
    # 128 bytes were recorded, 28 of them have no room behind our header.
    assert seen == {word.ljust(100, b".") for word in WORDS}


def test_applications_got_through_the_chains(run_dir: Path) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    iperf, http = summary["applications"]
    assert iperf["error"] is None and http["error"] is None
    assert iperf["goodput_bps"] > 0 and iperf["mean_rtt_ns"] > 0
    assert http["fetches"] > http["failed"] >= 0 and http["goodput_bps"] > 0
    raw = json.loads((run_dir / "raw" / "application-0-iperf3.json").read_text())
    assert raw["end"]["sum_received"]["bits_per_second"] == iperf["goodput_bps"]
