"""Runs the controller's process, from its start to SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from controller.app import listen
from controller.fabric import Fabric
from controller.northbound import Northbound
from testbed.records.events import EventLog

_STOP = {signal.SIGTERM, signal.SIGINT}


LOOPBACK = "127.0.0.1"


def run(listener: socket.socket, northbound_path: Path, events_path: Path) -> None:
    """Serve switches and requests until SIGTERM or SIGINT; the process ends then.

    `listener` is where switches connect to. Raises OSError if the northbound socket or the event
    file cannot be had.
    """
    threading.excepthook = _end_with
    # Every thread inherits the mask, so that the signals wait for sigwait below.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    events = EventLog(events_path)
    fabric = Fabric(events)
    northbound = Northbound(northbound_path, fabric)
    try:
        listen(fabric, listener)
        northbound.start()
        events.write("controller-started", openflow_port=listener.getsockname()[1], pid=os.getpid())
        signal.sigwait(_STOP)
    finally:
        northbound.close()
    events.write("controller-stopped")
    sys.stdout.flush()
    sys.stderr.flush()
    # os-ken's threads wait for ever and are no daemons: joining them would hang.
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of `python -m controller`."""
    parser = argparse.ArgumentParser(prog="controller", description="OpenFlow 1.3 steering")
    openflow = parser.add_mutually_exclusive_group(required=True)
    openflow.add_argument("--openflow-port", type=_port, help="to listen on, at 127.0.0.1")
    openflow.add_argument("--openflow-fd", type=int, help="a socket that listens already")
    parser.add_argument("--northbound", type=Path, required=True, help="Unix socket to make")
    parser.add_argument("--events", type=Path, required=True, help="event log to append to")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        run(_listener(options), options.northbound, options.events)
    except OSError as error:
        print(f"controller: cannot start: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _listener(options: argparse.Namespace) -> socket.socket:
    if options.openflow_fd is not None:
        return socket.socket(fileno=options.openflow_fd)
    return socket.create_server((LOOPBACK, options.openflow_port))


def _end_with(failure: threading.ExceptHookArgs) -> None:
    """End the process with the error of a thread: without it, requests would wait in vain."""
    threading.__excepthook__(failure)
    sys.stderr.flush()
    os._exit(1)


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port}")
    return port
