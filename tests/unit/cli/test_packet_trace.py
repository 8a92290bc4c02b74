"""`deftbed trace` says what is known of a packet, and what to ask for if it is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.cli.packet_trace import describe
from testbed.records import packets as packet_records
from testbed.scenario.errors import InputError
from tests.support.journeys_support import MANIFEST
from tests.support.results_support import MS, event, packets, schedule


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run without a trace: chain 0 lost its packet 1, chain 1 was refused."""
    frame = packets([schedule(3), schedule(2, request=1)], [(0, 0, 0, 9 * MS), (0, 0, 2, 9 * MS)])
    packet_records.write(frame, tmp_path / "packets.parquet")
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    decisions = [event(0, "decision", placements=[], request=n, accepted=n == 0) for n in (0, 1)]
    lines = [json.dumps(each) for each in decisions]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    (tmp_path / "raw").mkdir()
    return tmp_path


def fate_of(run_dir: Path, packet: str) -> Any:
    return describe(run_dir, packet)["fate"]["what"]


def test_without_a_trace_the_ends_are_known(run_dir: Path) -> None:
    found = describe(run_dir, "0/0/2")
    assert (found["received_ns"], found["traced"], found["sights"]) == (9 * MS, False, [])
    assert [fate_of(run_dir, f"0/0/{seq}") for seq in (0, 1)] == ["delivered", "lost"]
    assert fate_of(run_dir, "1/0/0") == "refused"


def test_what_is_not_there_is_refused_with_what_there_is(run_dir: Path) -> None:
    with pytest.raises(InputError, match="0/0/0 to 0/0/2"):
        describe(run_dir, "0/0/3")
    with pytest.raises(InputError, match="chains are 0, 1"):
        describe(run_dir, "7/0/0")
    for text in ("0/0", "a/b/c", "0/0/-1"):
        with pytest.raises(InputError, match="CHAIN/FLOW/SEQ"):
            describe(run_dir, text)
    with pytest.raises(InputError, match="the folder of one run"):
        describe(run_dir / "raw", "0/0/0")
