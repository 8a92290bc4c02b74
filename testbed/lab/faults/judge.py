"""Judges a recorded episode: names each broken guarantee and the fault that broke it. Pure.

G1, G2, G6   `state`: members agree, each hop handled what the hop before let out, once
G3           `accounting`: every packet arrived, or was declared lost, or met a cut link
G4           no packet of a flow overtakes another, none arrives twice
G7           epochs only rise; a member without its role emits nothing
G8           `timings`: how long detection, promotion and replay took; and all was healed
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from testbed.lab.faults import accounting
from testbed.lab.faults.accounting import Account, account
from testbed.lab.faults.record import EpisodeRecord, Violation, Window
from testbed.lab.faults.state_checks import state_violations
from testbed.lab.faults.timings import timings
from testbed.results.not_done import death
from testbed.scenario.types import NS_PER_S

NO_FAILURE = frozenset(
    {
        "pause-primary",
        "link-down",
        "partition",
        "fdu-kill",
        "move",
        "scale",
        "controller-kill",
        "none",
    }
)
"""Kinds in which no member fails: who is taken out of a group, is so wrongly."""


def judge(record: EpisodeRecord) -> list[dict[str, Any]]:
    """A row for each injected fault, in order; see docs/faults.md for its keys.

    None if no fault was injected, since the groups were not well before the first.
    """
    windows = record.windows()
    if not windows:
        return []
    accounts = account(record)
    violations = [
        *accounts.violations,
        *_undeclared(record, accounts),
        *_order_violations(record),
        *_harness_violations(record),
        *_deaths(record),
        *state_violations(record, accounts),
        *_owner_violations(record),
        *_health_violations(record),
        *_false_detections(record, windows),
    ]
    rows = [_row(record, accounts, window) for window in windows]
    for violation in violations:
        rows[_index(windows, violation)]["violations"].append(
            f"{violation.what}: {violation.detail}"
        )
    return rows


def _index(windows: Sequence[Window], violation: Violation) -> int:
    """The fault to which a violation belongs; what shows at the end alone is with the last."""
    if violation.t_ns is None:
        return -1
    before = [n for n, window in enumerate(windows) if window.begin_ns <= violation.t_ns]
    return before[-1] if before else 0


def _row(record: EpisodeRecord, accounts: Account, window: Window) -> dict[str, Any]:
    fates = _fates_in(record, accounts, window)
    return {
        "fault": window.kind,
        "number": window.number,
        "at_s": round((window.begin_ns - record.origin_ns) / NS_PER_S, 3),
        "target": window.event["target"],
        **timings(record, window),
        "lost": sum(count for fate, count in fates.items() if fate != accounting.RECEIVED),
        "declared": fates.get(accounting.DECLARED, 0),
        "on_failed_link": fates.get(accounting.ON_FAILED_LINK, 0),
        "lost_undeclared": fates.get(accounting.UNDECLARED, 0),
        "violations": [],
    }


def _fates_in(record: EpisodeRecord, accounts: Account, window: Window) -> dict[str, int]:
    """What became of the packets that were sent from shortly before a fault to the next."""
    if window.event["t_ns"] == record.windows()[0].begin_ns:
        begin_ns = 0
    else:
        begin_ns = window.begin_ns - accounting.MARGIN_NS - record.origin_ns
    end_ns = window.end_ns - accounting.MARGIN_NS - record.origin_ns
    if window.end_ns == record.windows()[-1].end_ns:
        end_ns = np.iinfo(np.int64).max
    sent_ns = accounts.packets["sent_ns"].fillna(0).to_numpy(np.int64)
    chosen = accounts.packets["fate"][(sent_ns >= begin_ns) & (sent_ns < end_ns)]
    return {str(fate): int(count) for fate, count in chosen.value_counts().items()}


def _undeclared(record: EpisodeRecord, accounts: Account) -> Iterator[Violation]:
    packets = accounts.packets
    lost = packets[packets["fate"] == accounting.UNDECLARED]
    for (chain, flow), rows in lost.groupby(["chain", "flow"]):
        seqs = rows["seq"].tolist()
        when = int(rows["sent_ns"].fillna(0).iloc[0]) + record.origin_ns + accounting.MARGIN_NS
        detail = f"chain {chain}, flow {flow}: packets {seqs[:5]}, {len(seqs)} in all"
        yield Violation("lost-undeclared", detail, when)


def _order_violations(record: EpisodeRecord) -> Iterator[Violation]:
    packets = record.packets
    for (chain, flow), rows in packets[packets["received_ns"].notna()].groupby(["chain", "flow"]):
        rows = rows.sort_values("seq")
        name = f"chain {chain}, flow {flow}"
        ranks = rows["arrival"].to_numpy(np.int64)
        for place in np.flatnonzero(np.diff(ranks) < 0)[:3]:
            row = rows.iloc[int(place) + 1]
            when = int(row["received_ns"]) + record.origin_ns
            detail = f"{name}: packet {row['seq']} overtook the one before"
            yield Violation("reordered", detail, when)
        for _, row in rows[rows["copies"] > 1].head(3).iterrows():
            when = int(row["received_ns"]) + record.origin_ns
            detail = f"{name}: packet {row['seq']} arrived {row['copies']} times"
            yield Violation("duplicated", detail, when)


def _harness_violations(record: EpisodeRecord) -> Iterator[Violation]:
    """What the edges dropped would be taken for a loss of the network: there must be none."""
    for name, counters in record.manifest.get("edges", {}).items():
        for counter in ("kernel_drops", "tun_drops", "send_failed", "write_failed"):
            if counters[counter]:
                detail = f"{name}: {counter} = {counters[counter]}"
                yield Violation("testbed-dropped", detail)


def _deaths(record: EpisodeRecord) -> Iterator[Violation]:
    """Processes that ended by themselves."""
    targets = [event["target"] for event in record.named("injected")]
    for event in record.named("process-died"):
        # A fault that is about the controller kills it outside the book of processes.
        if not (event["process"] == "controller" and any("controller" in each for each in targets)):
            detail = death(event["process"], event["status"])
            yield Violation("process-died", detail, event["t_ns"])


def _owner_violations(record: EpisodeRecord) -> Iterator[Violation]:
    """G7: nobody emits without its role, and primaries follow one another by epoch."""
    for event in record.named("zombie"):
        name, when = event["instance"], int(event["t_ns"])
        if event["frames"]:
            detail = f"{name} sent {event['frames']} frames after it woke up"
            yield Violation("zombie-released", detail, when)
        if event["role"] != "out":
            yield Violation("zombie-role", f"{name}: role {event['role']}, expected out", when)
    yield from _epoch_violations(record)
    last: dict[str, Any] = {}
    for event in record.named("snapshot"):
        name, before = event["instance"], last.get(event["instance"])
        last[name] = event
        if before is None or before["emitted"] > event["emitted"]:
            continue  # another process under the name of one that ended
        idle = before["role"] != "primary" and event["role"] != "primary"
        same = before["epoch"] == event["epoch"]
        if idle and same and before["emitted"] != event["emitted"]:
            detail = f"{name}, role {event['role']}, emitted in epoch {event['epoch']}"
            yield Violation("released-without-role", detail, int(event["t_ns"]))


def _epoch_violations(record: EpisodeRecord) -> Iterator[Violation]:
    epochs: dict[str, int] = {}
    owner: dict[str, str] = {}
    for event in record.named("promoted", "first-release"):
        group, name, when = event["group"], event["instance"], int(event["t_ns"])
        if event["event"] == "promoted":
            if event["epoch"] <= epochs.get(group, 0):
                detail = f"{name} in epoch {event['epoch']} after epoch {epochs[group]}"
                yield Violation("epoch-not-raised", detail, when)
            epochs[group] = max(event["epoch"], epochs.get(group, 0))
            owner[group] = name
        elif owner.get(group) != name:
            detail = f"{name} released although {owner.get(group)} had been promoted"
            yield Violation("released-without-role", detail, when)


def _health_violations(record: EpisodeRecord) -> Iterator[Violation]:
    for event in record.named("not-healed"):
        detail = "a group or the FDU was not healthy again in time"
        yield Violation("not-healed", detail, int(event["t_ns"]))
    moves = {window.begin_ns for window in record.windows() if window.kind == "move"}
    for event in record.named("move-failed"):
        planned = [begin for begin in moves if begin <= event["t_ns"]]
        kind = _kind_at(record, int(event["t_ns"]))
        if planned and kind == "move" and "refused" not in event["error"]:
            yield Violation("move-failed", event["error"], int(event["t_ns"]))


def _kind_at(record: EpisodeRecord, t_ns: int) -> str | None:
    found = [w.kind for w in record.windows() if w.begin_ns <= t_ns < w.end_ns]
    return found[0] if found else None


def _false_detections(record: EpisodeRecord, windows: Sequence[Window]) -> Iterator[Violation]:
    """Nobody is taken for failed who did not fail."""
    for event in record.named("failure-detected"):
        t_ns = int(event["t_ns"])
        window = next((w for w in windows if w.begin_ns <= t_ns < w.end_ns), None)
        if window is not None and window.kind not in NO_FAILURE:
            if event["instance"] in window.event["victims"]:
                continue
        elif window is not None and _paused_too_long(record, window):
            continue
        if _host_stood_still(record, t_ns):
            continue
        during = "before the first fault" if window is None else f"during {window.kind}"
        detail = f"{event['instance']} ({event['role']}) was taken for failed {during}"
        yield Violation("false-detection", detail, t_ns)


def _patience_ns(record: EpisodeRecord) -> float:
    """How long a member may be silent, whenever its last heartbeat was, and count as alive."""
    replication = record.manifest["replication"]
    return float((replication["failure_timeout_s"] - 2 * replication["heartbeat_s"]) * NS_PER_S)


def _host_stood_still(record: EpisodeRecord, t_ns: int) -> bool:
    """Whether a core was taken away before: who ran there had failed, for as long as that."""
    timeout_ns = record.manifest["replication"]["failure_timeout_s"] * NS_PER_S
    return any(
        event["stalled_ns"] > _patience_ns(record)
        for event in record.named("core-stalled")
        # It is noted when the core goes on, which may be after the detection.
        if t_ns - 2 * timeout_ns <= event["t_ns"] <= t_ns + event["stalled_ns"]
    )


def _paused_too_long(record: EpisodeRecord, window: Window) -> bool:
    """A host that was busy may make a pause longer than was meant: then it is a failure."""
    return any(
        event["paused_ns"] > _patience_ns(record)
        for event in record.named("resumed")
        if window.begin_ns <= event["t_ns"] < window.end_ns
    )
