"""TCP passes a chain of replicated functions both ways, and its peers see the NAT in it."""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.lab.lab import Lab, open_lab
from testbed.orchestration.deploying import chain, deploy, users
from testbed.orchestration.deploying.chain import destination_port
from testbed.orchestration.deploying.watchers import start_servers
from testbed.scenario.load import load_scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.types import Placement
from testbed.substrate.ownership import clean
from testbed.substrate.probe import choose, probe
from tests.support.places import SMOKE

pytestmark = pytest.mark.emulation

BYTES = 400_000
NAT_ADDRESS = "100.64.0.1"
"""Of the first function of request 0."""


def inside(lab: Lab, host: str, *command: str) -> subprocess.Popen[str]:
    pid = str(lab.site.hosts[host].pid)
    return subprocess.Popen(
        ["nsenter", "--net", "--target", pid, *command], stdout=subprocess.PIPE, text=True
    )


def listening(lab: Lab, host: str, port: int) -> bool:
    shown = inside(lab, host, "ss", "-Hltn", f"sport = :{port}")
    return bool(shown.communicate(timeout=10)[0].strip())


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """The smoke network with its one chain in place."""
    scenario = load_scenario(SMOKE)
    plan = make_plan(scenario, 1)
    (tmp_path / "raw").mkdir()
    capabilities = probe()
    run_id = secrets.token_hex(3)
    realtime = capabilities.realtime.available
    try:
        with open_lab(scenario, plan, run_id, tmp_path, choose(capabilities), realtime) as opened:
            start_servers(opened.site)
            users.start_edges(opened.site)
            placed = deploy.deploy(
                opened.site, plan.requests[0], [Placement(0, 1), Placement(1, 2)]
            )
            yield opened
            deploy.remove(opened.site, placed)
    finally:
        clean(run_id)


def ends(lab: Lab) -> tuple[str, str, str, str]:
    """Source host, destination host, the destination's address and the chain's port."""
    request = lab.site.plan.requests[0]
    address = chain.user_address(request.destination)
    port = destination_port(request.id)
    return f"user-{request.source}", f"user-{request.destination}", address, str(port)


def wait_until_listening(lab: Lab, host: str, port: str) -> None:
    deadline = time.monotonic() + 10
    while not listening(lab, host, int(port)):
        assert time.monotonic() < deadline, f"nobody listens on {port}"


def test_iperf3_through_nat_and_firewall(lab: Lab) -> None:
    source, target, address, port = ends(lab)
    server = inside(lab, target, "iperf3", "-s", "-1", "-J", "-p", port)
    wait_until_listening(lab, target, port)
    client = inside(lab, source, "iperf3", "-c", address, "-p", port, "-t", "2", "-J")
    sent = json.loads(client.communicate(timeout=60)[0])
    received = json.loads(server.communicate(timeout=60)[0])
    assert "error" not in sent, sent.get("error")
    assert received["end"]["sum_received"]["bytes"] > 100_000
    assert received["start"]["accepted_connection"]["host"] == NAT_ADDRESS


def test_a_file_comes_back_whole_through_the_chain(lab: Lab, tmp_path: Path) -> None:
    source, target, address, port = ends(lab)
    content = secrets.token_bytes(BYTES)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(content)
    serve = (
        "import http.server, os, socketserver;"
        f"os.chdir({str(tmp_path / 'served')!r});"
        # HTTPServer would ask for the name of its address, which nobody here can tell.
        f"socketserver.TCPServer(({address!r}, {port}), http.server.SimpleHTTPRequestHandler)"
        ".serve_forever()"
    )
    server = inside(lab, target, sys.executable, "-c", serve)
    try:
        wait_until_listening(lab, target, port)
        url = f"http://{address}:{port}/file"
        code = (
            "import hashlib, urllib.request;"
            f"body = urllib.request.urlopen({url!r}, timeout=60).read();"
            "print(hashlib.sha256(body).hexdigest())"
        )
        client = inside(lab, source, sys.executable, "-c", code)
        printed = client.communicate(timeout=90)[0].strip()
    finally:
        server.kill()
        server.communicate()
    assert printed == hashlib.sha256(content).hexdigest()
