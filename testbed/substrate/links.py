"""How links get their delay, rate and queue: netem in the kernel, or the line process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from testbed.scenario.types import NS_PER_S, Link
from testbed.substrate.commands import json_of, tc_batch
from testbed.substrate.layout import Layout, LinkPlan, switch_name
from testbed.substrate.line import is_ready
from testbed.substrate.ownership import RUN_VARIABLE

_START_S = 30.0
_STOP_S = 5.0
_POLL_S = 0.01
_TOLERANCE = 0.01


class LinkError(Exception):
    """A link does not have what was asked for: says the interface, what it has, what was asked."""


def netem_limit(link: Link, frame_bytes: int) -> int:
    """netem's limit in packets: the queue and what is in flight, in frames of `frame_bytes`.

    netem counts packets where the line counts bytes, and counts those in flight too.
    """
    in_flight_bytes = link.rate_bps * link.delay_ns / (8 * NS_PER_S)
    return math.ceil((link.queue_bytes + in_flight_bytes) / frame_bytes) + 1


def set_netem(layout: Layout, frame_bytes: int) -> None:
    """Put netem on both ends of every link and read back that it is there.

    Raises CommandError if tc refuses, LinkError if what is read back differs.
    """
    tc_batch(
        f"qdisc replace dev {interface} root netem delay {plan.link.delay_ns}ns "
        f"rate {plan.link.rate_bps}bit limit {netem_limit(plan.link, frame_bytes)}"
        for plan in layout.links
        for interface in (plan.a_interface, plan.b_interface)
    )
    found = {entry["dev"]: entry for entry in json_of(["tc", "-j", "qdisc", "show"]) or []}
    for plan in layout.links:
        for interface in (plan.a_interface, plan.b_interface):
            check_netem(interface, found.get(interface, {}), plan.link, frame_bytes)


def check_netem(interface: str, found: dict[str, Any], link: Link, frame_bytes: int) -> None:
    """LinkError unless `found`, from `tc -j qdisc show`, is the netem that the link asks for."""
    options = found.get("options", {})
    # tc prints the delay in seconds, older releases inside "delay", and the rate in bytes.
    delay = options.get("delay", {})
    delay_s = float(delay.get("delay", 0.0)) if isinstance(delay, dict) else float(delay)
    rate = options.get("rate", {})
    rate_bps = 8 * float(rate.get("rate", 0.0)) if isinstance(rate, dict) else 8 * float(rate)
    same = (
        found.get("kind") == "netem"
        and math.isclose(delay_s, link.delay_ns / NS_PER_S, rel_tol=_TOLERANCE, abs_tol=2e-6)
        and math.isclose(rate_bps, link.rate_bps, rel_tol=_TOLERANCE)
        and options.get("limit") == netem_limit(link, frame_bytes)
    )
    if not same:
        raise LinkError(
            f"{interface}: tc shows {found}, asked for netem with delay {link.delay_ns} ns, "
            f"rate {link.rate_bps} bit/s, limit {netem_limit(link, frame_bytes)}"
        )


def line_config(layout: Layout, state_dir: Path) -> dict[str, Any]:
    """The line's configuration: both directions of every link."""
    return {
        "counters": str(state_dir / "line.counters"),
        "directions": [
            _direction(plan, forward) for plan in layout.links for forward in (True, False)
        ],
    }


def _direction(plan: LinkPlan, forward: bool) -> dict[str, Any]:
    link = plan.link
    ends = (link.a, link.b) if forward else (link.b, link.a)
    interfaces = (plan.line_a, plan.line_b) if forward else (plan.line_b, plan.line_a)
    return {
        "name": f"{switch_name(ends[0])}>{switch_name(ends[1])}#{plan.index}",
        "in": interfaces[0],
        "out": interfaces[1],
        "rate_bps": link.rate_bps,
        "queue_bytes": link.queue_bytes,
        "delay_ns": link.delay_ns,
    }


class LineProcess:
    """The running line of a network: starts it in a namespace, waits until it carries, ends it."""

    def __init__(self, layout: Layout, state_dir: Path, namespace_pid: int) -> None:
        self.config = state_dir / "line.json"
        self._log = state_dir / "line.log"
        counters = state_dir / "line.counters"
        counters.unlink(missing_ok=True)
        self.config.write_text(json.dumps(line_config(layout, state_dir)))
        command = ["mnexec", "-a", str(namespace_pid), sys.executable, "-m"]
        with self._log.open("wb") as log:
            self._process = self._spawn([*command, "testbed.substrate.line"], layout.run_id, log)

    def _spawn(self, command: list[str], run_id: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        root = Path(__file__).resolve().parents[2]
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(
            [*command, str(self.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, RUN_VARIABLE: run_id, "PYTHONPATH": path},
        )

    @property
    def pid(self) -> int:
        """The line's process."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait until the line carries frames; LinkError, with its words, if it ends before."""
        wait_for(lambda: is_ready(self.config) or self._process.poll() is not None, _START_S)
        if self._process.poll() is not None or not is_ready(self.config):
            raise LinkError(f"the line did not start: {self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End the line and let it write its last counters."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_S)


def wait_for(condition: Callable[[], bool], limit_s: float) -> bool:
    """Poll until the condition holds; whether it did within the limit."""
    end_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(_POLL_S)
    return True
