"""The northbound interface: JSON lines on a Unix stream socket.

A request `{"id": n, "method": m, "params": {}}` is answered by `{"id": n, "result": {}}` or
`{"id": n, "error": {"message": text}}`, in the order of the requests on each connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from controller.fabric import Fabric, FabricError
from controller.rules import SegmentError
from controller.wiring import Wiring, WiringError
from testbed.records.sockets import bind_private
from testbed.scenario.errors import RunError
from testbed.scenario.steering import Segment

MAX_LINE_BYTES = 16 << 20
MAX_WAIT_S = 600.0


class RequestError(RunError):
    """A malformed request; the message names the field."""


class Northbound:
    """Serves a fabric's requests, a thread for each connection."""

    def __init__(self, path: Path | str, fabric: Fabric) -> None:
        """Bind the socket at `path`, which only its owner may use; a stale socket is replaced.

        Raises OSError if something else is there or serves there.
        """
        self._path = os.fspath(path)
        self._methods = methods(fabric)
        _remove_stale(self._path)
        self._socket = socket.socket(socket.AF_UNIX)
        bind_private(self._socket, self._path)
        self._socket.listen(128)

    def start(self) -> None:
        """Accept connections in the background."""
        threading.Thread(target=self._accept, name="northbound", daemon=True).start()

    def close(self) -> None:
        """Accept no more and remove the socket."""
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        # A peer that goes away has no more wishes.
        with peer, peer.makefile("rb") as lines, contextlib.suppress(ConnectionError):
            while line := lines.readline(MAX_LINE_BYTES):
                whole = line.endswith(b"\n")
                text = line if whole else b"a line without end"
                peer.sendall(json.dumps(reply(self._methods, text)).encode() + b"\n")
                if not whole:
                    return


Method = Callable[[Mapping[str, Any]], dict[str, Any]]


def methods(fabric: Fabric) -> dict[str, Method]:
    """What can be asked of a fabric, by name."""

    def topology(params: Mapping[str, Any]) -> dict[str, Any]:
        return {"host_rules": fabric.set_topology(Wiring.from_json(params))}

    def wait(params: Mapping[str, Any]) -> dict[str, Any]:
        timeout_s = _exact(params, "timeout_s")["timeout_s"]
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
            raise RequestError(f"params.timeout_s = {timeout_s!r}: expected seconds")
        if not 0 <= timeout_s <= MAX_WAIT_S:
            raise RequestError(f"params.timeout_s = {timeout_s!r}: expected 0 to {MAX_WAIT_S}")
        return {"switches": fabric.wait_ready(float(timeout_s))}

    def install(params: Mapping[str, Any]) -> dict[str, Any]:
        _exact(params, "chain", "segments")
        return asdict(fabric.install(_chain(params), _segments(params["segments"])))

    def remove(params: Mapping[str, Any]) -> dict[str, Any]:
        _exact(params, "chain")
        return {"rules": fabric.remove(_chain(params))}

    def status(params: Mapping[str, Any]) -> dict[str, Any]:
        _exact(params)
        return fabric.status()

    return {
        "topology": topology,
        "wait": wait,
        "install": install,
        "remove": remove,
        "status": status,
    }


def reply(known: Mapping[str, Method], line: bytes) -> dict[str, Any]:
    """The answer to one line, whatever it holds."""
    number: object = None
    try:
        request = _request(line)
        number = request.get("id")
        if isinstance(number, bool) or not isinstance(number, int):
            number = None
            raise RequestError(f"id = {request.get('id')!r}: expected a whole number")
        _exact(request, "id", "method", "params", field="request")
        method, params = request["method"], request["params"]
        if not isinstance(method, str) or method not in known:
            raise RequestError(f"method = {method!r}: expected one of {', '.join(known)}")
        if not isinstance(params, dict):
            raise RequestError(f"params = {params!r}: expected an object")
        return {"id": number, "result": known[method](params)}
    except (RequestError, WiringError, SegmentError, FabricError) as error:
        return {"id": number, "error": {"message": str(error)}}


def _request(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"request: expected one line of JSON ({error})") from error
    if not isinstance(request, dict):
        raise RequestError("request: expected an object with id, method and params")
    return request


def _exact(data: Mapping[str, Any], *names: str, field: str = "params") -> Mapping[str, Any]:
    for name in names:
        if name not in data:
            raise RequestError(f"{field}.{name}: expected a value (the key is missing)")
    for name in data:
        if name not in names:
            raise RequestError(f"{field}.{name}: expected no keys but {', '.join(names) or 'none'}")
    return data


def _chain(params: Mapping[str, Any]) -> str:
    chain = params["chain"]
    if not isinstance(chain, str) or not chain:
        raise RequestError(f"params.chain = {chain!r}: expected a name")
    return chain


def _segments(data: object) -> list[Segment]:
    if not isinstance(data, list):
        raise RequestError(f"params.segments = {data!r}: expected a list")
    segments = []
    for number, item in enumerate(data):
        field = f"params.segments.{number}"
        if not isinstance(item, dict):
            raise RequestError(f"{field} = {item!r}: expected an object")
        _exact(item, "mac", "source", "targets", field=field)
        targets = item["targets"]
        if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
            raise RequestError(f"{field}.targets = {targets!r}: expected a list of names")
        for name in ("mac", "source"):
            if not isinstance(item[name], str):
                raise RequestError(f"{field}.{name} = {item[name]!r}: expected a string")
        segments.append(Segment(item["mac"], item["source"], tuple(targets)))
    return segments


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on; leave anything else for bind() to complain of."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
