"""The controller's process: from start to SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from controller.app import listen
from controller.fabric import Fabric
from controller.northbound import Northbound
from testbed.results.events import EventLog

_STOP = {signal.SIGTERM, signal.SIGINT}


def run(openflow_port: int, northbound_path: Path, events_path: Path) -> None:
    """Serve switches and requests until SIGTERM or SIGINT; the process ends then.

    Raises OSError if the port, the socket or the event file cannot be had.
    """
    # Every thread inherits the mask, so that the signals wait for sigwait below.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    events = EventLog(events_path)
    fabric = Fabric(events)
    northbound = Northbound(northbound_path, fabric)
    try:
        listen(fabric, openflow_port)
        northbound.start()
        events.write("controller-started", openflow_port=openflow_port, pid=os.getpid())
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
    parser.add_argument("--openflow-port", type=_port, required=True, help="on 127.0.0.1")
    parser.add_argument("--northbound", type=Path, required=True, help="Unix socket to make")
    parser.add_argument("--events", type=Path, required=True, help="event log to append to")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        run(options.openflow_port, options.northbound, options.events)
    except OSError as error:
        print(f"controller: cannot start: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port}")
    return port
