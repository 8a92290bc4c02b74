"""Captures of a run: Wireshark's dumpcap on ports of switches, pcapng with nanoseconds."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from testbed.scenario.capture import CaptureSpec
from testbed.scenario.endings import clean_up
from testbed.scenario.types import Topology
from testbed.substrate.commands import CommandError
from testbed.substrate.layout import Layout

BUFFER_MIB = 16
"""The kernel's buffer of each capture, for what comes while dumpcap waits for a core."""
END_S = 5.0
SETTLE_S = 0.6
"""The kernel hands dumpcap what it captured when a block of its buffer is full or 0.25 s old."""


def interface_of(spec: CaptureSpec, layout: Layout, topology: Topology) -> str:
    """The interface, in the root namespace, of the port that `spec` names."""
    if spec.link is not None:
        a, b = (topology.index_of(end) for end in spec.link)
        for plan in layout.links:
            if (plan.link.a, plan.link.b) == (a, b):
                return plan.a_interface
            if (plan.link.b, plan.link.a) == (a, b):
                return plan.b_interface
        raise KeyError(spec.name)
    role, name = ("server", spec.server) if spec.server is not None else ("user", spec.user)
    node = topology.index_of(str(name))
    return next(h.switch_interface for h in layout.hosts if (h.role, h.node) == (role, node))


class Captures:
    """Captures that are under way; a context manager that begins and ends them.

    `ports` are (name, interface, bytes of each frame or 0); `folder` takes `<name>.pcapng` and
    `<name>.log`. What is captured is complete from the entry on. dumpcap gets SIGTERM when the
    harness dies, and so ends its file in order then too, but for the last quarter of a second.
    """

    def __init__(self, ports: Sequence[tuple[str, str, int]], folder: Path) -> None:
        self._ports = ports
        self._folder = folder
        self._running: dict[str, subprocess.Popen[str]] = {}
        self.cut_short: list[str] = []
        """Those that had ended before they were to end, once all have ended."""

    def __enter__(self) -> Captures:
        try:
            for name, interface, snap_bytes in self._ports:
                self._start(name, interface, snap_bytes)
        except BaseException as error:
            clean_up(error, self.close)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the captures; their files are whole then.

        What passed just before is waited for: it would be lost with the kernel's open block.
        """
        if self._running:
            time.sleep(SETTLE_S)
        for name, process in self._running.items():
            status = process.poll()
            if status is not None:
                self.cut_short.append(f"{name}: dumpcap ended with status {status}")
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
        self._running.clear()

    def _start(self, name: str, interface: str, snap_bytes: int) -> None:
        if shutil.which("dumpcap") is None:
            raise CommandError("dumpcap is not installed, which captures need: install tshark")
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{name}.pcapng"
        words = ["setpriv", "--pdeathsig", "TERM", "dumpcap", "-q", "-i", interface]
        words += ["-B", str(BUFFER_MIB), "-w", str(path)]
        if snap_bytes:
            words += ["-s", str(snap_bytes)]
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._running[name] = process
        said = []
        # It names its file when the interface is open and what passes is captured.
        for line in process.stderr or ():
            said.append(line.strip())
            if line.startswith("File:"):
                return
        raise CommandError(f"{' '.join(words)}: {'; '.join(said)}")
