"""A run, a comparison and a host's clean-up tell the first error, and skip no step after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.placement.problem import PLACEMENT
from testbed.lab import comparison as compare
from testbed.lab import run
from testbed.scenario.errors import RunError
from testbed.scenario.load import load_scenario
from testbed.scenario.model import Scenario, decided_by
from testbed.substrate import cgroups, ownership, switch_class
from testbed.substrate.commands import CommandError
from testbed.substrate.probe import Backends, Capabilities, Capability
from testbed.twin.calibration import DEFAULTS
from tests.support.places import SMOKE

HAS = Capability(True, "it has")
CAPABILITIES = Capabilities(HAS, HAS, HAS, HAS, HAS, HAS, HAS, "v1", {}, 2, 1)
BACKENDS = Backends(datapath="netdev", link="userspace", cgroup="v1")


def no_network(*_: object) -> None:
    raise RunError("the line did not start")


def bridge_stays(*_: object) -> None:
    raise CommandError("ovs-vsctl del-br x: status 1")


def smoke() -> Scenario:
    return load_scenario(SMOKE)


def test_a_run_that_failed_says_why_and_is_collected_though_it_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "open_lab", no_network)
    monkeypatch.setattr(run, "clean", bridge_stays)
    folder = tmp_path / "deft" / "seed-1"
    spec = run.RunSpec(
        smoke(), PLACEMENT.make_policy, "deft", 1, folder, None, BACKENDS, CAPABILITIES
    )
    with pytest.raises(RunError, match="deft, seed 1: the line did not start; see") as caught:
        run.run_one(spec, lambda _: None)
    assert caught.value.__notes__ == ["and then: ovs-vsctl del-br x: status 1"]
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["complete"], manifest["reasons"][0]) == (False, "the run was cut short")
    assert (folder / "packets.parquet").is_file()


def test_a_comparison_that_failed_says_why_and_is_handed_back_though_it_cannot_be_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results"
    handed_back: list[Path] = []

    def fails(spec: run.RunSpec, progress: object) -> dict[str, Any]:
        spec.folder.mkdir(parents=True)
        (spec.folder / "packets.parquet").touch()
        (folder / "summary.json").mkdir()  # in whose place no file can be written
        raise RunError("the network fell")

    monkeypatch.setattr(compare, "clean_stale", list)
    monkeypatch.setattr(compare, "run_one", fails)
    monkeypatch.setattr(compare, "hand_back", handed_back.append)
    scenario = decided_by(smoke(), ["deft"], smoke().seeds)
    spec = compare.ComparisonSpec(SMOKE, scenario, PLACEMENT, CAPABILITIES, BACKENDS, DEFAULTS)
    with pytest.raises(RunError, match="the network fell") as caught:
        compare.compare_policies(spec, folder, lambda _: None, lambda what, share: None)
    assert len(caught.value.__notes__) == 1
    assert handed_back == [folder]
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["complete"] is False and "phases" in manifest
    assert yaml.safe_load((folder / "scenario.yaml").read_text(encoding="utf-8"))


def test_what_can_be_removed_is_removed_and_the_record_stays_for_what_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = "abcdef"
    removed: list[str] = []

    def removes(what: str) -> list[str]:
        removed.append(what)
        return []

    record = tmp_path / run_id
    record.mkdir()
    monkeypatch.setattr(ownership, "state_folder", lambda _: record)
    monkeypatch.setattr(ownership, "end_processes", lambda _: [])
    monkeypatch.setattr(ownership, "remove_bridges", bridge_stays)
    monkeypatch.setattr(ownership, "remove_interfaces", lambda _: removes("wires"))
    monkeypatch.setattr(ownership, "await_bridge_ports_gone", lambda _: None)
    monkeypatch.setattr(cgroups, "remove", lambda _: removes("cgroups"))
    monkeypatch.setattr(switch_class, "restore", lambda _: None)
    with pytest.raises(CommandError, match="del-br x"):
        ownership.clean(run_id)
    assert removed == ["wires", "cgroups"]
    assert record.is_dir()
