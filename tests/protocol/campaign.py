"""Many schedules of the simulated replica group; how to run one again; what was injected.

    python -m tests.protocol.campaign --seeds 100000 --jobs 2
    python -m tests.protocol.campaign --seed 4711 --trace
    python -m tests.protocol.campaign --controls

The last line of the output is a JSON object. The exit status is 1 if a guarantee was broken.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from testbed.vnf.state.arrays import Words
from tests.protocol import names
from tests.protocol.bench import Bench
from tests.protocol.world import FOUND, FOUND_AT, FOUND_KEPT, STATS_AT

CHUNK = 2000
"""Schedules between two looks at the clock."""

FAILURES_KEPT = 1000
CONTROL_CHUNK = 50


@dataclass(slots=True)
class Outcome:
    """What some schedules did: their number, what was counted, what was broken in which seeds."""

    schedules: int = 0
    stats: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    failed: dict[int, str] = field(default_factory=dict)

    def add(self, other: Outcome) -> None:
        """Add what other schedules did."""
        longest = max(self.stats[names.STATS[-1]], other.stats[names.STATS[-1]])
        self.schedules += other.schedules
        self.stats += other.stats
        self.stats[names.STATS[-1]] = longest
        self.broken += other.broken
        for seed, text in other.failed.items():
            if len(self.failed) < FAILURES_KEPT:
                self.failed[seed] = text


def violations(world: Words) -> list[str]:
    """What the schedule that ran last broke, each with its guarantee's name."""
    found = []
    for number in range(min(int(world[FOUND]), FOUND_KEPT)):
        code, time_ns, who, detail = world[FOUND_AT + 4 * number :][:4].tolist()
        what = names.DETAILS[detail] if code else f"place {detail}"
        found.append(f"{names.GUARANTEES[code]}: {what} (member {who}, {time_ns / 1e6:.6f} ms)")
    return found


def run_chunk(bench: Bench, first: int, count: int) -> Outcome:
    """Run `count` schedules."""
    bench.world[STATS_AT : STATS_AT + len(names.STATS)] = 0
    seeds = bench.run_many(first, count)
    counted = bench.world[STATS_AT : STATS_AT + len(names.STATS)].tolist()
    outcome = Outcome(count, Counter(dict(zip(names.STATS, counted, strict=True))))
    for seed in seeds:
        bench.run(seed)
        found = violations(bench.world)
        outcome.failed[seed] = found[0]
        outcome.broken.update({line.split(":")[0] for line in found})
    return outcome


def _work(share: tuple[int, int]) -> Outcome:
    """A chunk in a worker process, which keeps its world."""
    global _bench
    if _bench is None:
        _bench = Bench()
    return run_chunk(_bench, *share)


_bench: Bench | None = None


def campaign(first: int, seeds: int, jobs: int, quiet: bool) -> tuple[Outcome, float]:
    """Run the schedules of `seeds` seeds from `first` on; the outcome, and schedules per second."""
    Bench().run(0)  # compiles, where that was not done before
    shares = [(at, min(CHUNK, first + seeds - at)) for at in range(first, first + seeds, CHUNK)]
    total = Outcome()
    begun = shown = time.monotonic()
    with multiprocessing.get_context("forkserver").Pool(jobs) as pool:
        for outcome in pool.imap_unordered(_work, shares):
            total.add(outcome)
            if not quiet and time.monotonic() - shown > 5:
                shown = time.monotonic()
                rate = total.schedules / (shown - begun)
                print(
                    f"{total.schedules} schedules, {rate:.0f}/s, {len(total.failed)} failed",
                    flush=True,
                )
    return total, total.schedules / (time.monotonic() - begun)


EXPECTED = {
    names.RELEASE_EARLY: ("G1", "G7"),
    names.NO_EPOCH_CHECK: ("G1", "G2", "G7", "G8"),
    names.NO_DUPLICATE_CHECK: ("G2",),
    names.MARKS_APART: ("G2",),
    names.NO_LEASE: ("G7",),
    names.NO_PROMISE_WAIT: ("G7",),
    names.NO_BASE_CHECK: ("G2",),
    names.EARLY_ADMISSION: ("G1", "G2"),
    names.SNAPSHOT_WITHOUT_HELD: ("G6",),
    names.NO_RE_EMISSION: ("G6",),
    names.NO_GAPS: ("G8",),
    names.NO_MARGIN: ("G7",),
    names.NOT_DRAINED_MOVE: ("G7", "G1"),
    names.ALL_CONFIRMED: ("G7",),
    names.MISSED_IGNORED: ("G1", "G2", "G6", "G8"),
    names.NO_EARLY_ENTRIES: ("G8",),
    names.NO_EARLY_PARTS: ("G8",),
}
"""For each rule that can be switched off from outside: the guarantees of which one must break."""


def first_caught(control: int, expected: tuple[str, ...], most: int) -> int | None:
    """How many schedules it takes to notice that a rule is switched off; None: more than `most`."""
    bench = Bench(control)
    for first in range(0, most, CONTROL_CHUNK):
        for seed in bench.run_many(first, min(CONTROL_CHUNK, most - first)):
            bench.run(seed)
            if any(line.startswith(expected) for line in violations(bench.world)):
                return seed + 1
    return None


def report_controls(most: int) -> int:
    """Switch off one rule at a time; how many were not noticed."""
    missed = 0
    for control, expected in EXPECTED.items():
        caught = first_caught(control, expected, most)
        missed += caught is None
        number = "not noticed" if caught is None else f"{caught:>6}"
        print(f"{names.CONTROLS[control]:32} {number}  {' or '.join(expected)}", flush=True)
    print(json.dumps({"controls": len(EXPECTED), "missed": missed}))
    return missed


def report(total: Outcome, rate: float) -> None:
    """Print what was done and what was found."""
    width = max(map(len, names.STATS))
    for name in names.STATS:
        print(f"{name:{width}} {total.stats[name]:>12}")
    for guarantee in names.GUARANTEES[1:]:
        if not guarantee.startswith("G5"):
            print(f"{guarantee:{width}} {total.broken[guarantee]:>12} schedules broke it")
    for seed, text in sorted(total.failed.items())[:20]:
        print(f"seed {seed}: {text}")
        print(f"    again: python -m tests.protocol.campaign --seed {seed} --trace")
    print(f"{total.schedules} schedules, {rate:.0f} per second")


def run_one(seed: int, traced: bool) -> int:
    """Run one seed; the number of violations."""
    bench = Bench()
    bench.run(seed, traced=traced)
    if traced:
        for line in bench.trace():
            print(line)
    for line in violations(bench.world):
        print(line)
    return int(bench.world[FOUND])


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100_000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--trace", action="store_true", help="print its steps")
    parser.add_argument("--controls", action="store_true", help="switch off one rule at a time")
    parser.add_argument("--json", action="store_true", help="print the last line alone")
    options = parser.parse_args(arguments)
    if options.controls:
        return 1 if report_controls(10_000) else 0
    if options.seed is not None:
        begun = time.monotonic()
        broken = run_one(options.seed, options.trace)
        rate = 1 / (time.monotonic() - begun)
        print(json.dumps({"schedules": 1, "violations": broken, "schedules_per_s": round(rate, 1)}))
        return 1 if broken else 0
    total, rate = campaign(options.first, options.seeds, options.jobs, options.json)
    if not options.json:
        report(total, rate)
    summary = {
        "schedules": total.schedules,
        "violations": len(total.failed),
        "schedules_per_s": round(rate, 1),
    }
    print(json.dumps(summary))
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
