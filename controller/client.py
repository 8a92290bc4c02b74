"""The northbound interface as functions; light enough for any process to import."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.wiring import Wiring
from testbed.scenario.errors import RunError
from testbed.scenario.steering import Segment

CONNECT_S = 15.0
_RETRY_S = 0.02
REPLY_S = 30.0
"""Longer than an update that waits for its barriers in both rounds, and for one before it."""


class ControllerError(RunError):
    """The controller refused a request, or cannot be reached; the message says why."""


class ControllerClient:
    """A connection to the controller; one request at a time."""

    def __init__(self, path: Path | str, connect_s: float = CONNECT_S) -> None:
        """Connect to the socket at `path`, trying for `connect_s` while nobody listens.

        Raises ControllerError.
        """
        self._path = os.fspath(path)
        self._socket = _connect(self._path, connect_s)
        self._lines = self._socket.makefile("rb")
        self._number = 0

    def __enter__(self) -> ControllerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def topology(self, wiring: Wiring | Mapping[str, Any]) -> int:
        """Tell the wiring; returns the number of host rules. Raises ControllerError."""
        data = wiring.to_json() if isinstance(wiring, Wiring) else dict(wiring)
        return int(self._call("topology", data)["host_rules"])

    def wait(self, timeout_s: float) -> int:
        """Return when all switches are connected and have their host rules; how many there are.

        Raises ControllerError after `timeout_s`; it names those that are not ready.
        """
        result = self._call("wait", {"timeout_s": timeout_s}, timeout_s + REPLY_S)
        return int(result["switches"])

    def install(self, chain: str, segments: Sequence[Segment]) -> dict[str, int]:
        """Install or update a chain, make before break; returns when switches have confirmed.

        Gives {"rules": how many, "sent_ns": ..., "confirmed_ns": ...} on CLOCK_MONOTONIC, and
        "path_ns", the propagation on the longest way.
        Raises ControllerError.
        """
        data = [{"mac": s.mac, "source": s.source, "targets": list(s.targets)} for s in segments]
        return self._call("install", {"chain": chain, "segments": data})

    def remove(self, chain: str) -> int:
        """Delete a chain's rules; returns how many. Raises ControllerError."""
        return int(self._call("remove", {"chain": chain})["rules"])

    def status(self) -> dict[str, Any]:
        """Switches with their connection and rules, chains with their rules, host rules."""
        return self._call("status", {})

    def close(self) -> None:
        """End the connection."""
        self._lines.close()
        self._socket.close()

    def _call(
        self, method: str, params: Mapping[str, Any], timeout_s: float = REPLY_S
    ) -> dict[str, Any]:
        self._number += 1
        request = {"id": self._number, "method": method, "params": params}
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            line = self._lines.readline()
        except TimeoutError as error:
            # A late answer would be taken for that of the next request.
            self.close()
            raise ControllerError(f"{method}: no answer within {timeout_s} s") from error
        except (OSError, ValueError) as error:
            raise ControllerError(f"{method}: connection to {self._path} lost ({error})") from error
        if not line.endswith(b"\n"):
            raise ControllerError(f"{method}: the controller at {self._path} has ended")
        return self._result(method, json.loads(line))

    def _result(self, method: str, answer: dict[str, Any]) -> dict[str, Any]:
        if "error" in answer:
            raise ControllerError(f"{method}: {answer['error']['message']}")
        if answer["id"] != self._number:
            raise ControllerError(f"{method}: answer {answer['id']} to request {self._number}")
        result: dict[str, Any] = answer["result"]
        return result


def _connect(path: str, timeout_s: float) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    while True:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(_RETRY_S)
        try:
            peer.connect(path)
            return peer
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            peer.close()
            if time.monotonic() >= deadline:
                raise ControllerError(
                    f"no controller at {path} within {timeout_s} s ({error})"
                ) from error
        except OSError as error:
            peer.close()
            raise ControllerError(f"cannot connect to {path}: {error}") from error
        time.sleep(_RETRY_S)
