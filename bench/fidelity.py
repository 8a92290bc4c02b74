"""Are links what they were asked to be? `deftbed bench fidelity --json`. Needs root.

A sender and a receiver in namespaces of their own, and one link between them by the back end that
a run would use (`--backend` for another; `none` is a bare wire: the error of the benchmark itself).
The sender is open-loop and stamps each frame before it hands it to the kernel; the kernel stamps
what arrives. Every case is carried out `--runs` times and its medians are shown; `within` says
whether every run kept to the issue's bounds:

- delay: median error <= max(1 %, 100 us), p99 error <= 1 ms
- rate: within 3 %
- loss, burst loss: within the binomial 99 % interval (widened by the state's memory)
- jitter: in order unless asked otherwise, standard deviation within 5 % of the uniform one's
- sender: p99 of its lag <= 200 us at 5,000 packets a second, over a running network of three
  switches on the same cores
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, get_args

import numpy as np
from rich.console import Console

from bench.rigs.line_rig import Outcome, Rig, rig
from bench.rigs.workers import ended_by_sigterm
from bench.sender_lag import sender_lag
from testbed.records.fidelity_checks import loss_interval
from testbed.scenario.impairments import GilbertElliott, Impairments
from testbed.scenario.types import NS_PER_S, Link
from testbed.substrate.links.carriers import LinkBackend
from testbed.substrate.probe import choose, probe

RUNS = 3
LOAD_S = 2.0
SMALL_BYTES, LARGE_BYTES = 100, 1_400
FAST_BPS, DEEP_BYTES = 1_000_000_000, 4_000_000
MS = 1_000_000
ATTEMPTS, LATE_NS = 3, 1_000_000

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Case:
    """A link, a load, and what is to be seen of it."""

    kind: str
    link: Link
    load_pps: int
    frame_bytes: int
    look: Callable[[Case, Outcome], Figures]
    keeps: Callable[[Case, Figures], bool]
    more: dict[str, Any] = field(default_factory=dict)

    def json(self, backend: str) -> dict[str, Any]:
        """As it is printed."""
        asked = self.link.impairments
        return {
            "kind": self.kind,
            "backend": backend,
            "delay_ms": self.link.delay_ns / MS,
            "rate_mbps": self.link.rate_bps / 1e6,
            "loss": asked.total_loss,
            "load_pps": self.load_pps,
            **self.more,
        }


def delays_ns(case: Case, outcome: Outcome) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How much longer frames took than they were asked to, their time on the wire included."""
    wire_ns = case.frame_bytes * 8 * NS_PER_S // case.link.rate_bps
    return np.asarray(outcome.came_ns - outcome.sent_ns - wire_ns - case.link.delay_ns)


def look_at_delay(case: Case, outcome: Outcome) -> Figures:
    """Errors of the delay, and what the line says of its own lag."""
    p50, p99 = np.quantile(delays_ns(case, outcome), (0.5, 0.99)) / 1e3
    found = {"delay_error_p50_us": float(p50), "delay_error_p99_us": float(p99)}
    if outcome.line is not None:
        found["line_lag_p50_us"] = outcome.line.lag_p50_ns / 1e3
        found["line_lag_p99_us"] = outcome.line.lag_p99_ns / 1e3
        found["line_cpu_us_per_frame"] = outcome.line.cpu_ns / 1e3 / max(1, outcome.line.frames)
    return {**found, "lost": float(outcome.sent.count - len(outcome.numbers))}


def keeps_delay(case: Case, figures: Figures) -> bool:
    """Median within 1 % or 100 us, p99 within 1 ms, nothing lost."""
    allowed_us = max(case.link.delay_ns * 0.01 / 1e3, 100.0)
    return (
        abs(figures["delay_error_p50_us"]) <= allowed_us
        and abs(figures["delay_error_p99_us"]) <= 1000.0
        and figures["lost"] == 0
    )


