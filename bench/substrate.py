"""How large a network does this host carry? `deftbed bench substrate --json`. Needs root.

For each topology, on the back ends that a run would use: the time to build the network and to
remove it (line compiled beforehand), the loss-free rate end to end, and CPU. The load goes from a
user host to another one over the longest of all shortest paths, in frames of 100 bytes; links have
the topology's delays, and a rate and a queue at which they lose nothing themselves. The loss-free
rate is the highest at which less than 0.1 % were lost (bisected). `cpu_us_per_packet_hop` is the
CPU time of Open vSwitch and of the line at half that rate, over packets and switches passed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from bench.rigs.line_rig import HEADER, NUMBER_AT, TIME_AT, listening, taken
from bench.rigs.loadgen import Load, Sent, send_load
from bench.rigs.networks import Times, lead, longest_path, network_of
from bench.rigs.workers import Place, Worker, ended_by_sigterm
from testbed.orchestration.deploying.site import SENDER_PRIORITY
from testbed.scenario.endings import Endings
from testbed.scenario.links import LinkSpec
from testbed.scenario.topohub_graph import from_topohub
from testbed.scenario.types import Topology
from testbed.substrate import processes
from testbed.substrate.commands import run
from testbed.substrate.emulated_network import Network
from testbed.substrate.probe import choose, probe
from testbed.substrate.switch_class import PID_FILE

TOPOLOGIES = ("abilene", "geant", "germany50")
RUNS = 3
TRIAL_S, QUIET_S = 1.0, 0.3
SLOWEST_PPS, FASTEST_PPS, RESOLUTION = 500, 100_000, 1.1
LOSS, LATE_NS, FRAME_BYTES = 0.001, 20_000_000, 100
SPEC = LinkSpec(rate_bps=10e9, queue_bytes=50_000_000)
MAC = ":".join(f"{byte:02x}" for byte in HEADER[:6])


def cpu_ns(network: Network) -> int:
    """CPU time of Open vSwitch's process and of the line so far."""
    counters = network.line_counters()
    line_ns = 0 if counters is None else counters.cpu_ns
    return processes.cpu_ns(int(PID_FILE.read_text())) + line_ns


@contextmanager
def named(network: Network, host: str) -> Iterator[str]:
    """A name for the namespace of a host, for workers."""
    name = f"{network.layout.run_id}-{host}"
    run(["ip", "netns", "attach", name, str(network.hosts[host].pid)])
    with Endings() as endings:
        endings.add(run, ["ip", "netns", "del", name])
        yield name


def trial(network: Network, sender: Worker, ends: tuple[str, str], pps: int) -> tuple[Sent, int]:
    """One load over the path: what was sent, and how many frames did not come."""
    source, target = (network.hosts[name] for name in ends)
    load = Load(
        source.interface,
        (HEADER.ljust(FRAME_BYTES, b"\0"),),
        NUMBER_AT,
        TIME_AT,
        round(pps * TRIAL_S),
        pps,
    )
    with listening(target.pid, target.interface) as receiver:
        sent: Sent = sender.call(send_load, load)
        time.sleep(QUIET_S)
        numbers, _, _ = taken(receiver)
    return sent, load.count - len(set(numbers.tolist()))


def loss_free_pps(network: Network, sender: Worker, ends: tuple[str, str]) -> int:
    """The highest rate that got through; 0 if not even the slowest did."""

    def passes(pps: int) -> bool:
        sent, lost = trial(network, sender, ends, pps)
        return lost <= LOSS * sent.count and sent.lag_p99_ns < LATE_NS

    low, high = 0, SLOWEST_PPS
    while high < FASTEST_PPS and passes(high):
        low, high = high, 2 * high
    while low and high > low * RESOLUTION:
        middle = round((low * high) ** 0.5)
        if passes(middle):
            low = middle
        else:
            high = middle
    return low


def load_figures(network: Network, topology: Topology) -> dict[str, float]:
    """The loss-free rate and the CPU at half of it."""
    path = longest_path(topology)
    ends = (f"user-{path[0]}", f"user-{path[-1]}")
    target = network.hosts[ends[1]]
    lead(network, path, MAC, target.switch_port)
    with named(network, ends[0]) as space:
        core = max(os.sched_getaffinity(0))
        # As the senders of a run, above the line and the switch, which share its core.
        with Worker(Place(space, core=core, priority=SENDER_PRIORITY)) as sender:
            pps = loss_free_pps(network, sender, ends)
            time.sleep(0.2)  # the line writes its CPU time ten times a second
            before_ns = cpu_ns(network)
            sent, _ = trial(network, sender, ends, max(pps // 2, SLOWEST_PPS // 2))
            time.sleep(0.2)
            used_ns = cpu_ns(network) - before_ns
    return {
        "loss_free_pps_end_to_end": float(pps),
        "cpu_us_per_packet_hop": used_ns / 1e3 / sent.count / len(path),
        "hops": float(len(path)),
    }


def figures(topology: Topology, load: bool) -> dict[str, float]:
    """One run: the network is built, loaded and removed."""
    times = Times()
    found: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        network_of(topology, Path(folder), times) as network,
    ):
        if load:
            found = load_figures(network, topology)
    return {"build_s": times.build_s, "remove_s": times.remove_s, **found}


def measure(name: str, runs: int, load: bool) -> dict[str, Any]:
    """The line of a topology of SNDlib."""
    topology = from_topohub(f"sndlib/{name}", SPEC)
    backends = choose(probe())
    rows = [figures(topology, load) for _ in range(runs)]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return {
        "bench": "substrate",
        "case": {
            "topology": name,
            "nodes": len(topology.nodes),
            "links": len(topology.links),
            "backend": backends.link,
            "datapath": backends.datapath,
        },
        "figures": {key: round(median(values), 3) for key, values in columns.items()},
        "spread": {
            key: [round(min(values), 3), round(max(values), 3)] for key, values in columns.items()
        },
        "runs": runs,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="deftbed bench substrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--topologies", default=",".join(TOPOLOGIES))
    parser.add_argument("--no-load", action="store_true", help="only build and remove")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    with ended_by_sigterm():
        for name in options.topologies.split(","):
            line = measure(name, options.runs, not options.no_load)
            if options.json:
                print(json.dumps(line), flush=True)
            else:
                console.print(f"{line['case']} {line['figures']}", markup=False)


if __name__ == "__main__":
    main()
