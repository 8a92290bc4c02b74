"""What carries the links of a network, behind one interface: netem, the line, or bare wires."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from testbed.records.threads import Timetable
from testbed.scenario.types import NS_PER_S, Link, LinkChange
from testbed.substrate.layout import Layout, LinkPlan, switch_name
from testbed.substrate.links import line
from testbed.substrate.links.line_fate import stream_of
from testbed.substrate.links.link_error import LinkError
from testbed.substrate.links.netem import change_netem, set_netem
from testbed.substrate.ownership import RUN_VARIABLE

LinkBackend = Literal["netem", "userspace", "none"]
_START_S = 120.0
"""The line may have to be compiled first, which takes ten seconds once."""
_STOP_S = 5.0
_POLL_S = 0.01
_BEGIN_S = 5.0


def line_config(
    layout: Layout, state_dir: Path, seed: int = 0, changes: Sequence[LinkChange] = ()
) -> dict[str, Any]:
    """The line's configuration: both directions of every link, and their changes."""
    return {
        "counters": str(state_dir / "line.counters"),
        "control": str(state_dir / "line.control"),
        "directions": [
            _direction(plan, forward, seed) for plan in layout.links for forward in (True, False)
        ],
        "changes": [
            {
                "at_ns": change.at_ns,
                "directions": [2 * change.index, 2 * change.index + 1],
                **settings_of(change.link, change.up),
            }
            for change in changes
        ],
    }


def settings_of(link: Link, up: bool = True) -> dict[str, Any]:
    """A link's settings as the line takes them (see `testbed.substrate.links.line`)."""
    return {
        "rate_bps": link.rate_bps,
        "queue_bytes": link.queue_bytes,
        "delay_ns": link.delay_ns,
        **asdict(link.impairments),
        "trace": None if link.trace is None else link.trace.path,
        "up": up,
    }


def _direction(plan: LinkPlan, forward: bool, seed: int) -> dict[str, Any]:
    link = plan.link
    ends = (link.a, link.b) if forward else (link.b, link.a)
    interfaces = (plan.line_a, plan.line_b) if forward else (plan.line_b, plan.line_a)
    return {
        "name": f"{switch_name(ends[0])}>{switch_name(ends[1])}#{plan.index}",
        "in": interfaces[0],
        "out": interfaces[1],
        "stream": stream_of(seed, plan.index, forward),
        **settings_of(link),
    }


