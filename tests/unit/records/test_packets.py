"""packets.parquet: every packet once, with its first arrival, copies and rank."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.records.packets import SCHEMA, UNMATCHED, build_packets, collect, read, write
from testbed.records.raw import ArrivalFile, RawFormatError
from tests.support.results_support import Arrival, arrivals, packets, schedule


def test_lost_duplicated_and_reordered_packets_are_told_apart() -> None:
    frame = packets(
        [schedule(6, flows=2)],
        # Flow 0: 1, 0, 0 again, 2 is lost. Flow 1: 2, 0, 2 again.
        [(0, 0, 1, 50), (0, 1, 2, 60), (0, 0, 0, 70), (0, 0, 0, 75), (0, 1, 0, 80), (0, 1, 2, 90)],
    )
    rows = {(row.flow, row.seq): row for row in frame.itertuples()}
    assert [rows[0, seq].copies for seq in range(3)] == [2, 1, 0]
    assert [rows[1, seq].copies for seq in range(3)] == [1, 0, 2]
    assert (rows[0, 0].received_ns, rows[1, 2].received_ns) == (70, 60)
    assert [rows[0, 1].arrival, rows[0, 0].arrival] == [0, 1]
    assert [rows[1, 2].arrival, rows[1, 0].arrival] == [0, 1]
    assert rows[0, 2].received_ns is pd.NA and rows[0, 2].arrival is pd.NA
    assert frame["scheduled_ns"].is_monotonic_increasing


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 5), st.integers(0, 10**9)),
        max_size=60,
    )
)
def test_packets_agree_with_counting_one_by_one(records: list[Arrival]) -> None:
    schedules = [schedule(7, flows=2, request=0), schedule(9, flows=3, request=2)]
    frame = packets(schedules, records)
    known = {(r.chain, r.flow, r.seq) for r in frame.itertuples()}
    ours = [record for record in records if record[:3] in known]
    assert frame.attrs[UNMATCHED] == len(records) - len(ours)
    for row in frame.itertuples():
        key = (row.chain, row.flow, row.seq)
        mine = [record for record in ours if record[:3] == key]
        assert row.copies == len(mine)
        if not mine:
            assert row.received_ns is pd.NA and row.arrival is pd.NA
            continue
        assert row.received_ns == mine[0][3]
        before = {r[2] for r in ours[: ours.index(mine[0])] if r[:2] == key[:2]}
        assert row.arrival == len(before - {row.seq})


def test_a_packet_that_was_not_sent_has_no_time_of_sending() -> None:
    frame = build_packets([schedule(4)], {0: np.array([5, 0, 7])}, arrivals([]))
    assert frame["sent_ns"].isna().tolist() == [False, True, False, True]
    assert build_packets([schedule(4)], {}, arrivals([]))["sent_ns"].isna().all()


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    frame = packets([schedule(6, flows=2)], [(0, 0, 1, 2**60), (0, 1, 2, 60)])
    write(frame, tmp_path / "packets.parquet")
    pd.testing.assert_frame_equal(read(tmp_path / "packets.parquet"), frame)
    metadata = pq.read_schema(tmp_path / "packets.parquet").metadata
    assert metadata[b"deftbed.packets.format"] == b"1"


def test_no_packets_can_be_written_too(tmp_path: Path) -> None:
    write(build_packets([], {}, arrivals([])), tmp_path / "p")
    assert read(tmp_path / "p").columns.tolist() == SCHEMA.names


def test_another_version_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([], schema=SCHEMA)
    newer = table.replace_schema_metadata({b"deftbed.packets.format": b"2"})
    pq.write_table(newer, tmp_path / "p")
    with pytest.raises(RawFormatError, match=r"format = '2': expected 1: .*newer version"):
        read(tmp_path / "p")
    (tmp_path / "p").write_bytes(b"no parquet at all")
    with pytest.raises(RawFormatError, match="expected a parquet file"):
        read(tmp_path / "p")


def test_a_run_cut_short_is_collected(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    requests = [{"id": number, "chain": "voip", "l3_bytes": 100} for number in (0, 1)]
    (tmp_path / "manifest.json").write_text(json.dumps({"requests": requests}))
    assert collect(tmp_path).empty
    np.save(tmp_path / "raw" / "schedule-1.npy", schedule(3).schedule)
    frame = collect(tmp_path)
    assert frame["chain"].tolist() == [1, 1, 1]
    assert frame["sent_ns"].isna().all()
    for node in (0, 4):
        file = ArrivalFile(tmp_path / "raw" / f"received-{node}")
        if node == 4:
            file.append(1, 0, 2, 99)
        file.close()
    assert collect(tmp_path)["received_ns"].fillna(-1).tolist() == [-1, -1, 99]
