"""The server agent: tells the FDU that its server is there, whether it hosts instances or not."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from typing import Any


def main(config: dict[str, Any]) -> None:
    """The process; `config`: name, fdu_socket, heartbeat_ns."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    endpoint.setblocking(False)
    while not stop.is_set():
        # A full queue is a late heartbeat; the FDU's timeout spans several.
        with contextlib.suppress(OSError):
            message = f"{config['name']} {time.monotonic_ns()}".encode()
            endpoint.sendto(message, config["fdu_socket"])
        stop.wait(config["heartbeat_ns"] / 1e9)
