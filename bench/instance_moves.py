"""What does a move do to packets? `python -m bench.instance_moves --json`. Needs root.

A firewall with a backup serves 10,000 flows at 5,000 packets a second when a third member is asked
in, takes the snapshot and follows the log, and becomes the primary (the steps of
`testbed.orchestration.deploying.reconfigure.move`, without its controller and FDU). The heir lives
in the backup's namespace; what it sends is redirected to where the receiver listens.

`added_delay` is that of packets that were sent from the order on until a second after the end of
the move, less the median delay before. Order is looked at flow by flow, as duplicates leave it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.rigs.chain_lab import (
    QUIET_NS,
    RECEIVER_FRAMES,
    ChainLab,
    instance_config,
    laboratory,
    member_address,
)
from bench.rigs.loadgen import Intake, Received, Sent
from bench.rigs.stamped import (
    FIRST_HOP,
    NUMBER_AT,
    NUMBER_BITS,
    PATH,
    TIME_AT,
    StampedLoad,
    receive_stamped,
    send_stamped,
)
from bench.rigs.workers import ended_by_sigterm
from testbed.orchestration.deploying import zygote
from testbed.scenario.errors import RunError
from testbed.substrate.commands import run

FLOWS, RATE_PPS, FRAME_BYTES = 10_000, 5_000, 128
LOAD_S, MOVE_AT_S, AFTER_NS = 10.0, 4.0, 1_000_000_000
MAX_FLOWS = 1 << 14
MOVES = 5
BOUND_S, POLL_S = 5.0, 0.0005


def members() -> dict[str, dict[str, Any]]:
    """Where the primary, its backup and the heir are reached."""
    places = ((0, 0), (1, 1), (2, 1))
    return {str(m): {"address": member_address(at), "port": 7000 + m} for m, at in places}


def said(epoch: int, primary: int, backups: list[int], learners: list[int]) -> dict[str, Any]:
    """What the failure detectors would say."""
    roles = {"epoch": epoch, "primary": primary, "backups": backups, "learners": learners}
    return {**roles, "confirmed": True, "members": members()}


def start_member(lab: ChainLab, member: int, configuration: dict[str, Any] | None) -> str:
    """Start member 0 in the primary's place, others in the backup's; its unique name."""
    place = "b0" if member else "p0"
    config = instance_config(
        0, member, "fw", {"max_connections": MAX_FLOWS}, "pipelined", MAX_FLOWS
    )
    address = member_address(min(member, 1))
    changed = {"address": address, "port": 7000 + member, "configuration": configuration}
    lab.start(place, "testbed.vnf.process.runtime:main", {**config, **changed})
    return lab.unique(place)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it; raises RunError if it takes too long."""
    deadline = time.monotonic() + BOUND_S
    while not condition():
        if time.monotonic() > deadline:
            raise RunError(f"{what}: not within {BOUND_S} s")
        time.sleep(POLL_S)  # an order takes about as long: ask again until the bound


def move(lab: ChainLab, names: dict[int, str]) -> dict[str, float]:
    """Move the primary from member 0 to a new member 2; how long the parts took, in ms."""

    def order(member: int, op: str, **fields: Any) -> dict[str, Any]:
        return lab.control.call(str(lab.folder / f"{names[member]}.sock"), op, **fields)

    def configure(*configuration: Any) -> None:
        for member in names:
            order(member, "configure", **said(*configuration))

    begin = time.monotonic()
    names[2] = start_member(lab, 2, None)
    started = time.monotonic()
    configure(2, 0, [1], [2])
    until(lambda: 2 in order(0, "stats")["required"], "the learner has caught up")
    configure(3, 0, [1, 2], [])
    caught_up = time.monotonic()
    order(0, "drain", on=True)
    until(lambda: bool(order(0, "stats")["drained"]), "the primary is drained")
    configure(4, 2, [1], [])
    end = time.monotonic()
    return {
        "start_ms": 1e3 * (started - begin),
        "catch_up_ms": 1e3 * (caught_up - started),
        "held_ms": 1e3 * (end - caught_up),
        "begin_ns": 1e9 * begin,
        "end_ns": 1e9 * end,
    }


