"""The northbound interface on a real socket: what is asked, answered, refused, survived."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.client import ControllerClient, ControllerError
from controller.fabric import Fabric
from controller.northbound import MAX_LINE_BYTES, Northbound, methods, reply
from testbed.records.events import EventLog, read_events
from testbed.scenario.steering import Segment, path_mac
from tests.support.controller_support import make_wiring
from tests.unit.controller.test_fabric import WIRING, Bench

MAC = path_mac(2, 0, 0)
BOUND_S = 20.0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Bench, Path]]:
    """A fabric with switches in memory behind a northbound socket."""
    bench = Bench(tmp_path)
    northbound = Northbound(tmp_path / "nb.sock", bench.fabric)
    northbound.start()
    yield bench, tmp_path / "nb.sock"
    northbound.close()
    bench.close()


def _ask(path: Path, data: bytes, answers: int) -> list[Any]:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(BOUND_S)
        peer.connect(str(path))
        peer.sendall(data)
        with peer.makefile("rb") as lines:
            return [json.loads(lines.readline()) for _ in range(answers)]


def test_a_chain_s_life_through_the_client(served: tuple[Bench, Path]) -> None:
    bench, path = served
    with ControllerClient(path) as client:
        assert client.topology(WIRING) == client.topology(WIRING.to_json()) == 18
        for switch in WIRING.switches:
            bench.switches.connect(switch.name)
        assert client.wait(BOUND_S) == 3
        answer = client.install("r0", [Segment(MAC, "user-0", ("server-1", "server-2"))])
        assert (
            set(answer) == {"rules", "sent_ns", "confirmed_ns", "path_ns"} and answer["rules"] == 3
        )
        assert bench.delivered() == {"server-1": 1, "server-2": 1}
        status = client.status()
        assert status["chains"] == {"r0": 3} and status["host_rules"] == 18
        assert status["switches"]["s1"] == {
            "connected": True,
            "confirmed": True,
            "rules": 7,
            "groups": 1,
        }
        assert client.remove("r0") == 3
        assert bench.delivered() == {}


def test_errors_reach_the_client_and_leave_the_connection_usable(
    served: tuple[Bench, Path],
) -> None:
    _, path = served
    with ControllerClient(path) as client:
        with pytest.raises(ControllerError, match="install: topology"):
            client.install("r0", [])
        client.topology(WIRING)
        with pytest.raises(ControllerError, match="not ready: s0, s1, s2"):
            client.wait(0.01)
        with pytest.raises(ControllerError, match=r"segments\.0\.source = 'nobody'"):
            client.install("r0", [Segment(MAC, "nobody", ("user-0",))])
        with pytest.raises(ControllerError, match=r"switches\.0\.dpid"):
            client.topology({**WIRING.to_json(), "switches": [{"name": "s0", "dpid": 0}]})
        assert client.status()["chains"] == {}


@pytest.mark.parametrize(
    ("line", "number", "words"),
    [
        (b"no json", None, "one line of JSON"),
        (b"\xff\xfe", None, "one line of JSON"),
        (b"[" * 200_000, None, "one line of JSON"),
        (b"[1]", None, "object"),
        (b'{"method":"status","params":{}}', None, "id = None"),
        (b'{"id":true,"method":"status","params":{}}', None, "id = True"),
        (b'{"id":1,"params":{}}', 1, "request.method"),
        (b'{"id":1,"method":"fly","params":{}}', 1, "method = 'fly'"),
        (b'{"id":1,"method":["status"],"params":{}}', 1, "method = "),
        (b'{"id":1,"method":"status","params":[]}', 1, "params = []"),
        (b'{"id":1,"method":"status","params":{"x":1}}', 1, "params.x"),
        (b'{"id":1,"method":"status","params":{},"y":1}', 1, "request.y"),
        (b'{"id":1,"method":"wait","params":{"timeout_s":NaN}}', 1, "params.timeout_s"),
        (b'{"id":1,"method":"wait","params":{"timeout_s":601}}', 1, "params.timeout_s"),
        (b'{"id":1,"method":"install","params":{"chain":"c","segments":{}}}', 1, "segments"),
        (
            b'{"id":1,"method":"install","params":{"chain":"c","segments":[{}]}}',
            1,
            "segments.0.mac",
        ),
        (b'{"id":1,"method":"remove","params":{"chain":""}}', 1, "params.chain"),
    ],
)
def test_a_malformed_request_gets_an_error_and_the_next_is_served(
    served: tuple[Bench, Path], line: bytes, number: int | None, words: str
) -> None:
    good = b'{"id":2,"method":"status","params":{}}'
    first, second = _ask(served[1], line + b"\n" + good + b"\n", 2)
    assert first["id"] == number and words in first["error"]["message"]
    assert second["id"] == 2 and "result" in second


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=5,
)


@given(
    method=st.sampled_from(["topology", "wait", "install", "remove", "status"]),
    params=st.dictionaries(
        st.sampled_from(["chain", "segments", "timeout_s", "switches", "links", "hosts"]),
        json_values,
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_parameters_get_an_answer(tmp_path: Path, method: str, params: dict[str, Any]) -> None:
    events = EventLog(tmp_path / "events.jsonl")
    try:
        known = methods(Fabric(events))
        answer = reply(known, json.dumps({"id": 1, "method": method, "params": params}).encode())
    finally:
        events.close()
    assert answer["id"] == 1 and ("error" in answer) != ("result" in answer)


def test_pipelined_requests_are_answered_in_order(served: tuple[Bench, Path]) -> None:
    _, path = served
    wiring = json.dumps(WIRING.to_json())
    lines = [f'{{"id":1,"method":"topology","params":{wiring}}}']
    lines += ['{"id":2,"method":"wait","params":{"timeout_s":0.05}}']
    lines += [f'{{"id":{n},"method":"status","params":{{}}}}' for n in range(3, 50)]
    answers = _ask(path, "\n".join([*lines, ""]).encode(), len(lines))
    assert [answer["id"] for answer in answers] == list(range(1, 50))


def test_one_connection_waits_while_another_is_served(served: tuple[Bench, Path]) -> None:
    bench, path = served
    with ControllerClient(path) as waiting, ControllerClient(path) as other:
        other.topology(WIRING)
        ready: list[int] = []
        thread = threading.Thread(target=lambda: ready.append(waiting.wait(BOUND_S)))
        thread.start()
        assert not any(s["connected"] for s in other.status()["switches"].values())
        for switch in WIRING.switches:
            bench.switches.connect(switch.name)
        thread.join(BOUND_S)
        assert ready == [3]


def test_a_line_without_end_is_refused(served: tuple[Bench, Path]) -> None:
    (answer,) = _ask(served[1], b" " * MAX_LINE_BYTES, 1)
    assert "JSON" in answer["error"]["message"]
    assert _ask(served[1], b'{"id":1,"method":"status","params":{}}\n', 1)[0]["id"] == 1


def test_a_client_that_leaves_early_harms_nobody(served: tuple[Bench, Path]) -> None:
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(served[1]))
            peer.sendall(b'{"id":1,"method":"status","params":{}}\n' * 50)
    assert _ask(served[1], b'{"id":1,"method":"status","params":{}}\n', 1)[0]["id"] == 1


def test_no_controller_is_an_error_within_the_bound(tmp_path: Path) -> None:
    with pytest.raises(ControllerError, match="no controller at"):
        ControllerClient(tmp_path / "none.sock", connect_s=0.05)


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "nb.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    events = EventLog(tmp_path / "events.jsonl")
    first = Northbound(path, Fabric(events))
    with pytest.raises(OSError, match="in use"):
        Northbound(path, Fabric(events))
    first.close()
    events.close()
    assert not path.exists()


@contextlib.contextmanager
def _process(
    folder: Path, option: str, listener: socket.socket | None = None, port: int = 0
) -> Iterator[subprocess.Popen[str]]:
    inherited = () if listener is None else (listener.fileno(),)
    command = [sys.executable, "-m", "controller", option, *map(str, inherited or (port,))]
    command += ["--northbound", str(folder / "nb.sock"), "--events", str(folder / "events.jsonl")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=inherited)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_serves_and_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        _process(tmp_path, "--openflow-fd", listener=listener) as process,
    ):
        port = int(listener.getsockname()[1])
        with ControllerClient(tmp_path / "nb.sock") as client:
            client.topology(make_wiring(1, []))
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(os.urandom(64))  # no OpenFlow at all
                assert client.status()["switches"]["s0"]["connected"] is False
            process.send_signal(number)
            assert process.wait(BOUND_S) == 0
        assert not (tmp_path / "nb.sock").exists()
    names = [event["event"] for event in read_events(tmp_path / "events.jsonl")]
    assert names[0] == "controller-started" and names[-1] == "controller-stopped"


def test_a_port_in_use_ends_the_process_with_a_message(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with _process(tmp_path, "--openflow-port", port=taken.getsockname()[1]) as process:
            assert process.wait(BOUND_S) == 1
            assert process.stderr is not None and "cannot start" in process.stderr.read()


def test_the_client_imports_nothing_heavy() -> None:
    heavy = "os_ken", "numpy", "pydantic", "oslo_config"
    code = f"import sys, controller.client; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
