"""What does a harness that is killed leave? `python -m bench.kills --count 100 --json`. Needs root.

Each run is killed by SIGKILL at a random moment of its build, its traffic or its tear-down, in
turn. Then comes what every run begins with, the removal of what dead runs left, and a search for
anything that is left all the same: by the marks of `testbed.substrate.ownership`, by names, and by
a variable that every process of the run has inherited and that clean-up does not know of. A
stranger's bridge, namespace and ping stand by and must not be touched.

Exit status 1 if anything was left or a stranger was harmed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.rigs.workers import ended_by_sigterm
from testbed.records.events import read_events
from testbed.scenario.errors import RunError
from testbed.substrate import cgroups, switch_class
from testbed.substrate.commands import run
from testbed.substrate.ownership import (
    RUN_VARIABLE,
    clean_stale,
    known_runs,
    live_runs,
    marked_bridges,
    marked_interfaces,
    processes_of,
    state_folder,
)
from testbed.substrate.processes import with_variable

ROOT = Path(__file__).parents[1]
SCENARIO = ROOT / "scenarios" / "smoke.yaml"
COUNT = 100
WITNESS = "DEFTBED_KILLS_WITNESS"
"""Inherited by all that a run starts; nothing in the testbed knows it."""
PHASES = {
    "build": ("network-build-begin", "run-start"),
    "traffic": ("run-start", "run-end"),
    "tear-down": ("run-end", "network-removed"),
}
"""The events at which each phase begins and ends."""
BOUND_S, POLL_S = 300.0, 0.01
PING_S = 0.2
_PING = """
import socket, time
echo = bytes((8, 0, 0xF7, 0xFF, 0, 0, 0, 0))
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
    raw.connect(("127.0.0.1", 0))
    while True:
        raw.send(echo)
        while raw.recv(99)[20:21] != b"\\0":
            pass
        print("answered", flush=True)
        time.sleep(0.2)
"""
"""Echo requests, from a process named ping: not every host has the tool."""


class KillsError(RunError):
    """The campaign cannot go on: says why."""


@dataclass(frozen=True, slots=True)
class Killed:
    """A run that was killed: in which phase, how long after its begin, and what was found then.

    `removed` is how many things clean-up took away, `left` what it did not, `harmed` what it did
    to strangers.
    """

    phase: str
    after_s: float
    run_id: str
    removed: int
    left: tuple[str, ...]
    harmed: tuple[str, ...]


class Harness:
    """A run in a process of its own; its results go to a folder in `parent`."""

    def __init__(self, scenario: Path, parent: Path) -> None:
        self.witness = secrets.token_hex(8)
        self.folder = parent / self.witness
        code = "from testbed.cli.main import main; main()"
        words = [sys.executable, "-c", code, "run", str(scenario), "--results", str(self.folder)]
        bare = {name: value for name, value in os.environ.items() if name != RUN_VARIABLE}
        with open(parent / f"{self.witness}.log", "wb") as log:
            self._process = subprocess.Popen(
                words,
                env={**bare, "PYTHONPATH": str(ROOT), WITNESS: self.witness},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._log = parent / f"{self.witness}.log"

    @property
    def run_id(self) -> str:
        """The id that the run gave itself; empty if it has none yet."""
        for manifest in self.folder.glob("*/seed-*/manifest.json"):
            return str(json.loads(manifest.read_text())["run_id"])
        return ""

    @property
    def words(self) -> str:
        """The last of what the run has said."""
        return self._log.read_text()[-2000:]

    def times_ns(self) -> dict[str, int]:
        """When the run wrote each event for the first time."""
        found: dict[str, int] = {}
        for path in self.folder.glob("*/seed-*/events.jsonl"):
            for event in read_events(path):
                found.setdefault(event["event"], event["t_ns"])
        return found

    def wait_for(self, event: str) -> None:
        """Until the run has written `event`; raises KillsError if it ends without."""
        deadline = time.monotonic() + BOUND_S
        while event not in self.times_ns():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise KillsError(f"no event {event}: {self.words}")
            time.sleep(POLL_S)

    def end(self) -> int:
        """The exit status of a run that is left alone."""
        return self._process.wait(BOUND_S)

    def kill(self) -> None:
        """SIGKILL to the harness, and to it alone."""
        self._process.kill()
        self._process.wait()


class Strangers:
    """A bridge, a namespace and a ping that belong to nobody's run."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self.name = f"str{secrets.token_hex(3)}"
        add = ["ovs-vsctl", "add-br", self.name, "--", "set", "bridge", self.name]
        run([*add, "datapath_type=netdev"])
        stack.callback(run, ["ovs-vsctl", "--if-exists", "del-br", self.name])
        run(["ip", "netns", "add", self.name])
        stack.callback(run, ["ip", "netns", "delete", self.name])
        inside = ["ip", "netns", "exec", self.name]
        run([*inside, "ip", "link", "set", "lo", "up"])
        bare = {name: value for name, value in os.environ.items() if name != RUN_VARIABLE}
        self._answers = folder / "ping"
        with open(self._answers, "wb") as out:
            words = [*inside, "bash", "-c", 'exec -a ping "$0" -c "$1"', sys.executable, _PING]
            self._ping = subprocess.Popen(words, env=bare, stdin=subprocess.DEVNULL, stdout=out)
        stack.callback(self._ping.wait)
        stack.callback(self._ping.kill)

    def harmed(self) -> Iterator[str]:
        """What of them is not as it was."""
        if self.name not in run(["ovs-vsctl", "list-br"]).split():
            yield f"bridge {self.name} is gone"
        if self.name not in run(["ip", "netns", "list"]).split():
            yield f"namespace {self.name} is gone"
        if self._ping.poll() is not None:
            yield f"ping ended with {self._ping.returncode}"
            return
        before, deadline = self._answers.stat().st_size, time.monotonic() + BOUND_S
        while self._answers.stat().st_size <= before:
            if time.monotonic() > deadline:
                yield "ping gets no answer"
                return
            time.sleep(PING_S)


