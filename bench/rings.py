"""What does packet I/O cost, by kind of socket? `python -m bench.rings --json`.

A sender, a forwarder and a receiver in a namespace each, joined by two veth pairs; the forwarder
has a core, sender and receiver share another, all are in the class SCHED_FIFO. The loss-free rate
is bisected (less than 0.1 % lost, and the sender kept its times); latency that the forwarder adds
is measured against a run without one, at 20 kpps; CPU is that of the forwarder's process, with
what the kernel does in its name. The case `none` has no forwarder: what sender and receiver can
do, and the highest that a forwarder can be measured at. Needs root and two cores.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median

from bench.rigs.forwarders import (
    TARGETS,
    Forwarded,
    forward_by_messages,
    forward_by_ring,
    forward_by_socket,
    forward_by_spinning,
)
from bench.rigs.loadgen import (
    Intake,
    Load,
    Outcome,
    Received,
    Sent,
    outcome,
    receive_load,
    send_load,
)
from bench.rigs.workers import Place, Worker, ended_by_sigterm, namespaces, veth
from bench.rigs.xdp import forward_by_xdp
from testbed.scenario.errors import RunError
from testbed.vnf.dataplane import nsh

RUNS = 3
TRIAL_S = 0.8
"""Below the second after which the kernel throttles real-time processes."""
SLOWEST_PPS, FASTEST_PPS = 25_000, 1_000_000
RESOLUTION = 1.03
LOSS = 0.001
LATE_NS = 10_000_000
ATTEMPTS = 3
LATENCY_PPS = 20_000
NAP_NS = 1_000_000
NUMBER_AT, TIME_AT = 34, 46
FORWARDERS: dict[str, Callable[..., Forwarded]] = {
    "socket": forward_by_socket,
    "mmsg": forward_by_messages,
    "ring": forward_by_ring,
    "ring-spinning": forward_by_spinning,
    "xdp": forward_by_xdp,
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One load through a forwarder, or straight."""

    sent: Sent
    outcome: Outcome
    forwarded: Forwarded | None

    @property
    def punctual(self) -> bool:
        """Whether frames were sent when they were due; else the trial tells nothing."""
        return self.sent.lag_p99_ns < LATE_NS

    @property
    def loss_free(self) -> bool:
        """Hardly anything lost, of frames that were sent when they were due."""
        return self.punctual and self.outcome.lost <= LOSS * self.sent.count

    @property
    def cpu_us(self) -> float:
        """CPU time of the forwarder for a packet."""
        assert self.forwarded is not None
        return self.forwarded.cpu_ns / 1e3 / self.sent.count


@dataclass(frozen=True, slots=True)
class Bench:
    """The three workers; namespaces are named `mark` and s, f or r."""

    sender: Worker
    forwarder: Worker
    receiver: Worker

    def trial(self, kind: str, frame_bytes: int, rate_pps: int, nap_ns: int) -> Trial:
        """A trial; another one if the sender was late, but not for ever: it may be overtaxed."""
        for _ in range(ATTEMPTS - 1):
            trial = self._trial(kind, frame_bytes, rate_pps, nap_ns)
            if trial.punctual:
                return trial
        return self._trial(kind, frame_bytes, rate_pps, nap_ns)

    def _trial(self, kind: str, frame_bytes: int, rate_pps: int, nap_ns: int) -> Trial:
        """Send for `TRIAL_S` through a forwarder of that kind; "none": past it."""
        count = int(rate_pps * TRIAL_S)
        straight = kind == "none"
        prefix = nsh.header_prefix(*TARGETS[0], 0, nsh.mac_bytes("06:00:00:00:00:01"))
        template = prefix.ljust(frame_bytes, b"\0")
        load = Load(
            "past" if straight else "first", (template,), NUMBER_AT, TIME_AT, count, rate_pps
        )
        room = count + count // 8 + 64
        intake = Intake(
            "past" if straight else "last", TARGETS, NUMBER_AT, TIME_AT, room, nap_ns=nap_ns
        )
        self.receiver.begin(receive_load, intake)
        if not straight:
            self.forwarder.begin(FORWARDERS[kind], "first", "last")
        sent: Sent = self.sender.call(send_load, load)
        forwarded: Forwarded | None = None if straight else self.forwarder.result()
        received: Received = self.receiver.result()
        return Trial(sent, outcome(load, received), forwarded)

    def loss_free(self, kind: str, frame_bytes: int) -> tuple[int, Trial]:
        """The highest rate without loss, and its trial."""
        slow, fast = SLOWEST_PPS, FASTEST_PPS
        best = self.trial(kind, frame_bytes, slow, NAP_NS)
        if not best.loss_free:
            raise RunError(f"{kind}: {best} at {slow} packets a second, expected no loss")
        while fast > slow * RESOLUTION:
            rate = int((slow * fast) ** 0.5)
            trial = self.trial(kind, frame_bytes, rate, NAP_NS)
            if trial.loss_free:
                slow, best = rate, trial
            else:
                fast = rate
        return slow, best


