"""A traced run knows the whole way of each packet; a chain's throughput is measured, TCP's too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from testbed.lab.throughput.chain_under_test import read_trial
from testbed.records import packets as packet_records
from testbed.results.hops import PARTS
from testbed.results.metrics import measure, of_packets
from tests.support.command import answer
from tests.support.places import SMOKE

pytestmark = pytest.mark.emulation


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The smoke scenario, traced, with a server that dies under it."""
    folder = tmp_path_factory.mktemp("traced")
    scenario = folder / "traced.yaml"
    scenario.write_text(SMOKE.read_text() + "trace: {rows: 20000}\n")
    answer("run", str(scenario), "--policy", "deft", "--results", str(folder / "results"))
    yield folder / "results" / "deft" / "seed-1"
    shutil.rmtree(folder)


def test_the_time_of_every_packet_is_known_and_adds_up(run_dir: Path) -> None:
    frame = packet_records.read(run_dir / "packets.parquet")
    assert len(frame) > 500 and frame["received_ns"].notna().all()
    assert json.loads((run_dir / "manifest.json").read_text())["trace"] == {
        "rows_missed": 0,
        "share": 1.0,
    }
    for row in frame.itertuples():
        spans = json.loads(str(row.hops))
        assert sum(ns for *_, ns in spans) == row.received_ns - row.sent_ns  # type: ignore[operator]
        assert [spans[0][1], spans[-1][1]] == ["source", "sink"]
        assert {hop for hop, *_ in spans} == {0, 1, 2}
        assert {part for _, part, _ in spans} == set(PARTS)
        # Two functions, each at least as long as its service on a half or a quarter of a core.
        assert all(ns > 0 for _, part, ns in spans if part in ("function", "commit"))


def test_the_metrics_of_the_run_say_where_the_time_went(run_dir: Path) -> None:
    scopes = json.loads((run_dir / "metrics.json").read_text())["scopes"]
    hops = scopes[0]["hops"]
    assert [(each["hop"], each["part"]) for each in hops] == [
        (0, "source"),
        *[(hop, part) for hop in (0, 1) for part in ("links", "switches", "queue", "function",
                                                     "commit")],
        (2, "links"), (2, "switches"), (2, "sink"),
    ]  # fmt: skip
    frame = packet_records.read(run_dir / "packets.parquet")
    mean_ns = (frame["received_ns"] - frame["sent_ns"]).mean()
    assert sum(each["mean_ns"] for each in hops) == pytest.approx(mean_ns)


def test_the_way_of_one_packet(run_dir: Path) -> None:
    found = answer("trace", str(run_dir), "0/1/25")
    assert found["fate"]["what"] == "delivered"
    sights = [(each["hop"], each["what"]) for each in found["sights"]]
    order = ["entered", "taken", "cpu-done", "handed", "logged", "emitted"]
    assert [sights.index((0, what)) for what in order] == sorted(
        sights.index((0, what)) for what in order
    )
    taken = {
        each["where"] for each in found["sights"] if (each["hop"], each["what"]) == (0, "taken")
    }
    assert taken == {"r0-h0-m0", "r0-h0-m1"}  # the primary, and the backup its copy
    assert (2, "left") in sights
    times = [each["t_ns"] for each in found["sights"]]
    assert found["scheduled_ns"] <= found["sent_ns"] <= times[0]
    assert times == sorted(times) and found["received_ns"] >= times[-1] - 1_000_000_000


def test_throughput_and_tcp(tmp_path: Path) -> None:
    options = ["--highest", "100", "--trial", "1", "--pause", "0", "--tcp", "1"]
    folder = tmp_path / "throughput"
    report = answer("throughput", str(SMOKE), *options, "--results", str(folder))
    (trial,) = report["trials"]
    assert (report["throughput"]["pps"], report["throughput"]["limit"]) == (
        100.0,
        "highest rate tried",
    )
    assert (trial["metrics"]["sent"], trial["metrics"]["lost"]) == (100, 0)
    chain = report["chain"]
    again = read_trial(folder / "raw", 0, chain["chain"], chain["l3_bytes"], chain["destination"])
    assert json.loads(json.dumps(measure(of_packets(again)))) == trial["metrics"]
    tcp = report["tcp"]
    # West to east, with both functions elsewhere or not, is at least 2.5 ms each way.
    assert tcp["baseline_rtt_ns"] >= 5_000_000 and tcp["mean_rtt_ns"] >= tcp["baseline_rtt_ns"]
    assert 0 < tcp["throughput_ratio"] <= 1.05 and 0 < tcp["efficiency_percent"] <= 100
    assert json.loads((folder / "throughput.json").read_text())["tcp"] == tcp


def test_throughput_takes_the_links_that_the_scenario_asks_for(tmp_path: Path) -> None:
    """Bare wires are never what `auto` takes."""
    scenario = tmp_path / "wires.yaml"
    asked = yaml.safe_load(SMOKE.read_text())
    asked["links"] = {**asked.get("links", {}), "backend": "none"}
    scenario.write_text(yaml.safe_dump(asked))
    options = ["--highest", "50", "--trial", "0.5", "--pause", "0", "--tcp", "0"]
    report = answer("throughput", str(scenario), *options, "--results", str(tmp_path / "results"))
    assert report["backends"]["link"] == "none"