def left_of(run_id: str, witness: str) -> Iterator[str]:
    """What there still is of a run, by marks, by names and by `witness`."""
    for pid in _inheriting(witness):
        yield f"process {pid}: inherited {witness}"
    if not run_id:
        return
    yield from (f"process {pid}: marked" for pid in processes_of(run_id))
    yield from (f"bridge {name}: marked" for name, of in marked_bridges().items() if of == run_id)
    for name, owner in marked_interfaces().items():
        if owner == run_id:
            yield f"interface {name}: marked"
    for name in run(["ovs-vsctl", "list-br"]).split():
        if name.startswith(run_id):
            yield f"bridge {name}: by its name"
    for path in Path("/sys/class/net").iterdir():
        if path.name.startswith(run_id):
            yield f"interface {path.name}: by its name"
    yield from (f"cgroup {path}" for path in cgroups.folders_of(run_id))
    if state_folder(run_id).exists():
        yield f"folder {state_folder(run_id)}"
    if run_id in known_runs():
        yield f"run {run_id} is still known"
    if not live_runs() and (pid := switch_class.prompt_process()):
        yield f"process {pid}: the switch has the scheduling class of a run"


def _inheriting(witness: str) -> list[int]:
    return [pid for pid, value in with_variable(WITNESS).items() if value == witness]


def lengths_s(scenario: Path, parent: Path) -> dict[str, float]:
    """How long each phase of a run lasts that nobody kills; raises KillsError if it fails."""
    harness = Harness(scenario, parent)
    try:
        status = harness.end()
    finally:
        harness.kill()
    if status != 0:
        raise KillsError(f"a run that nobody killed ended with {status}: {harness.words}")
    times = harness.times_ns()
    shutil.rmtree(harness.folder)
    return {name: (times[end] - times[begin]) / 1e9 for name, (begin, end) in PHASES.items()}


def kill_one(
    scenario: Path, parent: Path, phase: str, after_s: float, strangers: Strangers
) -> Killed:
    """Start a run, kill it `after_s` into `phase`, let the next one's start clean up, and look."""
    harness = Harness(scenario, parent)
    try:
        harness.wait_for(PHASES[phase][0])
        time.sleep(after_s)  # the moment is the experiment's, drawn before
    finally:
        harness.kill()
    removed = clean_stale()
    left = tuple(left_of(harness.run_id, harness.witness))
    killed = Killed(
        phase=phase,
        after_s=round(after_s, 3),
        run_id=harness.run_id,
        removed=sum(harness.run_id in line for line in removed),
        left=left,
        harmed=tuple(strangers.harmed()),
    )
    if not (killed.left or killed.harmed):
        shutil.rmtree(harness.folder)
    return killed


def campaign(
    scenario: Path, count: int, seed: int, tell: Callable[[Killed], None] = lambda _: None
) -> list[Killed]:
    """Kill `count` runs at moments that `seed` draws, phase by phase in turn."""
    rng = np.random.default_rng(seed)
    kills = []
    with contextlib.ExitStack() as stack:
        parent = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deftbed-kills-")))
        strangers = Strangers(stack, parent)
        stack.callback(clean_stale)  # what is left if the campaign itself is ended
        lengths = lengths_s(scenario, parent)
        for number in range(count):
            phase = list(PHASES)[number % len(PHASES)]
            after_s = float(rng.uniform(0.0, lengths[phase]))
            kills.append(kill_one(scenario, parent, phase, after_s, strangers))
            tell(kills[-1])
    return kills


def line(scenario: Path, seed: int, kills: Sequence[Killed]) -> dict[str, Any]:
    """What is printed at the end."""
    phases = Counter(kill.phase for kill in kills)
    return {
        "bench": "kills",
        "case": {"scenario": scenario.stem, "seed": seed, **phases},
        "figures": {
            "runs_that_left_something": sum(bool(kill.left) for kill in kills),
            "strangers_harmed": sum(len(kill.harmed) for kill in kills),
            "removed_p50": float(np.median([kill.removed for kill in kills])),
        },
        "spread": {"removed": [min(k.removed for k in kills), max(k.removed for k in kills)]},
        "found": [each for kill in kills for each in (*kill.left, *kill.harmed)],
        "runs": len(kills),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for the campaign, and each kill on standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many runs [{COUNT}]")
    parser.add_argument("--seed", type=int, default=1, help="which moments [1]")
    parser.add_argument("--scenario", type=Path, default=SCENARIO, help="what is run [smoke]")
    options = parser.parse_args(arguments)

    def tell(kill: Killed) -> None:
        said = "; ".join((*kill.left, *kill.harmed)) or "nothing left"
        moment = f"{kill.after_s:6.3f} s into {kill.phase}"
        print(f"{moment:26} {kill.removed:3} things removed, {said}", file=sys.stderr, flush=True)

    try:
        with ended_by_sigterm():
            kills = campaign(options.scenario, options.count, options.seed, tell)
    except KillsError as error:
        sys.exit(f"bench.kills: {error}")
    result = line(options.scenario, options.seed, kills)
    if options.json:
        print(json.dumps(result))
    else:
        figures = {**result["case"], **result["figures"]}
        print("\n".join(f"{name:28} {value}" for name, value in figures.items()))
    if result["found"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