@contextmanager
def laboratory() -> Iterator[Bench]:
    """Namespaces, interfaces and workers, which go with the context."""
    cores = sorted(os.sched_getaffinity(0))
    mark = f"dbr{os.getpid()}"
    sender, forwarder, receiver = f"{mark}s", f"{mark}f", f"{mark}r"
    with ExitStack() as stack:
        stack.enter_context(namespaces(sender, forwarder, receiver))
        veth((sender, "first"), (forwarder, "first"))
        veth((forwarder, "last"), (receiver, "last"))
        veth((sender, "past"), (receiver, "past"))
        places = (
            Place(sender, cores[0], 20),
            Place(forwarder, cores[-1], 20),
            Place(receiver, cores[0], 30),
        )
        yield Bench(*(stack.enter_context(Worker(place)) for place in places))


def figures_of(bench: Bench, kind: str, frame_bytes: int) -> dict[str, float]:
    """One run of a case."""
    rate, best = bench.loss_free(kind, frame_bytes)
    figures: dict[str, float] = {"loss_free_pps": rate}
    direct = bench.trial("none", frame_bytes, LATENCY_PPS, 0)
    if kind == "none":
        figures["latency_p50_us_at_20kpps"] = direct.outcome.latency_p50_us
        figures["latency_p99_us_at_20kpps"] = direct.outcome.latency_p99_us
        return figures
    through = bench.trial(kind, frame_bytes, LATENCY_PPS, 0)
    figures["cpu_us_per_packet"] = best.cpu_us
    figures["cpu_us_per_packet_at_20kpps"] = through.cpu_us
    for name in ("latency_p50_us", "latency_p99_us"):
        added = getattr(through.outcome, name) - getattr(direct.outcome, name)
        figures[f"added_{name}_at_20kpps"] = added
    return figures


def show(bench: Bench, kind: str, frame_bytes: int, as_json: bool) -> None:
    """Measure a case `RUNS` times and print medians and spread."""
    runs = [figures_of(bench, kind, frame_bytes) for _ in range(RUNS)]
    columns = {name: [round(run[name], 2) for run in runs] for name in runs[0]}
    line = {
        "bench": "rings",
        "case": {"io": kind, "frame_bytes": frame_bytes},
        "figures": {name: median(values) for name, values in columns.items()},
        "spread": {name: [min(values), max(values)] for name, values in columns.items()},
        "runs": RUNS,
    }
    print(json.dumps(line) if as_json else f"{line['case']}: {line['figures']}", flush=True)


def main() -> None:
    """Print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    kinds = ("none", *FORWARDERS)
    parser.add_argument("--io", nargs="+", choices=kinds, default=kinds, help="these kinds alone")
    options = parser.parse_args()
    with ended_by_sigterm(), laboratory() as bench:
        for frame_bytes in (64, 512):
            for kind in options.io:
                show(bench, kind, frame_bytes, options.json)


if __name__ == "__main__":
    main()
