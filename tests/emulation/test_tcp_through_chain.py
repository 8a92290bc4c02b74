"""TCP passes a chain of replicated functions both ways, and the NAT in it is seen by the peer."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from pathlib import Path

import pytest

from testbed.lab import Lab, open_lab
from testbed.orchestration import deploy
from testbed.orchestration.chain import destination_port
from testbed.scenario.load import load_scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.types import Placement
from testbed.substrate.ownership import clean
from testbed.substrate.probe import choose, probe

pytestmark = pytest.mark.emulation

SMOKE = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"
BYTES = 400_000


def inside(lab: Lab, host: str, *command: str) -> subprocess.Popen[str]:
    pid = str(lab.site.hosts[host].pid)
    return subprocess.Popen(
        ["nsenter", "--net", "--target", pid, *command], stdout=subprocess.PIPE, text=True
    )


def listening(lab: Lab, host: str, port: int) -> bool:
    shown = inside(lab, host, "ss", "-Hltn", f"sport = :{port}")
    return bool(shown.communicate(timeout=10)[0].strip())


def test_iperf3_through_nat_and_firewall(tmp_path: Path) -> None:
    scenario = load_scenario(SMOKE)
    plan = make_plan(scenario, 1)
    request = plan.requests[0]
    (tmp_path / "raw").mkdir()
    capabilities = probe()
    run_id = secrets.token_hex(3)
    backends = choose(capabilities)
    try:
        with open_lab(
            scenario, plan, run_id, tmp_path, backends, capabilities.realtime.available
        ) as lab:
            deploy.start_servers(lab.site)
            deploy.start_edges(lab.site)
            placed = deploy.deploy(lab.site, request, [Placement(0, 1), Placement(1, 2)])
            port = destination_port(request.id)
            source, target = f"user-{request.source}", f"user-{request.destination}"
            server = inside(lab, target, "iperf3", "-s", "-1", "-J", "-p", str(port))
            deadline = time.monotonic() + 10
            while not listening(lab, target, port):
                assert time.monotonic() < deadline, "iperf3 does not listen"
            address = deploy.user_address(request.destination)
            client = inside(
                lab, source, "iperf3", "-c", address, "-p", str(port), "-n", str(BYTES), "-J"
            )
            sent = json.loads(client.communicate(timeout=60)[0])
            received = json.loads(server.communicate(timeout=60)[0])
            stats = lab.site.control.call(lab.site.socket("r0-h0-m0"), "stats")
            deploy.remove(lab.site, placed)
    finally:
        clean(run_id)
    assert "error" not in sent, sent.get("error")
    assert received["end"]["sum_received"]["bytes"] >= BYTES
    assert received["start"]["accepted_connection"]["host"] == "100.64.0.1"
    assert stats["ok"]
