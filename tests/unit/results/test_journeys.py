"""The way of a packet is put together from what each process saw, and its time adds up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from testbed.records import traces
from testbed.records.packets import build_packets
from testbed.records.payload import PayloadMaker
from testbed.records.raw import RawFormatError
from testbed.records.traces import create_trace, read_trace
from testbed.results.hops import measure_hops
from testbed.results.journeys import (
    Fate,
    Stamped,
    Traced,
    cut_traces,
    declared_losses,
    fate,
    fill_hops,
    read_traced,
    share_traced,
    spans,
)
from testbed.scenario.steering import forward_path, reverse_path
from testbed.vnf.dataplane.stamp import Stamp
from testbed.vnf.edge.edge_trace import EdgeTrace
from tests.support.journeys_support import MANIFEST, ORIGIN
from tests.support.results_support import MS, arrivals, schedule

PATH = forward_path(0)
REASONS = ["", "acl"]
LOSSES = ["", "gap", "no-cpu"]
Row = tuple[float, int, int, int, int, int]
"""Milliseconds from the origin, kind, seq, three words of note."""


def instance(raw: Path, hop: int, member: int, node: int, rows: Sequence[Row]) -> None:
    name = f"r0-h{hop}-m{member}"
    about = {
        "kind": "instance", "name": name, "group": f"r0-h{hop}", "member": member, "node": node,
        "function": "fw", "reasons": REASONS, "losses": LOSSES,
    }  # fmt: skip
    trace = create_trace(raw / f"trace-{name}.npy", 100, about)
    for number, (at_ms, kind, seq, *note) in enumerate(rows):
        at = traces.HEAD_WORDS + number * traces.ROW_WORDS
        t_ns = ORIGIN + round(at_ms * MS)
        trace[at : at + traces.ROW_WORDS] = [t_ns, kind, PATH, 9, 1, seq, *note, 0]
        trace[traces.ROWS] = number + 1


def edge(raw: Path, monkeypatch: pytest.MonkeyPatch, node: int, rows: Sequence[Row]) -> None:
    """An edge's trace, by its own writer; the first note of an entered packet is its test seq."""
    writer = EdgeTrace(raw / f"trace-edge-{node}.npy", 100, f"edge-{node}", node)
    payloads = PayloadMaker(0, 100)
    for at_ms, kind, seq, test_seq, *_ in rows:
        clock = ORIGIN + round(at_ms * MS)
        monkeypatch.setattr(
            "testbed.vnf.edge.edge_trace.time.monotonic_ns", lambda clock=clock: clock
        )
        stamp = Stamp(PATH, 9, 3, 1, seq)
        if kind == traces.ENTERED:
            writer.entered(stamp, bytes(28) + payloads.make(0, test_seq, 5))
        else:
            writer.note(kind, stamp)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Test packet 0 arrives; 1 is dropped by the firewall, 2 is a gap there, 3 has no CPU, 4 is
    seen by nobody behind the edge, 5 waits for its commit, 6 is not sent. The stamps begin at 50,
    and the first function has passed on ten more: its outputs begin at 60."""
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "sent").mkdir()
    entered = [(1.0 + n, traces.ENTERED, 50 + n, n, 0, 0) for n in range(6)]
    edge(raw, monkeypatch, 0, entered)
    first: list[Row] = []
    for n in (0, 1, 2, 5):
        at = 4.0 + n
        first += [
            (at, traces.TAKEN, 50 + n, 0, 0, 0),
            (at + 2.5, traces.DONE, 50 + n, MS, 0, 0),
            (at + 2.6, traces.HANDED, 50 + n, 0, 0, 0),
            (at + 3.0, traces.LOGGED, 50 + n, 60 + n, 0, 0),
        ]
        if n != 5:
            first.append((at + 4.0, traces.EMITTED, 50 + n, 60 + n, 0, 0))
    first += [(7.0, traces.HANDED, 53, 1, 0, 0), (7.1, traces.LOGGED, 53, -1, 2, 0)]
    instance(raw, 0, 0, 1, first)
    instance(raw, 0, 1, 2, [(5.0, traces.TAKEN, 50, 0, 0, 0)])  # a copy at the backup
    second: list[Row] = [
        (11.0, traces.TAKEN, 60, 0, 0, 0),
        (11.2, traces.HANDED, 60, 0, 0, 0),
        (11.3, traces.LOGGED, 60, 80, 0, 0),
        (11.5, traces.EMITTED, 60, 80, 0, 0),
        (12.0, traces.TAKEN, 61, 0, 0, 0),
        (12.3, traces.LOGGED, 61, -1, 0, 1),
        (60.0, traces.LOGGED, 62, -1, 1, 0),
    ]
    instance(raw, 1, 0, 2, second)
    edge(raw, monkeypatch, 2, [
        (11.8, traces.LEFT, 80, 0, 0, 0), (11.9, traces.REPEATED, 80, 0, 0, 0),
    ])  # fmt: skip
    (raw / "r0-h0-m0.json").write_text(json.dumps(
        {"name": "r0-h0-m0", "group": "r0-h0", "losses": [[PATH, 9, 1, 54, "gap"]]}
    ))  # fmt: skip
    yield tmp_path


def recorded() -> pd.DataFrame:
    sent = np.array([MS * n + MS // 2 for n in range(6)] + [0])
    return build_packets([schedule(7)], {0: sent}, arrivals([(0, 0, 0, 12 * MS)]))


def traced_of(run: Path) -> Traced:
    found = read_traced(run, MANIFEST)
    assert found is not None
    return found


def test_the_time_of_a_packet_adds_up_and_lies_where_it_was_spent(run: Path) -> None:
    traced = traced_of(run)
    journey = traced.journey((0, 0, 0))
    assert journey is not None and journey.left is not None
    found = spans(traced, journey, MS // 2, 12 * MS)
    assert [(hop, part, round(ns / MS, 3)) for hop, part, ns in found] == [
        (0, "source", 0.5),
        (0, "links", 2.0), (0, "switches", 1.0),
        (0, "queue", 1.5), (0, "function", 1.5), (0, "commit", 1.0),
        (1, "links", 2.0), (1, "switches", 1.0),
        (1, "queue", 0.2), (1, "function", 0.1), (1, "commit", 0.2),
        (2, "links", 0.0), (2, "switches", 0.3),
        (2, "sink", 0.2),
    ]  # fmt: skip
    assert sum(ns for *_, ns in found) == 12 * MS - MS // 2


def test_every_packet_that_is_lost_is_told_where(run: Path) -> None:
    traced, frame = traced_of(run), recorded()
    declared = declared_losses(run / "raw")
    fates = [
        fate(frame.iloc[seq], traced.journey((0, 0, seq)), declared, None, True) for seq in range(7)
    ]
    assert [(each.what, each.where) for each in fates] == [
        ("delivered", None),
        ("dropped", "r0-h1-m0"),
        ("lost", "r0-h1-m0"),
        ("lost", "r0-h0-m0"),
        ("lost", "edge-0"),
        ("lost", "r0-h0-m0"),
        ("unsent", None),
    ]
    words = ["1 arrival", "fw: acl", "gap", "no-cpu", "declared lost by r0-h0-m0: gap",
             "not seen to be committed", "did not send"]  # fmt: skip
    for each, word in zip(fates, words, strict=True):
        assert word in each.why
    refused = fate(frame.iloc[1], None, {}, "the policy refused", True)
    assert refused == Fate("refused", None, "the policy refused")
    assert fate(frame.iloc[1], None, {}, None, False).why == "where is not known"


def test_hops_are_kept_with_the_packets_and_measured_from_them(run: Path) -> None:
    filled = fill_hops(recorded(), traced_of(run))
    assert filled["hops"].isna().tolist() == [False] * 6 + [True]
    assert share_traced(filled) == 1.0
    entries = measure_hops(filled)
    assert sum(each["mean_ns"] * each["share"] for each in entries) == 11.5 * MS
    assert [each["part"] for each in entries][:6] == [
        "source", "links", "switches", "queue", "function", "commit",
    ]  # fmt: skip
    assert entries[0]["ns"]["p50"]["note"] == "1 of at least 6 samples"
    # One that got no further has what is known of it.
    assert json.loads(filled["hops"][1])[-1][:2] == [1, "function"]
    assert json.loads(filled["hops"][4]) == [[0, "source", MS // 2]]


def test_a_promoted_backup_sends_what_the_dead_primary_had_logged(run: Path) -> None:
    traced = traced_of(run)
    stamped = Stamped(0, PATH, 9, 1, 55)
    about = traced.sights[Stamped(0, PATH, 9, 1, 50)][-1].about
    assert about["name"] == "r0-h0-m1"
    promoted = [
        traces_sight(9.3, "taken", about), traces_sight(100.0, "emitted", about, 65),
    ]  # fmt: skip
    traced.sights[stamped] += promoted
    journey = traced.journey((0, 0, 5))
    assert journey is not None and journey.stages[0].output == 65
    found = spans(traced, journey, 5 * MS, None)
    assert found[-1] == (0, "commit", round((100.0 - 12.0) * MS))


def traces_sight(at_ms: float, what: str, about: Any, note: int = 0) -> Any:
    from testbed.results.journeys import Sight

    return Sight(round(at_ms * MS), what, about, (note, 0, 0))


def test_the_way_back_is_no_way_of_a_test_packet(run: Path) -> None:
    traced = traced_of(run)
    assert all(stamped.path == PATH for stamped in traced.sights)
    assert reverse_path(0) & 1 and traced.journey((0, 1, 0)) is None


def test_a_full_trace_counts_what_it_could_not_keep(tmp_path: Path) -> None:
    writer = EdgeTrace(tmp_path / "trace-edge-0.npy", 2, "edge-0", 0)
    for seq in range(5):
        writer.note(traces.LEFT, Stamp(PATH, 0, 0, 0, seq))
    found = read_trace(tmp_path / "trace-edge-0.npy")
    assert (len(found.rows), found.missed) == (2, 3)
    writer = EdgeTrace(tmp_path / "trace-edge-1.npy", 900, "edge-1", 1)
    writer.note(traces.LEFT, Stamp(PATH, 0, 0, 0, 7))
    np.save(tmp_path / "trace-edge-2.npy", np.zeros(90, np.int64))
    cut_traces(tmp_path)
    assert not (tmp_path / "trace-edge-2.npy").exists()
    assert (tmp_path / "trace-edge-1.npy").stat().st_size < 400
    assert read_trace(tmp_path / "trace-edge-1.npy").rows[:, traces.SEQ].tolist() == [7]
    assert found.rows[:, traces.SEQ].tolist() == [0, 1]
    assert read_traced(tmp_path, MANIFEST) is None  # they are not in raw/
    np.save(tmp_path / "trace-bad.npy", np.zeros(20, np.int64))
    with pytest.raises(RawFormatError, match="format 1"):
        read_trace(tmp_path / "trace-bad.npy")
