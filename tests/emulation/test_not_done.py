"""A run in which something that was planned does not happen is not valid, and says what it was."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.placement.policies import make_policy
from testbed.lab import run as run_module
from testbed.lab.lab import Lab, open_lab
from testbed.lab.run import RunSpec, run_one
from testbed.orchestration.detection.watch import ServerWatch
from testbed.scenario.load import load_scenario
from testbed.substrate.backend_choice import backends_for
from testbed.substrate.commands import CommandError
from testbed.substrate.emulated_network import Network
from testbed.substrate.ownership import known_runs
from testbed.substrate.probe import probe
from tests.support.places import SMOKE

pytestmark = pytest.mark.emulation

KILL_S = 2.0


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    scenario, capabilities = load_scenario(SMOKE), probe()
    backends = backends_for(capabilities, scenario)
    return RunSpec(scenario, make_policy, "deft", 1, tmp_path / "run", None, backends, capabilities)


def manifest(spec: RunSpec) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((spec.folder / "manifest.json").read_text())
    return found


def test_a_fault_that_cannot_be_and_a_receiver_that_dies(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    labs: list[Lab] = []

    @contextlib.contextmanager
    def watched(*arguments: Any) -> Iterator[Lab]:
        with open_lab(*arguments) as lab:
            labs.append(lab)
            yield lab

    def refused(network: Network, node: int) -> None:
        raise CommandError("the interface is gone")

    def strike(at_s: float) -> None:
        pid = labs[0].site.spawner.pid("receiver-2")
        if at_s > KILL_S and pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(run_module, "open_lab", watched)
    monkeypatch.setattr(Network, "server_down", refused)
    summary = run_one(spec, strike)
    assert summary["valid"] is False
    reasons = manifest(spec)["reasons"]
    fault = "fault server-down at node 2, due at 4 s, did not happen: the interface is gone"
    assert fault in reasons
    assert "receiver-2 was killed by SIGKILL, and nobody had asked it to" in reasons
    assert manifest(spec)["run_id"] not in known_runs()


def test_what_ends_a_thread_of_the_run_ends_the_run(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(watch: ServerWatch, node: int) -> int:
        raise KeyError(f"node {node}")

    monkeypatch.setattr(ServerWatch, "_memory", broken)
    with pytest.raises(KeyError, match="node 0"):
        run_one(spec, lambda _: None)
    found = manifest(spec)
    assert (found["complete"], found["valid"]) == (False, False)
    assert found["run_id"] not in known_runs()
