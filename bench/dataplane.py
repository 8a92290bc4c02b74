"""What does a chain of replicated functions carry, and at what delay? `deftbed bench dataplane`.

For the layout see `bench.rigs.chain_lab`, for the load `bench.rigs.stamped`. The load has 100,000
flows. `loss_free_pps` is bisected: less than 0.1 % lost in two seconds, by a sender that kept its
times; a rate has failed if it failed twice. Above 20 kpps the sender looks every 50 us what is due,
so that the core which it shares is not lost to waiting. `added` latency is over the same path with
a plain forwarder in the place of each function (`none`, TPACKET_V2 rings), at the same rate in the
same repetition: medians minus medians, p99 minus p99. CPU is that of primaries and backups.

`deft-artefact` is the reference of `bench.rigs.deft_artefact`. Cases that are compared run one
after the other in each repetition, and a ratio is that of two runs of one repetition. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Console

from bench.rigs import forwarders
from bench.rigs.chain_lab import (
    ChainLab,
    Trial,
    choose_cores,
    instance_config,
    laboratory,
    member_address,
)
from bench.rigs.stamped import FIRST_HOP, PATH
from bench.rigs.workers import Place, Worker, ended_by_sigterm
from testbed.cli.screens.tables import Column, FittedTable, names
from testbed.orchestration.deploying import zygote
from testbed.scenario.errors import RunError

RUNS = 3
FLOWS = 100_000
MAX_FLOWS = 1 << 17
TRIAL_S = 2.0
WARM_PPS, WARM_S = 50_000, 2.5
LOSS = 0.001
RESOLUTION = 1.03
STEP = 1.3
SLOWEST_PPS, FASTEST_PPS = 500, 1_500_000
LATENCY_PPS = (1_000, 20_000)
NAP_NS = 50_000
FUNCTIONS: dict[str, dict[str, Any]] = {
    "fw": {"max_connections": MAX_FLOWS},
    "nat": {"public_address": "100.64.0.1", "max_sessions": MAX_FLOWS},
    "tm": {"max_flows": MAX_FLOWS},
}
FIRST_GUESS_PPS = {"none": 200_000, "deft-artefact": 20_000}
ARTEFACT = "deft-artefact"


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured; function "none": a plain forwarder."""

    function: str
    replication: str
    frame_bytes: int = 64
    chain_length: int = 1
    flows: int = FLOWS

    def json(self) -> dict[str, Any]:
        """As it is printed."""
        return {name: getattr(self, name) for name in self.__slots__}


GROUPS: dict[str, tuple[Case, ...]] = {
    "fw-64": tuple(
        Case(*kind) for kind in
        (("none", "none"), ("fw", ARTEFACT), ("fw", "none"), ("fw", "deft"), ("fw", "pipelined"))
    ),
    "fw-512": tuple(
        Case(*kind, frame_bytes=512) for kind in
        (("none", "none"), ("fw", ARTEFACT), ("fw", "none"), ("fw", "deft"), ("fw", "pipelined"))
    ),
    "fw-64-1k": tuple(
        Case(*kind, flows=1_000) for kind in
        (("none", "none"), ("fw", ARTEFACT), ("fw", "none"), ("fw", "deft"), ("fw", "pipelined"))
    ),
    "chain": tuple(
        Case(*kind, chain_length=3) for kind in
        (("none", "none"), ("fw", "none"), ("fw", "pipelined"))
    ),
    "nat": tuple(
        Case(*kind, flows=50_000) for kind in
        (("none", "none"), ("nat", "none"), ("nat", "pipelined"))
    ),
    "tm": tuple(Case(*kind) for kind in (("none", "none"), ("tm", "none"), ("tm", "pipelined"))),
}  # fmt: skip
"""Cases that are compared with one another; the first is their path without a function."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often: less for a smoke test."""

    runs: int = RUNS
    trial_s: float = TRIAL_S
    resolution: float = RESOLUTION
    latency_s: float = 1.0
    fastest_pps: int = FASTEST_PPS


QUICK = Effort(runs=1, trial_s=0.5, resolution=1.3, latency_s=0.3)


