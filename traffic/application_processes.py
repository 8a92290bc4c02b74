"""Real applications on user hosts: iperf3, and a server and clients of HTTP.

Each end is a process that waits for its time. iperf3 takes its place then, so there is no child
that could outlive it. HTTP is the standard library's.
"""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

from testbed.records.events import EventLog
from testbed.records.threads import run_together
from traffic.start import await_origin

NS_PER_S = 1_000_000_000
CHUNK_BYTES = 1 << 16
MAX_BLOCK_BYTES, BLOCKS_PER_S = 1 << 17, 20
"""What iperf3 writes at once: its own default at most, and so little that a rate is kept."""
ANSWER_S = 10.0
"""A fetch of which nothing is heard for so long has failed."""


def serve(config: dict[str, Any]) -> None:
    """The process at the destination: serves until SIGTERM.

    config: `kind` ("iperf3" or "http"), `bind` (address), `port`, `ready` (a file that is made as
    it begins), and for http `object_bytes`.
    """
    if config["kind"] == "iperf3":
        Path(config["ready"]).touch()
        words = ["iperf3", "-s", "-1", "-B", config["bind"], "-p", str(config["port"])]
        os.execvp(words[0], words)
    with _server(str(config["bind"]), int(config["port"]), int(config["object_bytes"])) as server:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        Path(config["ready"]).touch()
        server.serve_forever()


def use(config: dict[str, Any]) -> None:
    """The process at the source: waits for its time, then asks until its end.

    config: `kind`, `server` (address), `port`, `ready` and `origin` (see `traffic.start`), `at_ns`
    and `end_ns` (from the origin), `out` (path), for iperf3 `rate_bps` and `reverse`, for http
    `clients`, `object_bytes` and `think_s`.

    iperf3 writes its own report (-J) to `out`. http writes an event "fetch" for each fetch as it
    ends or fails: `t_ns` of its beginning, `client`, `connect_ns`, `first_byte_ns` and `total_ns`
    from there, `bytes`, and `error` (null if the whole object came).
    """
    origin_ns = await_origin(config)
    begin_ns = origin_ns + int(config["at_ns"])
    time.sleep(max(0, begin_ns - time.monotonic_ns()) / NS_PER_S)
    if config["kind"] == "iperf3":
        _become_iperf(config)
    _fetch_all(config, origin_ns + int(config["end_ns"]))


def _become_iperf(config: Mapping[str, Any]) -> None:
    seconds = (int(config["end_ns"]) - int(config["at_ns"])) // NS_PER_S
    words = ["iperf3", "-c", str(config["server"]), "-p", str(config["port"]), "-J"]
    words += ["-t", str(seconds), "--connect-timeout", str(round(ANSWER_S * 1000))]
    words += ["-R"] if config["reverse"] else []
    if config["rate_bps"] is not None:
        # iperf3 keeps a rate by waiting between blocks: the usual block is 1 Mbit.
        block_bytes = min(MAX_BLOCK_BYTES, int(config["rate_bps"] / BLOCKS_PER_S / 8))
        words += ["-b", f"{config['rate_bps']:.0f}", "-l", str(block_bytes)]
    out = os.open(config["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(out, 1)
    os.execvp(words[0], words)


def _server(address: str, port: int, object_bytes: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """The object, whatever is asked for."""
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(object_bytes))
            self.send_header("Connection", "close")
            self.end_headers()
            left, chunk = object_bytes, bytes(CHUNK_BYTES)
            while left > 0:
                left -= self.wfile.write(chunk[: min(left, CHUNK_BYTES)])

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the clients note every fetch."""

    class Server(ThreadingHTTPServer):
        def server_bind(self) -> None:
            """Bind, and ask no resolver for the host's name: there is none in a namespace."""
            TCPServer.server_bind(self)
            self.server_name, self.server_port = address, self.server_address[1]

    return Server((address, port), Handler)


def _fetch_all(config: Mapping[str, Any], end_ns: int) -> None:
    log = EventLog(config["out"])
    clients = range(int(config["clients"]))
    run_together({f"client-{n}": partial(_client, config, n, end_ns, log) for n in clients})
    log.close()


def _client(config: Mapping[str, Any], number: int, end_ns: int, log: EventLog) -> None:
    think_s, whole = float(config["think_s"]), int(config["object_bytes"])
    while time.monotonic_ns() < end_ns:
        row = _fetch(str(config["server"]), int(config["port"]), whole)
        log.write("fetch", client=number, **row)
        if row["error"] is not None and think_s == 0:
            time.sleep(0.1)  # a refused connection fails at once
        time.sleep(think_s)


def _fetch(server: str, port: int, whole: int) -> dict[str, Any]:
    began_ns = time.monotonic_ns()
    row: dict[str, Any] = {"t_ns": began_ns, "connect_ns": None, "first_byte_ns": None}
    connection = http.client.HTTPConnection(server, port, timeout=ANSWER_S)
    got, error = 0, None
    try:
        connection.connect()
        row["connect_ns"] = time.monotonic_ns() - began_ns
        connection.request("GET", "/")
        answer = connection.getresponse()
        row["first_byte_ns"] = time.monotonic_ns() - began_ns
        while chunk := answer.read(CHUNK_BYTES):
            got += len(chunk)
        if answer.status != 200 or got != whole:
            error = f"status {answer.status}, {got} of {whole} bytes"
    except (OSError, http.client.HTTPException) as failure:
        error = f"{type(failure).__name__}: {failure}"
    finally:
        connection.close()
    return {**row, "total_ns": time.monotonic_ns() - began_ns, "bytes": got, "error": error}