def look_at_rate(case: Case, outcome: Outcome) -> Figures:
    """The rate at which frames arrive while the queue is full: the later half of them."""
    came_ns = outcome.came_ns[len(outcome.came_ns) // 2 :]
    bits = (len(came_ns) - 1) * case.frame_bytes * 8
    rate_bps = bits * NS_PER_S / int(came_ns[-1] - came_ns[0])
    return {
        "rate_mbps": rate_bps / 1e6,
        "rate_error_ratio": rate_bps / case.link.rate_bps - 1,
        "kernel_drops": float(0 if outcome.line is None else outcome.line.kernel_drops),
    }


def keeps_rate(case: Case, figures: Figures) -> bool:
    """Within 3 %."""
    return abs(figures["rate_error_ratio"]) <= 0.03


def look_at_loss(case: Case, outcome: Outcome) -> Figures:
    """The loss, and how many frames are lost in a row."""
    count = outcome.sent.count
    lost = np.ones(count, dtype=bool)
    lost[outcome.numbers] = False
    bursts = int((lost[1:] & ~lost[:-1]).sum() + lost[0])
    burst = case.link.impairments.burst
    memory = 0.0 if burst is None else burst.memory
    low, high = loss_interval(count, case.link.impairments.total_loss, 0.99, memory)
    return {
        "loss_measured": float(lost.mean()),
        "loss_low": low / count,
        "loss_high": high / count,
        "burst_frames": float(lost.sum()) / max(1, bursts),
    }


def keeps_loss(case: Case, figures: Figures) -> bool:
    """Within the interval."""
    return figures["loss_low"] <= figures["loss_measured"] <= figures["loss_high"]


def look_at_jitter(case: Case, outcome: Outcome) -> Figures:
    """The spread of the delay, and whether the order is kept."""
    errors_ns = delays_ns(case, outcome)
    overtaken = outcome.numbers < np.maximum.accumulate(outcome.numbers)
    return {
        "jitter_sd_ms": float(errors_ns.std()) / MS,
        "jitter_sd_asked_ms": case.link.impairments.jitter_ns / math.sqrt(3) / MS,
        "delay_error_p50_us": float(np.median(errors_ns)) / 1e3,
        "reordered_ratio": float(overtaken.mean()),
    }


def keeps_jitter(case: Case, figures: Figures) -> bool:
    """The spread where frames are far apart, the order in any case unless it may change."""
    if not case.link.impairments.jitter_reorders and figures["reordered_ratio"] > 0:
        return False
    if case.load_pps > 200 and not case.link.impairments.jitter_reorders:
        return True  # what keeps the order narrows the spread
    asked = figures["jitter_sd_asked_ms"]
    return abs(figures["jitter_sd_ms"] - asked) <= 0.05 * asked


def cases() -> Iterator[Case]:
    """All cases, quick ones."""
    plain = Link(0, 1, 0, FAST_BPS, DEEP_BYTES)
    delayed = (look_at_delay, keeps_delay)
    for delay_ms in (1, 5, 20):
        for pps in (1_000, 20_000):
            link = replace(plain, delay_ns=delay_ms * MS)
            yield Case("delay", link, pps, SMALL_BYTES, *delayed)
    for mbps in (1, 10, 100, 400):
        link = replace(plain, delay_ns=MS, rate_bps=mbps * 1_000_000, queue_bytes=60_000)
        pps = round(1.2 * link.rate_bps / (8 * LARGE_BYTES))
        yield Case("rate", link, pps, LARGE_BYTES, look_at_rate, keeps_rate)
    for loss in (0.001, 0.01, 0.1):
        link = replace(plain, delay_ns=MS, impairments=Impairments(loss=loss))
        yield Case("loss", link, 10_000, SMALL_BYTES, look_at_loss, keeps_loss)
    burst = GilbertElliott(0.01, 0.25)
    link = replace(plain, delay_ns=MS, impairments=Impairments(burst=burst))
    more = {"burst_frames_asked": burst.mean_burst}
    yield Case("burst-loss", link, 10_000, SMALL_BYTES, look_at_loss, keeps_loss, more)
    for mixed, pps in ((False, 150), (False, 5_000), (True, 5_000)):
        jitter = Impairments(jitter_ns=3 * MS, jitter_reorders=mixed)
        link = replace(plain, delay_ns=10 * MS, impairments=jitter)
        more = {"jitter_ms": 3.0, "reorders": mixed}
        yield Case("jitter", link, pps, SMALL_BYTES, look_at_jitter, keeps_jitter, more)


def measure(case: Case, on: Rig) -> Figures:
    """One run of a case; another one if the sender was late, but not for ever."""
    count = round(case.load_pps * (4 * LOAD_S if case.load_pps < 1000 else LOAD_S))
    for _ in range(ATTEMPTS):
        outcome = on.carry(case.link, count, case.load_pps, case.frame_bytes)
        if outcome.sent.lag_p99_ns < LATE_NS:
            break
    return {**case.look(case, outcome), "sender_lag_p99_us": outcome.sent.lag_p99_ns / 1e3}


def line_of(case: dict[str, Any], rows: Sequence[Figures], within: bool) -> dict[str, Any]:
    """The object that is printed for a case."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        "bench": "fidelity",
        "case": case,
        "figures": {name: round(median(values), 6) for name, values in columns.items()},
        "spread": {
            name: [round(min(values), 6), round(max(values), 6)] for name, values in columns.items()
        },
        "runs": len(rows),
        "within": within,
    }


def measure_all(backend: LinkBackend, kinds: Sequence[str], runs: int) -> Iterator[dict[str, Any]]:
    """The lines of all cases of these kinds, or of all."""
    with rig(backend) as on:
        for case in cases():
            if (kinds and case.kind not in kinds) or (backend == "none" and case.kind != "delay"):
                continue
            if backend == "none":
                case = replace(case, link=replace(case.link, delay_ns=0))
            rows = [measure(case, on) for _ in range(runs)]
            within = all(case.keeps(case, row) for row in rows)
            yield line_of(case.json(backend), rows, within)
    if backend != "none" and (not kinds or "sender" in kinds):
        rows = [sender_lag() for _ in range(runs)]
        within = all(row["sender_lag_p99_us"] <= 200.0 for row in rows)
        case_json = {"kind": "sender", "backend": backend, "load_pps": 5_000, "switches": 3}
        yield line_of(case_json, rows, within)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="deftbed bench fidelity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--backend", choices=get_args(LinkBackend), help="[the run's]")
    parser.add_argument("--kinds", default="", help="delay,rate,loss,burst-loss,jitter,sender")
    options = parser.parse_args(arguments)
    backend = options.backend or choose(probe()).link
    kinds = [kind for kind in options.kinds.split(",") if kind]
    console = Console(highlight=False)
    with ended_by_sigterm():
        for line in measure_all(backend, kinds, options.runs):
            if options.json:
                print(json.dumps(line), flush=True)
            else:
                verdict = "within" if line["within"] else "OUTSIDE"
                console.print(f"{verdict}: {line['case']} {line['figures']}", markup=False)


if __name__ == "__main__":
    main()
