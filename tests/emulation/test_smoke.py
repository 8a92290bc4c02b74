"""The main job in miniature, as a user runs it: the command, the smoke scenario, the files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from agents.placement.model import NetworkSize, PpoPolicy, build, save_model
from agents.placement.on_twin import play
from testbed.results.fairness import check_fairness
from testbed.scenario.load import load_scenario
from testbed.scenario.plan import make_plan
from testbed.substrate.ownership import known_runs
from tests.support.command import ENVIRONMENT, deftbed
from tests.support.places import SMOKE

pytestmark = pytest.mark.emulation


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("smoke") / "results"
    done = deftbed("compare", str(SMOKE), "--results", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"] == str(folder)
    yield folder
    shutil.rmtree(folder)


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_every_policy_ran_and_delivered(compared: Path) -> None:
    summary = summary_of(compared)
    assert (summary["format"], summary["scenario"]) == (2, "smoke")
    assert set(summary["policies"]) == {"deft", "greedy-delay"}
    for entry in summary["policies"].values():
        (run,) = entry["runs"]
        assert run["accepted"] == run["requested"] == 1
        # Nothing in the smoke scenario may lose a packet, the death of a server included.
        assert run["sent"] == run["received"] > 500
        assert (run["lost"], run["duplicated"], run["reordered"], run["unsent"]) == (0, 0, 0, 0)


def test_no_process_loads_compiled_code_that_the_warm_parent_should_have(compared: Path) -> None:
    logs = list(compared.glob("*/seed-*/log/*.log"))
    assert any(log.name.startswith("r0-h0") for log in logs)
    late = {log.name: text for log in logs if "loaded late" in (text := log.read_text())}
    assert not late


def test_the_sides_differ_in_the_placement_alone(compared: Path) -> None:
    assert check_fairness(compared) == []
    frames = [
        pd.read_parquet(compared / policy / "seed-1" / "packets.parquet")
        for policy in ("deft", "greedy-delay")
    ]
    columns = ["chain", "flow", "seq", "l3_bytes", "scheduled_ns"]
    pd.testing.assert_frame_equal(frames[0][columns], frames[1][columns])


def test_a_packet_that_was_rescheduled_is_found(compared: Path, tmp_path: Path) -> None:
    forged = tmp_path / "forged"
    shutil.copytree(compared, forged)
    path = forged / "deft" / "seed-1" / "packets.parquet"
    from testbed.records import packets

    frame = packets.read(path)
    shifted = frame["scheduled_ns"].to_numpy(np.int64).copy()
    shifted[3] += 1
    frame["scheduled_ns"] = shifted
    packets.write(frame, path)
    assert check_fairness(forged)


def test_every_figure_follows_from_packets_and_events(compared: Path) -> None:
    """Computed here with nothing of the product but the two files."""
    for policy, entry in summary_of(compared)["policies"].items():
        folder = compared / policy / "seed-1"
        run = entry["runs"][0]
        packets = pd.read_parquet(folder / "packets.parquet")
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        arrived = packets[packets["received_ns"].notna()]
        received_ns = arrived["received_ns"].to_numpy(np.int64)
        latency = np.sort(received_ns - arrived["scheduled_ns"].to_numpy(np.int64))
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)):
            rank = int(np.ceil(share * len(latency)))
            assert run["latency_ns"][name] == latency[rank - 1]
        duration_ns = int(np.ptp(packets["scheduled_ns"].to_numpy(np.int64)))
        bits = 8 * int(arrived["l3_bytes"].to_numpy(np.int64).sum())
        assert run["goodput_bps"] == pytest.approx(bits / (duration_ns / 1e9))
        assert run["lost"] == len(packets) - len(arrived)
        (fault,) = [event["t_ns"] for event in events if event["event"] == "fault"]
        released = sorted(e["t_ns"] for e in events if e["event"] == "first-release")
        assert run["recovery_ns"] == [t_ns - fault for t_ns in released]


def test_report_is_the_same_when_it_is_computed_anew(compared: Path) -> None:
    before = summary_of(compared)
    (compared / "summary.json").unlink()
    done = deftbed("report", str(compared), "--json")
    assert done.returncode == 0, done.stderr
    assert summary_of(compared) == before == json.loads(done.stdout)
    assert (compared / "report.html").stat().st_size > 10_000


def test_nothing_of_the_runs_is_left(compared: Path) -> None:
    manifests = [json.loads(path.read_text()) for path in compared.glob("*/seed-1/manifest.json")]
    assert len(manifests) == 2
    for manifest in manifests:
        assert manifest["run_id"] not in known_runs()
        assert manifest["model"] is None, "no model decided"


def test_a_learned_policy_decides_in_a_run_and_its_model_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(3)  # not trained: it must only be this network that decides
    network = build(NetworkSize())
    given, scenario, results = tmp_path / "mine.pt", tmp_path / "one.yaml", tmp_path / "results"
    save_model(given, network, NetworkSize())
    content = SMOKE.read_text().replace("[deft, greedy-delay]", "[ppo]\n  baseline: ppo")
    scenario.write_text(content)
    done = deftbed(
        "compare", str(scenario), "--model", str(given), "--results", str(results), "--json"
    )
    assert json.loads(done.stdout)["results"] == str(results), done.stderr
    plan = make_plan(load_scenario(scenario), 1)
    (in_twin,) = play([plan], [PpoPolicy(network).decide])
    expected = in_twin.placements[plan.requests[0].id]
    assert expected is not None
    events = map(json.loads, (results / "ppo" / "seed-1" / "events.jsonl").read_text().splitlines())
    (decision,) = [event for event in events if event["event"] == "decision"]
    assert decision["placements"] == [list(placement.nodes) for placement in expected]
    manifest = json.loads((results / "ppo" / "seed-1" / "manifest.json").read_text())
    kept = (results / "model" / "mine.onnx").read_bytes()
    assert manifest["model"] == {"file": "mine.onnx", "sha256": sha256(kept).hexdigest()}


def test_a_results_folder_that_exists_is_refused(tmp_path: Path) -> None:
    done = deftbed("run", str(SMOKE), "--results", str(tmp_path))
    assert done.returncode == 2
    assert "--results" in done.stderr and str(tmp_path) in done.stderr.replace("\n", "")


def test_a_model_that_is_missing_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "no.pt"
    done = deftbed("run", str(SMOKE), "--policy", "ppo", "--model", str(missing))
    assert done.returncode == 2 and "--model" in done.stderr


def test_a_model_that_is_no_model_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    broken, results = tmp_path / "broken.pt", tmp_path / "results"
    broken.write_bytes(b"no model")
    done = deftbed(
        "run", str(SMOKE), "--policy", "ppo", "--model", str(broken), "--results", str(results)
    )
    assert done.returncode == 2 and "model" in done.stderr
    assert not results.exists()


def test_without_root_it_says_so_and_how() -> None:
    code = "import os; from testbed.cli.main import main; os.setuid(65534); main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(SMOKE)],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    assert done.returncode == 2
    assert "root" in done.stderr and "sudo" in done.stderr