@dataclass
class Bench:
    """A laboratory with the forwarders of the path without a function."""

    lab: ChainLab
    forwarders: tuple[Worker, ...]
    effort: Effort
    guesses: dict[Case, int] = field(default_factory=dict)

    def figures(self, case: Case, plain: dict[int, Trial], half_pps: int = 0) -> dict[str, float]:
        """One run of a case; `plain` has the latency of the path without a function, by rate."""
        with self.running(case):
            rate, best = self.loss_free(case)
            figures = {"loss_free_pps": float(rate), "cpu_us_per_packet": best.cpu_us}
            rates = {f"{pps // 1000}kpps": pps for pps in LATENCY_PPS if pps <= rate}
            rates["half"] = rate // 2
            through = {name: self.latency(case, pps) for name, pps in rates.items()}
        if case.function == "none":
            for name, trial in through.items():
                figures[f"latency_p50_us_at_{name}"] = trial.outcome.latency_p50_us
                figures[f"latency_p99_us_at_{name}"] = trial.outcome.latency_p99_us
                plain[rates[name]] = trial
            return figures
        path = Case("none", "none", case.frame_bytes, case.chain_length, case.flows)
        for name, pps in rates.items():
            if pps not in plain:
                with self.running(path):
                    plain[pps] = self.latency(path, pps)
            for part in ("latency_p50_us", "latency_p99_us"):
                added = getattr(through[name].outcome, part) - getattr(plain[pps].outcome, part)
                figures[f"added_{part}_at_{name}"] = added
        return figures

    @contextlib.contextmanager
    def running(self, case: Case) -> Iterator[None]:
        """The processes of a case, with all flows known to them."""
        try:
            if case.function != "none":
                self._start(case)
                self.trial(case, min(WARM_PPS, self._guess(case)), WARM_S, NAP_NS)
            yield
        finally:
            self.lab.end()

    def _start(self, case: Case) -> None:
        for group in range(case.chain_length):
            for member, kind in enumerate("pb"):
                if member and case.replication == "none":
                    continue
                target, config = _process(case, group, member)
                self.lab.start(f"{kind}{group}", target, config)

    def latency(self, case: Case, pps: int) -> Trial:
        """A trial for latency."""
        nap_ns = NAP_NS if pps > max(LATENCY_PPS) else 0
        return self.trial(case, pps, self.effort.latency_s, nap_ns)

    def trial(self, case: Case, pps: int, seconds: float, nap_ns: int) -> Trial:
        """Send at a rate for so long, and see what came of it."""
        load = self.lab.load(case.frame_bytes, case.flows, pps, seconds, nap_ns)
        if case.function != "none":
            return self.lab.trial(load, FIRST_HOP + case.chain_length)
        for forwarder in self.forwarders:
            forwarder.begin(forwarders.forward_by_ring, "eth0", "eth0")
        trial = self.lab.trial(load, FIRST_HOP, attempts=1)
        done = [forwarder.result() for forwarder in self.forwarders]
        return Trial(trial.sent, trial.outcome, sum(each.cpu_ns for each in done))

    def loss_free(self, case: Case) -> tuple[int, Trial]:
        """The highest rate without loss, and its trial."""
        rate, best, slow, fast = self._guess(case), None, SLOWEST_PPS, self.effort.fastest_pps
        while best is None or fast > slow * self.effort.resolution:
            if best is None and rate <= SLOWEST_PPS:
                raise RunError(f"{case}: loses packets at {rate} a second")
            trial = self._passes(case, rate)
            if trial is not None:
                slow, best = rate, trial
            else:
                fast = rate
            if best is None:
                rate = max(SLOWEST_PPS, int(fast / STEP))
            elif fast == self.effort.fastest_pps and slow < fast:
                rate = min(fast, int(slow * STEP))
                if rate == fast:
                    break
            else:
                rate = int((slow * fast) ** 0.5)
        self.guesses[case] = slow
        return slow, best

    def _guess(self, case: Case) -> int:
        default = FIRST_GUESS_PPS.get(case.replication, 150_000)
        return self.guesses.get(case, min(default, self.effort.fastest_pps // 2))

    def _passes(self, case: Case, pps: int) -> Trial | None:
        for _ in range(2):
            trial = self.trial(case, pps, self.effort.trial_s, NAP_NS)
            if trial.punctual and trial.outcome.lost <= LOSS * trial.sent.count:
                return trial
        return None


def _process(case: Case, group: int, member: int) -> tuple[str, dict[str, Any]]:
    if case.replication == ARTEFACT:
        config = {
            "member": member,
            "path": PATH,
            "hop": FIRST_HOP + group,
            "addresses": [member_address(0), member_address(1)],
        }
        return "bench.rigs.deft_artefact:main", config
    function_config = FUNCTIONS[case.function]
    config = instance_config(
        group, member, case.function, function_config, case.replication, MAX_FLOWS
    )
    return "testbed.vnf.process.runtime:main", config


def host_line() -> dict[str, Any]:
    """What of the machine the figures depend on."""
    cores = choose_cores()
    return {
        "bench": "host",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_average": round(os.getloadavg()[0], 2),
        "placement": {name: getattr(cores, name) for name in cores.__slots__},
        "class": "SCHED_FIFO",
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def measure(group: Sequence[Case], effort: Effort) -> Iterator[dict[str, Any]]:
    """The lines of a group of cases, each measured `effort.runs` times in turn."""
    runs: dict[Case, list[dict[str, float]]] = {case: [] for case in group}
    length = group[0].chain_length
    with laboratory(length) as lab, contextlib.ExitStack() as stack:
        places = [Place(f"{lab.mark}p{i}", lab.cores.primary, 20) for i in range(length)]
        workers = tuple(stack.enter_context(Worker(place)) for place in places)
        bench = Bench(lab, workers, effort)
        for _ in range(effort.runs):
            plain: dict[int, Trial] = {}
            done: dict[tuple[str, str], float] = {}
            for case in group:
                figures = bench.figures(case, plain)
                done[case.function, case.replication] = figures["loss_free_pps"]
                for name, reference in (
                    ("vs_unprotected_ratio", "none"),
                    ("vs_deft_artefact_ratio", ARTEFACT),
                ):
                    pps = done.get((case.function, reference))
                    if pps and case.function != "none" and case.replication != reference:
                        figures[name] = figures["loss_free_pps"] / pps
                runs[case].append(figures)
    for case, measured in runs.items():
        yield _line(case, measured)


def _line(case: Case, runs: list[dict[str, float]]) -> dict[str, Any]:
    names = [name for name in runs[0] if all(name in run for run in runs)]
    columns = {name: [round(run[name], 3) for run in runs] for name in names}
    return {
        "bench": "dataplane",
        "case": case.json(),
        "figures": {name: median(values) for name, values in columns.items()},
        "spread": {name: [min(values), max(values)] for name, values in columns.items()},
        "runs": len(runs),
    }


COLUMNS = {
    "loss_free_pps": "loss-free pps",
    "vs_unprotected_ratio": "× unprotected",
    "vs_deft_artefact_ratio": "× artefact",
    "added_latency_p50_us_at_1kpps": "+p50 µs 1k",
    "added_latency_p50_us_at_20kpps": "+p50 µs 20k",
    "added_latency_p99_us_at_20kpps": "+p99 µs 20k",
    "added_latency_p50_us_at_half": "+p50 µs half",
    "cpu_us_per_packet": "CPU µs",
}


def _table(lines: Sequence[dict[str, Any]]) -> FittedTable:
    rows = []
    for line in lines:
        case, figures = line["case"], line["figures"]
        cells = [f"{figures[name]:,.6g}" if name in figures else "" for name in COLUMNS]
        of = [case["function"], case["replication"], case["frame_bytes"], case["chain_length"]]
        rows.append((*map(str, of), *cells))
    keys = [names(name) for name in ("function", "replication", "bytes", "chain")]
    return FittedTable((*keys, *map(Column, COLUMNS.values())), tuple(rows), len(keys))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the machine, then a line for each case, or tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="once, short and coarse")
    default = ("fw-64", "fw-512", "chain")
    parser.add_argument("--cases", nargs="+", choices=GROUPS, default=default)
    parser.add_argument("--runs", type=int, help=f"repetitions [{RUNS}, with --quick 1]")
    options = parser.parse_args(arguments)
    effort = QUICK if options.quick else Effort()
    if options.runs:
        effort = Effort(
            options.runs, effort.trial_s, effort.resolution, effort.latency_s, effort.fastest_pps
        )
    for module in zygote.WARM_MODULES:
        importlib.import_module(module)  # what is not compiled yet is compiled here, once
    console = Console()
    with ended_by_sigterm():
        host = host_line()
        if options.json:
            print(json.dumps(host), flush=True)
        else:
            console.print(host)
        for name in options.cases:
            lines = []
            for line in measure(GROUPS[name], effort):
                lines.append(line)
                if options.json:
                    print(json.dumps(line), flush=True)
            if not options.json:
                console.print(_table(lines))


if __name__ == "__main__":
    main()
