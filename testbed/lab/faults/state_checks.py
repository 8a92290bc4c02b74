"""Checks the state, the marks and the counters of each group at the end of an episode. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from testbed.lab.faults.accounting import Account, all_losses
from testbed.lab.faults.record import EpisodeRecord, Violation
from testbed.scenario.names import member_name
from testbed.scenario.steering import base_path, forward_path
from testbed.vnf.functions.sharing import FIRST_LINEARIZABLE

FLOW_TAG, TOTALS_TAG = 0x01, 0x40
KEY_WORDS = 5
PACKETS, TOTAL_PACKETS = 1, 0
"""Places of the traffic monitor's counts in the values of its records."""


def state_violations(record: EpisodeRecord, account: Account) -> Iterator[Violation]:
    """G1, G2 and G6 for every group of every chain."""
    if record.named("not-quiescent"):
        yield Violation("not-quiescent", "groups had work left long after the last packet")
    for group in record.final_groups():
        yield from _diverged(record, group)
    yield from _overcounted(record)
    yield from _disagreed(record)
    for request in record.manifest["requests"]:
        yield from _chain_violations(record, account, int(request["id"]))


def _diverged(record: EpisodeRecord, group: str) -> Iterator[Violation]:
    """All members have the same log, marks and state."""
    names = [member_name(group, number) for number in record.final_groups()[group]["members"]]
    dumps = [record.dumps[name] for name in names if name in record.dumps]
    if len(dumps) < len(names):
        missing = [name for name in names if name not in record.dumps]
        yield Violation("no-dump", f"{group}: no dump of {', '.join(missing)}")
    for field in ("log_index", "marks", "state_digest"):
        values = [dump[field] for dump in dumps]
        if any(value != values[0] for value in values[1:]):
            detail = f"{group}: members differ in {field}: {_short(values)}"
            yield Violation("diverged", detail)


def _overcounted(record: EpisodeRecord) -> Iterator[Violation]:
    """What is known of groups together is not more than they have: all that is shared survives."""
    totals: dict[str, int] = {}
    for group, final in record.final_groups().items():
        dump = record.dumps.get(f"{group}-m{final['primary']}", {"state": []})
        counts = (row[KEY_WORDS:] for row in dump["state"] if row[0] >> 56 == TOTALS_TAG)
        totals[group] = sum(values[TOTAL_PACKETS] for values in counts)
    for name, dump in sorted(record.dumps.items()):
        view = dump.get("shared", {}).get("view", {})
        bound = sum(totals.get(group, 0) for group in view.get("groups", ()))
        if view.get("packets", 0) > bound:
            detail = f"{name} knows of {view['packets']} packets in {view['groups']}: have {bound}"
            yield Violation("shared-overcounted", detail)


def _disagreed(record: EpisodeRecord) -> Iterator[Violation]:
    """G5: after so many changes the linearizable records are the same for all who share them."""
    known: dict[tuple[str, int], tuple[str, list[Any]]] = {}
    for name, dump in sorted(record.dumps.items()):
        scope, changes = dump.get("scope"), dump["counters"].get("shared_changes")
        if scope is None or changes is None:
            continue
        rows = [row for row in dump["state"] if row[0] >> 56 >= FIRST_LINEARIZABLE]
        other, expected = known.setdefault((scope, changes), (name, rows))
        if rows != expected:
            detail = f"{name} and {other}: they differ after {changes} changes of {scope}"
            yield Violation("not-linearizable", detail)


def _short(values: list[Any]) -> str:
    text = "; ".join(str(value) for value in values)
    return text if len(text) < 200 else text[:200] + "..."


def marks_of(dump: Mapping[str, Any], path: int) -> dict[int, tuple[int, int]]:
    """(next input, next output) of each flow of a base path."""
    return {
        flow: (expected, out)
        for where, flow, _epoch, expected, out in dump["marks"]
        if base_path(where) == path
    }


def _chain_violations(record: EpisodeRecord, account: Account, chain: int) -> Iterator[Violation]:
    """Every hop has handled exactly what the hop before let out, and each packet once."""
    functions = record.functions(chain)
    before = {
        flow: found.entering[0]
        for (of_chain, flow), found in account.traces.items()
        if of_chain == chain
    }
    for hop, function in enumerate(functions):
        dumps = record.final_primaries(chain, hop)
        if len(dumps) < len(record.groups(chain, hop)):
            return  # told of by the account
        name = f"chain {chain}, hop {hop}"
        # A flow is of one shard: no other group has marks of it.
        marks = {f: mark for d in dumps for f, mark in marks_of(d, forward_path(chain)).items()}
        losses = all_losses(record, chain, hop)
        handled: dict[int, int] = {}
        for flow, entered in sorted(before.items()):
            expected, out = marks.get(flow, (0, 0))
            handled[flow] = expected - len(losses.get(flow, ()))
            if expected != entered:
                detail = f"{name}, flow {flow}: {entered} packets came, the next expected is "
                yield Violation("chain-broken", detail + str(expected))
            if out != handled[flow]:
                detail = f"{name}, flow {flow}: {handled[flow]} handled, {out} let out"
                yield Violation("dropped-by-verdict", detail)
            before[flow] = out
        if function == "tm":
            yield from _monitor_violations(dumps, name, handled)


def _monitor_violations(
    dumps: Sequence[Mapping[str, Any]], name: str, handled: Mapping[int, int]
) -> Iterator[Violation]:
    """The monitor has counted each packet once."""
    counts: Counter[int] = Counter()
    total = 0
    for row in (row for dump in dumps for row in dump["state"]):
        tag, values = row[0] >> 56, row[KEY_WORDS:]
        if tag == FLOW_TAG:
            counts[values[PACKETS]] += 1
        elif tag == TOTALS_TAG:
            total += values[TOTAL_PACKETS]
    if total != sum(handled.values()):
        detail = f"{name} counted {total} packets, {sum(handled.values())} were handled"
        yield Violation("not-exactly-once", detail)
    expected = Counter(number for number in handled.values() if number)
    if counts != expected:
        detail = f"{name} counted by flow {dict(counts)}, handled {dict(expected)}"
        yield Violation("not-exactly-once", detail)