class LineProcess:
    """The running line of a network: starts it in a namespace, waits until it carries, ends it."""

    def __init__(
        self, config: Mapping[str, Any], run_id: str, state_dir: Path, enter: Sequence[str]
    ) -> None:
        """`config` is the line's; `enter` are the words that start a command in its namespace."""
        self.config = state_dir / "line.json"
        self._log = state_dir / "line.log"
        Path(config["counters"]).unlink(missing_ok=True)
        Path(config["control"]).write_bytes(bytes(16))
        self.config.write_text(json.dumps(config))
        command = [*enter, sys.executable, "-m", "testbed.substrate.links.line"]
        with self._log.open("wb") as log:
            self._process = self._spawn(command, run_id, log)

    def _spawn(self, command: list[str], run_id: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        root = Path(__file__).resolve().parents[3]
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
        wait_for(lambda: line.is_ready(self.config) or self._process.poll() is not None, _START_S)
        if self._process.poll() is not None or not line.is_ready(self.config):
            raise LinkError(f"the line did not start: {self._log.read_text()[-2000:]}")

    def check(self) -> None:
        """Raise LinkError, with its words, if the line has ended."""
        status = self._process.poll()
        if status is not None:
            said = self._log.read_text()[-2000:]
            raise LinkError(f"the line ended with status {status}: {said}")

    def begin(self, origin_ns: int) -> None:
        """Let counters, frame numbers, traces and changes begin; LinkError if it does not."""
        line.begin(self.config, origin_ns)
        self._process.send_signal(signal.SIGUSR1)
        if not wait_for(lambda: line.has_begun(self.config), _BEGIN_S):
            raise LinkError(f"the line did not begin: {self._log.read_text()[-2000:]}")

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


class Carrier(Protocol):
    """What a network needs of that which carries its links."""

    own_ends: bool
    """Whether the links' ends go to a namespace of its own instead of to one another."""

    failed: list[str]
    """Changes that could not be made, and why."""

    def start(self) -> None:
        """Begin to set links up; all interfaces are there."""

    def wait_ready(self) -> None:
        """Return when links are as the plan says; CommandError or LinkError if they are not."""

    def begin(self, origin_ns: int) -> None:
        """The run begins: counters and streams start anew, changes are made at their times."""

    def stop(self) -> None:
        """End what was started."""

    def check(self) -> None:
        """Raise what ended it before it was to end, if anything did."""


class Wires:
    """No link has a delay, a rate, or a loss: to measure the testbed itself."""

    own_ends = False

    def __init__(self) -> None:
        self.failed: list[str] = []

    def start(self) -> None:
        """Nothing to do."""

    def wait_ready(self) -> None:
        """Nothing to wait for."""

    def begin(self, origin_ns: int) -> None:
        """Nothing changes."""

    def stop(self) -> None:
        """Nothing to end."""

    def check(self) -> None:
        """Nothing can end."""


class Netem:
    """Links by the kernel; their changes by a thread that calls `tc`."""

    own_ends = False

    def __init__(self, layout: Layout, frame_bytes: int, changes: Sequence[LinkChange]) -> None:
        self._layout = layout
        self._frame_bytes = frame_bytes
        self.failed: list[str] = []
        self._times = change_times("netem", changes, self._change, self.failed)

    def start(self) -> None:
        """Netem is set once the switches are there."""

    def wait_ready(self) -> None:
        """Set netem and read it back."""
        set_netem(self._layout, self._frame_bytes)

    def begin(self, origin_ns: int) -> None:
        """Start the thread."""
        self._times.begin(origin_ns)

    def stop(self) -> None:
        """End the thread."""
        self._times.stop()

    def check(self) -> None:
        """Raise what ended the thread."""
        self._times.check()

    def _change(self, change: LinkChange) -> None:
        change_netem(self._layout, change, self._frame_bytes)


class Userspace:
    """Links by the line, one process for all."""

    own_ends = True

    def __init__(self, config: Mapping[str, Any], run_id: str, state_dir: Path, pid: int) -> None:
        enter = ["mnexec", "-a", str(pid)]
        self._make = partial(LineProcess, config, run_id, state_dir, enter)
        self._line: LineProcess | None = None
        self.failed: list[str] = []

    def start(self) -> None:
        """Start the process, which takes a moment to be ready."""
        self._line = self._make()

    def wait_ready(self) -> None:
        """Wait until it carries frames."""
        if self._line is not None:
            self._line.wait_ready()

    def begin(self, origin_ns: int) -> None:
        """Tell it the origin."""
        if self._line is not None:
            self._line.begin(origin_ns)

    def stop(self) -> None:
        """End it."""
        if self._line is not None:
            self._line.stop()
            self._line = None

    def check(self) -> None:
        """Raise LinkError if the process has ended by itself."""
        if self._line is not None:
            self._line.check()


def change_times(
    name: str,
    changes: Sequence[LinkChange],
    carry_out: Callable[[LinkChange], None],
    failed: list[str],
) -> Timetable[LinkChange]:
    """A thread for changes of links; those that could not be made, and why, go to `failed`."""

    def note(change: LinkChange, error: Exception) -> None:
        failed.append(f"link {change.index} at {change.at_ns / NS_PER_S:g} s: {error}")

    return Timetable(name, changes, carry_out, note)


def carrier_changes(changes: Sequence[LinkChange], early_ns: int = 0) -> Iterator[LinkChange]:
    """The changes that cut or mend a link; it is mended `early_ns` before its time."""
    up: dict[int, bool] = {}
    for change in changes:
        if change.up != up.get(change.index, True):
            up[change.index] = change.up
            yield replace(change, at_ns=change.at_ns - early_ns) if change.up else change
