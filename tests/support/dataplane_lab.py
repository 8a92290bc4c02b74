"""Namespaces on one flooding bridge, and real data plane processes inside them.

The bridge knows none of the virtual MAC addresses, so it floods every chain frame to every port:
both members of a group get each frame, as from a group table that duplicates.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from testbed.orchestration.messages.control_client import ControlClient
from testbed.substrate.processes import cpu_ns
from tests.support.places import ROOT

CLONE_NEWNET = 0x40000000
INTERFACE = "eth0"
_PROGRAM = """
import importlib, json, sys
module, config = sys.argv[1:]
importlib.import_module(module).main(json.loads(config))
"""


def until(condition: Callable[[], bool], what: str, bound_s: float = 20.0) -> None:
    """Wait for `condition`; fail with `what` after `bound_s`."""
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {bound_s} s"
        time.sleep(0.005)


class Lab:
    """Hosts on a bridge; everything that it made goes when the context ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = f"dp{os.getpid()}"
        self._namespaces: list[str] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._hosts = 0
        self.control = ControlClient(folder / "control")

    def __enter__(self) -> Lab:
        self._bridge = self._namespace("bridge")
        self._ip("-n", self._bridge, "link", "add", "br0", "type", "bridge")
        self._ip("-n", self._bridge, "link", "set", "br0", "up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        for name in self._namespaces:
            self._ip("netns", "del", name)
        self.control.close()

    def host(self, name: str, address: str | None = None) -> str:
        """A new host on the bridge; its MAC address (the interface is `INTERFACE`)."""
        namespace = self._namespace(name)
        self._hosts += 1
        mac = f"06:00:00:00:00:{self._hosts:02x}"
        port = f"p{self._hosts}"
        self._ip("-n", self._bridge, "link", "add", port, "type", "veth",
                 "peer", "name", INTERFACE, "netns", namespace)  # fmt: skip
        self._ip("-n", namespace, "link", "set", INTERFACE, "address", mac)
        self._ip("-n", self._bridge, "link", "set", port, "master", "br0", "up")
        self._ip("-n", namespace, "link", "set", "lo", "up")
        if address is not None:
            self._ip("-n", namespace, "address", "add", f"{address}/24", "dev", INTERFACE)
        self._ip("-n", namespace, "link", "set", INTERFACE, "up")
        return mac

    def start(self, host: str, module: str, config: dict[str, Any]) -> None:
        """Start `main(config)` of `module` on a host, and wait until it takes orders."""
        name = config["name"]
        command = ["ip", "netns", "exec", f"{self._mark}-{host}",
                   sys.executable, "-c", _PROGRAM, module, json.dumps(config)]  # fmt: skip
        with open(self.folder / f"{name}.log", "wb") as log:
            self._processes[name] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.control.call(config["control_socket"], "ping", 30.0)

    def order(self, name: str, op: str, **fields: Any) -> dict[str, Any]:
        """Give a process an order; its answer."""
        return self.control.call(self.socket(name), op, **fields)

    def socket(self, name: str) -> str:
        """The control socket of a process."""
        return str(self.folder / f"{name}.sock")

    def common(self, name: str) -> dict[str, Any]:
        """The keys that all configurations share."""
        return {
            "name": name,
            "interface": INTERFACE,
            "control_socket": self.socket(name),
            "events": str(self.folder / "events.jsonl"),
            "dump": str(self.folder / f"{name}.json"),
        }

    def end(self, name: str) -> dict[str, Any]:
        """SIGTERM; what the process dumped."""
        process = self._processes[name]
        process.send_signal(signal.SIGTERM)
        log = self.folder / f"{name}.log"
        assert process.wait(20) == 0, log.read_text()
        assert log.read_text() == ""
        dumped: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return dumped

    def kill(self, name: str) -> None:
        """SIGKILL, and wait for the end."""
        self._processes[name].kill()
        self._processes[name].wait()

    def stop(self, name: str) -> None:
        """SIGSTOP."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._processes[name].send_signal(signal.SIGCONT)

    def cpu_s(self, name: str) -> float:
        """CPU time of a process so far."""
        return cpu_ns(self._processes[name].pid) / 1e9

    @contextlib.contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """Sockets that are made within the context belong to the host."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net", "rb") as home:
            with open(f"/run/netns/{self._mark}-{host}", "rb") as there:
                assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
            try:
                yield
            finally:
                assert libc.setns(home.fileno(), CLONE_NEWNET) == 0

    def _namespace(self, name: str) -> str:
        namespace = f"{self._mark}-{name}"
        self._ip("netns", "add", namespace)
        self._namespaces.append(namespace)
        return namespace

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
