"""Finds the fate of every sent packet: received, declared lost (and where), or neither. Pure.

A group names the inputs that it declares lost by flow and input number. At the first hop that is
the stamp; at a later hop it is the number of the output of the hop before, which numbers anew what
it passes on. So packets are followed hop by hop: the k-th packet of a flow that left hop h is
input k of hop h + 1. The stamper numbers the flows of a chain in the order of their first packets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from testbed.lab.faults.record import EpisodeRecord, Violation
from testbed.scenario.steering import base_path, forward_path

MARGIN_NS = 100_000_000
"""Around the time of a cut: what was on the way when it began, and until frames pass again."""

RECEIVED, DECLARED, ON_FAILED_LINK, UNDECLARED = (
    "received",
    "declared",
    "on-failed-link",
    "undeclared",
)

Losses = Mapping[int, frozenset[int]]
"""The input numbers that a group declared lost, by the stamper's number of the flow."""


@dataclass(frozen=True, slots=True)
class FlowTrace:
    """A flow's way through its chain.

    declared  by place in the sequence of sent packets: the hop that declared it lost
    entering  how many packets came to each hop, and at the end how many left the chain
    beyond    (hop, input number) declared lost of which no packet can have been
    """

    declared: Mapping[int, int]
    entering: tuple[int, ...]
    beyond: tuple[tuple[int, int], ...]


def trace(sent: int, losses: Sequence[frozenset[int]]) -> FlowTrace:
    """Follow `sent` packets of a flow through hops that declared these inputs lost."""
    alive = list(range(sent))
    declared: dict[int, int] = {}
    entering, beyond = [sent], []
    for hop, lost in enumerate(losses):
        beyond += [(hop, number) for number in sorted(lost) if number >= len(alive)]
        declared.update({alive[number]: hop for number in lost if number < len(alive)})
        alive = [place for number, place in enumerate(alive) if number not in lost]
        entering.append(len(alive))
    return FlowTrace(declared, tuple(entering), tuple(beyond))


def declared_losses(dump: Mapping[str, Any], path: int) -> Losses:
    """What `dump["losses"]` of a member of a group says of a base path."""
    found: dict[int, set[int]] = {}
    for where, flow, _epoch, seq, _reason in dump["losses"]:
        if base_path(where) == path:
            found.setdefault(flow, set()).add(seq)
    return {flow: frozenset(numbers) for flow, numbers in found.items()}


def all_losses(record: EpisodeRecord, chain: int, hop: int) -> Losses:
    """What the groups of a hop declared lost on the way forward: by their end, and before.

    A member that joined by a snapshot knows only of the losses after it.
    """
    path, groups = forward_path(chain), record.groups(chain, hop)
    sources = [event for event in record.named("losses") if event["group"] in groups]
    found: dict[int, frozenset[int]] = {}
    for source in (*sources, *record.final_primaries(chain, hop)):
        for flow, numbers in declared_losses(source, path).items():
            found[flow] = found.get(flow, frozenset()) | numbers
    return found


def stamper_numbers(packets: pd.DataFrame) -> dict[int, int]:
    """The stamper's number of each flow of a chain, by the sender's."""
    first = packets.dropna(subset=["sent_ns"]).groupby("flow")["sent_ns"].min().sort_values()
    return {int(flow): number for number, flow in enumerate(first.index)}


@dataclass(frozen=True, slots=True)
class Account:
    """`packets`: those that were sent, with their `fate`. `traces`: by (chain, stamper's flow)."""

    packets: pd.DataFrame
    traces: Mapping[tuple[int, int], FlowTrace]
    violations: tuple[Violation, ...]


def account(record: EpisodeRecord) -> Account:
    """Follow every packet of an episode."""
    was_sent = record.packets["sent_ns"].notna() | record.packets["received_ns"].notna()
    packets = record.packets[was_sent].sort_values(["chain", "flow", "seq"]).copy()
    packets["fate"] = UNDECLARED
    traces: dict[tuple[int, int], FlowTrace] = {}
    violations: list[Violation] = []
    for chain in packets["chain"].unique().tolist():
        of_chain = packets[packets["chain"] == chain]
        losses = _losses_of_chain(record, chain, violations)
        numbers = stamper_numbers(of_chain)
        for flow in of_chain["flow"].unique().tolist():
            rows = of_chain[of_chain["flow"] == flow]
            number = numbers.get(flow, -1)
            found = trace(len(rows), [hop.get(number, frozenset()) for hop in losses])
            traces[chain, number] = found
            packets.loc[rows.index, "fate"] = _fates(record, rows, found)
            violations += _contradictions(record, rows, found)
    return Account(packets, traces, tuple(violations))


def _losses_of_chain(
    record: EpisodeRecord, chain: int, violations: list[Violation]
) -> list[Losses]:
    """By hop; what cannot be known is a violation."""
    losses: list[Losses] = []
    for hop in range(len(record.functions(chain))):
        for group in record.groups(chain, hop):
            dump = record.final_primary(group)
            if dump is None:
                violations.append(Violation("no-dump", f"{group}: no primary's dump"))
            elif dump["counters"]["declared_lost"] > len(dump["losses"]):
                detail = f"{group} declared more losses than it remembers"
                violations.append(Violation("losses-forgotten", detail))
        losses.append(all_losses(record, chain, hop))
    return losses


def _fates(record: EpisodeRecord, rows: pd.DataFrame, found: FlowTrace) -> list[str]:
    received = rows["received_ns"].notna().to_numpy()
    sent_ns = rows["sent_ns"].fillna(0).to_numpy(np.int64) + record.origin_ns
    on_failed = np.zeros(len(rows), np.bool_)
    for begin, end in record.cuts():
        on_failed |= (sent_ns >= begin - MARGIN_NS) & (sent_ns <= end + MARGIN_NS)
    fates = []
    for place in range(len(rows)):
        if received[place]:
            fates.append(RECEIVED)
        elif place in found.declared:
            fates.append(DECLARED)
        else:
            fates.append(ON_FAILED_LINK if on_failed[place] else UNDECLARED)
    return fates


def _contradictions(record: EpisodeRecord, rows: pd.DataFrame, found: FlowTrace) -> list[Violation]:
    """What was declared lost cannot have been received, nor can what nobody sent."""
    chain, flow = int(rows["chain"].iloc[0]), int(rows["flow"].iloc[0])
    name = f"chain {chain}, flow {flow}"
    violations = [
        Violation("declared-beyond-sent", f"{name}: input {number} of hop {hop}")
        for hop, number in found.beyond
    ]
    for place, hop in sorted(found.declared.items()):
        row = rows.iloc[place]
        if not pd.isna(row["received_ns"]):
            detail = f"{name}, packet {row['seq']}: declared lost at hop {hop}"
            when = int(row["received_ns"]) + record.origin_ns
            violations.append(Violation("declared-and-delivered", detail, when))
    return violations
