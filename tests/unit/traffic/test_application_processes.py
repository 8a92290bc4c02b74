"""Applications: what a scenario may ask for, what HTTP's ends do, and what becomes of reports."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.records.application_paths import application_path
from testbed.records.events import read_events
from testbed.results.application_figures import (
    of_fetches,
    of_iperf,
    read_applications,
)
from testbed.scenario.errors import InputError
from testbed.scenario.load import parse_scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.types import NS_PER_S, RunPlan
from traffic.application_processes import _server, serve, use

SCENARIO = """
format: 1
name: applied
topology:
  nodes: [{name: west}, {name: east}]
  links: [{a: west, b: east, length_km: 100}]
servers: {default: {cpu_cores: 1.0}}
chains:
  - {name: one, functions: [fw], rate_pps: 100, l3_bytes: 200, delay_bound_s: 0.1}
traffic:
  duration_s: 20
  pairs: [[west, east]]
  initial_requests: 2
  applications: APPLICATIONS
policies: [deft]
seeds: [1]
"""


def plan_of(applications: str) -> RunPlan:
    return make_plan(parse_scenario(SCENARIO.replace("APPLICATIONS", applications)), 1)


def test_applications_are_planned_with_their_options() -> None:
    plan = plan_of(
        "[{kind: iperf3, request: 0, at_s: 2, duration_s: 3, rate_bps: 1e6},"
        " {kind: http, request: 1, at_s: 5, duration_s: 4, clients: 3}]"
    )
    iperf, http = plan.applications
    assert (iperf.kind, iperf.request, iperf.at_ns, iperf.end_ns) == (
        "iperf3", 0, 2 * NS_PER_S, 5 * NS_PER_S,
    )  # fmt: skip
    assert dict(iperf.options) == {"rate_bps": 1e6, "reverse": False}
    assert dict(http.options) == {"clients": 3, "object_bytes": 100_000, "think_s": 0.0}
    assert plan.refused == ("traffic.applications 2 given",)


def test_one_of_a_request_that_this_seed_lacks_is_left_out() -> None:
    assert plan_of("[{kind: http, request: 7, at_s: 2, duration_s: 3}]").applications == ()


@pytest.mark.parametrize(
    ("applications", "expected"),
    [
        ("[{kind: http, request: 0, at_s: 0, duration_s: 3}]", "within the life of request 0"),
        ("[{kind: http, request: 0, at_s: 19, duration_s: 3}]", "within the life of request 0"),
        ("[{kind: ftp, request: 0, at_s: 2, duration_s: 3}]", "iperf3"),
        (
            "[{kind: http, request: 0, at_s: 2, duration_s: 1},"
            " {kind: iperf3, request: 0, at_s: 5, duration_s: 1}]",
            "one of the applications a request",
        ),
    ],
)
def test_what_cannot_be_is_refused(applications: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        plan_of(applications)


IPERF = "{kind: iperf3, request: 0, at_s: 2, duration_s: DURATION, rate_bps: RATE}"


@pytest.mark.parametrize(
    ("duration", "rate", "key", "expected"),
    [
        ("0.9", "1e6", "duration_s", "a whole number from 1 to 86400 (seconds)"),
        ("2.6", "1e6", "duration_s", "a whole number from 1 to 86400 (seconds)"),
        ("1e300", "1e6", "duration_s", "a whole number"),
        ("2", "0.4", "rate_bps", "from 10000 to"),
    ],
)
def test_a_transfer_that_iperf3_cannot_carry_out_is_refused(
    duration: str, rate: str, key: str, expected: str
) -> None:
    application = IPERF.replace("DURATION", duration).replace("RATE", rate)
    with pytest.raises(InputError) as caught:
        plan_of(f"[{application}]")
    assert caught.value.field == f"traffic.applications.0.{key}"
    assert expected in caught.value.expected


def listening(port: int) -> bool:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
@pytest.mark.parametrize("rate_bps", [10e3, 200e3])
def test_iperf3_keeps_the_rate_and_the_time_that_were_asked_for(
    rate_bps: float, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ends: dict[str, Any] = {"kind": "iperf3", "bind": "127.0.0.1", "server": "127.0.0.1"}
    ends |= {"port": port, "at_ns": 0, "end_ns": NS_PER_S}
    ends |= {"rate_bps": rate_bps, "reverse": False, "out": str(tmp_path / "report.json")}
    origin = tmp_path / "origin"
    origin.write_text(str(time.monotonic_ns()))
    ends |= {"origin": str(origin)}
    serving = context.Process(target=serve, args=({**ends, "ready": str(tmp_path / "serving")},))
    serving.start()
    deadline = time.monotonic() + 30
    while not listening(port) and time.monotonic() < deadline:
        time.sleep(0.01)
    using = context.Process(target=use, args=({**ends, "ready": str(tmp_path / "using")},))
    using.start()
    using.join(30)
    serving.kill()
    serving.join()
    assert using.exitcode == 0
    sent = json.loads((tmp_path / "report.json").read_text())["end"]["sum_sent"]
    # It may send a block of a twentieth of a second more than the rate asks for.
    assert rate_bps <= sent["bytes"] * 8 <= 1.1 * rate_bps
    assert 1.0 <= sent["seconds"] < 2.0


@pytest.fixture
def server() -> Iterator[int]:
    """A server of objects of 200,000 bytes on loopback; its port."""
    with _server("127.0.0.1", 0, 200_000) as found:
        process = multiprocessing.get_context("fork").Process(target=found.serve_forever)
        process.start()
        try:
            yield found.server_address[1]
        finally:
            process.kill()
            process.join()


def fetch(port: int, out: Path, **changes: Any) -> dict[str, Any]:
    """What clients got that fetch for half a second, as a run would report it."""
    application = {"kind": "http", "request": 0, "at_ns": 0, "end_ns": NS_PER_S // 2}
    (out / "raw").mkdir()
    (out / "origin").write_text(str(time.monotonic_ns()))
    config = {
        **application,
        "server": "127.0.0.1",
        "port": port,
        "ready": str(out / "ready"),
        "origin": str(out / "origin"),
        "out": str(application_path(out, 0, "http")),
        "clients": 2,
        "object_bytes": 200_000,
        "think_s": 0.05,
        **changes,
    }
    use(config)
    assert (out / "ready").exists()
    (entry,) = read_applications(out, [application])
    return entry


def test_fetches_are_noted_one_by_one(server: int, tmp_path: Path) -> None:
    entry = fetch(server, tmp_path)
    rows = list(read_events(application_path(tmp_path, 0, "http")))
    assert entry["fetches"] == len(rows) >= 2 and entry["failed"] == 0
    assert {row["client"] for row in rows} == {0, 1}
    assert {row["bytes"] for row in rows} == {200_000}
    for row in rows:
        assert 0 < row["connect_ns"] <= row["first_byte_ns"] <= row["total_ns"]
    assert entry["goodput_bps"] == len(rows) * 200_000 * 8 * 2


def test_percentiles_are_of_fetches_that_did_not_fail() -> None:
    times = {"connect_ns": 1, "first_byte_ns": 2, "bytes": 10}
    rows: list[dict[str, int | str | None]] = [
        {**times, "total_ns": ns, "error": None} for ns in (70, 30, 50, 20, 60, 40)
    ]
    rows.append({**times, "total_ns": 1, "error": "refused"})
    entry = of_fetches(rows, NS_PER_S)
    assert (entry["fetches"], entry["failed"], entry["goodput_bps"]) == (7, 1, 480)
    assert entry["total_ns"]["p50"]["value"] == 40


def test_an_object_that_is_not_whole_has_failed(server: int, tmp_path: Path) -> None:
    entry = fetch(server, tmp_path, object_bytes=200_001, clients=1)
    assert entry["failed"] == entry["fetches"] > 0
    assert entry["goodput_bps"] == 0 and entry["total_ns"]["p50"]["value"] is None


def test_nobody_there_is_a_failure_not_an_end(tmp_path: Path) -> None:
    entry = fetch(1, tmp_path, clients=1, think_s=0.0)
    assert entry["failed"] == entry["fetches"] >= 2
    rows = list(read_events(application_path(tmp_path, 0, "http")))
    assert all("refused" in row["error"] for row in rows)


def test_reports_of_iperf3_that_say_nothing_say_why(tmp_path: Path) -> None:
    assert of_iperf({"error": "unable to connect", "end": {}})["error"] == "unable to connect"
    (tmp_path / "raw").mkdir()
    application = {"kind": "iperf3", "request": 0, "at_ns": 0, "end_ns": 1}
    assert read_applications(tmp_path, [application])[0]["error"] == "it wrote nothing"
    path = application_path(tmp_path, 0, "iperf3")
    path.write_text("{")
    assert "cannot be read" in read_applications(tmp_path, [application])[0]["error"]
    report = {
        "end": {
            "sum_sent": {"retransmits": 3},
            "sum_received": {"bits_per_second": 1e6},
            "streams": [{"sender": {"mean_rtt": 20_000}}],
        }
    }
    path.write_text(json.dumps(report))
    assert read_applications(tmp_path, [application]) == [
        {
            "kind": "iperf3", "request": 0, "goodput_bps": 1e6, "retransmits": 3,
            "mean_rtt_ns": 20_000_000, "error": None,
        }
    ]  # fmt: skip