def one_move(lab: ChainLab, epoch: int) -> dict[str, float]:
    """A load with a move in its middle: what became of the packets."""
    names = {m: start_member(lab, m, said(1, 0, [1], [])) for m in (0, 1)}
    count = round(RATE_PPS * LOAD_S)
    load = StampedLoad("p0", FRAME_BYTES, FLOWS, epoch, count, RATE_PPS)
    targets = ((PATH, FIRST_HOP + 1),)
    intake = Intake(
        "p0",
        targets,
        NUMBER_AT,
        TIME_AT,
        2 * count,
        quiet_ns=QUIET_NS,
        nap_ns=200_000,
        rx_frames=RECEIVER_FRAMES,
    )
    lab.receiver.begin(receive_stamped, intake)
    lab.sender.begin(send_stamped, load)
    time.sleep(MOVE_AT_S)  # the load has gone through all flows by then
    took = move(lab, names)
    sent: Sent = lab.sender.result()
    received: Received = lab.receiver.result()
    lab.end()
    return {**took, **outcome(received, sent, took)}


def outcome(received: Received, sent: Sent, took: dict[str, float]) -> dict[str, float]:
    """Losses, duplicates, packets out of their flow's order, and delays."""
    numbers = received.numbers & (1 << NUMBER_BITS) - 1
    _, first = np.unique(numbers, return_index=True)
    first.sort()
    delay_ms = (received.received_ns - received.sent_ns)[first] / 1e6
    sent_ns, arrived = received.sent_ns[first], numbers[first]
    # Frame i is packet i // FLOWS of flow i % FLOWS.
    order = np.lexsort((np.arange(len(arrived)), arrived % FLOWS))
    flow, seq = arrived[order] % FLOWS, arrived[order] // FLOWS
    overtaken = (flow[1:] == flow[:-1]) & (seq[1:] < seq[:-1])
    before = sent_ns < took["begin_ns"]
    during = ~before & (sent_ns < took["end_ns"] + AFTER_NS)
    usual_ms = float(np.median(delay_ms[before]))
    return {
        "lost": sent.count - len(first),
        "duplicates": len(numbers) - len(first),
        "reordered": int(overtaken.sum()),
        "delay_before_p50_ms": usual_ms,
        "added_delay_p50_ms": float(np.median(delay_ms[during])) - usual_ms,
        "added_delay_p99_ms": float(np.quantile(delay_ms[during], 0.99)) - usual_ms,
        "added_delay_max_ms": float(delay_ms[during].max()) - usual_ms,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--moves", type=int, default=MOVES, help=f"one after the other [{MOVES}]")
    options = parser.parse_args(arguments)
    for module in zygote.WARM_MODULES:
        importlib.import_module(module)
    with ended_by_sigterm(), laboratory(1) as lab:
        every = ["protocol", "all", "u32", "match", "u32", "0", "0"]
        there = ["action", "mirred", "ingress", "redirect", "dev", "p0"]
        switch = f"{lab.mark}w"
        run(["ip", "-n", f"{lab.mark}b0", "link", "set", "lo", "up"])  # backup and heir are there
        run(["tc", "-n", switch, "qdisc", "add", "dev", "b0", "clsact"])
        run(["tc", "-n", switch, "filter", "add", "dev", "b0", "ingress", *every, *there])
        runs = [one_move(lab, epoch) for epoch in range(options.moves)]
    names = [name for name in runs[0] if not name.endswith("_ns")]
    columns = {name: [round(run[name], 3) for run in runs] for name in names}
    case = {"function": "fw", "flows": FLOWS, "load_pps": RATE_PPS, "frame_bytes": FRAME_BYTES}
    figures = {name: float(np.median(values)) for name, values in columns.items()}
    line = {
        "bench": "move",
        "case": case,
        "figures": figures,
        "spread": {name: [min(values), max(values)] for name, values in columns.items()},
        "runs": len(runs),
        "load_average": round(os.getloadavg()[0], 2),
    }
    if options.json:
        print(json.dumps(line))
    else:
        for name, value in figures.items():
            print(f"{name:22} {value:10.3f}   {columns[name]}")


if __name__ == "__main__":
    main()
