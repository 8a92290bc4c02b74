"""Raw records survive growth and an end without warning, and bad files are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from testbed.records.raw import (
    HEADER_BYTES,
    SCHEDULE_DTYPE,
    ArrivalFile,
    RawFormatError,
    create_sent,
    read_array,
    read_arrivals,
)


def test_records_survive_growth_and_close(tmp_path: Path) -> None:
    file = ArrivalFile(tmp_path / "a", chunk_records=8)
    for seq in range(100):
        file.append(2, seq % 3, seq, seq * 10 - 5)
    file.set_counters(4, 6)
    file.close()
    arrivals = read_arrivals(tmp_path / "a")
    assert arrivals.records["seq"].tolist() == list(range(100))
    assert arrivals.records["flow"].tolist() == [seq % 3 for seq in range(100)]
    assert arrivals.records["received_ns"].tolist() == [seq * 10 - 5 for seq in range(100)]
    assert (arrivals.records["request"] == 2).all()
    assert (arrivals.malformed, arrivals.socket_drops) == (4, 6)
    assert (tmp_path / "a").stat().st_size == HEADER_BYTES + 100 * 24


def test_an_open_file_gives_what_is_valid(tmp_path: Path) -> None:
    file = ArrivalFile(tmp_path / "a", chunk_records=8)
    for seq in range(11):
        file.append(0, 0, seq, seq)
    assert read_arrivals(tmp_path / "a").records["seq"].tolist() == list(range(11))
    file.close()


def test_a_file_cut_in_a_record_gives_the_whole_records(tmp_path: Path) -> None:
    file = ArrivalFile(tmp_path / "a")
    for seq in range(5):
        file.append(0, 0, seq, seq)
    file.close()
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[:-10])
    assert read_arrivals(tmp_path / "a").records["seq"].tolist() == [0, 1, 2, 3]


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    path = tmp_path / "strange"
    path.write_bytes(bytes(200))
    with pytest.raises(RawFormatError, match=r"strange.*expected b'DTBARRIV'"):
        read_arrivals(path)
    path.write_bytes(b"x")
    with pytest.raises(RawFormatError, match=r"1 bytes.*expected a header"):
        read_arrivals(path)
    with pytest.raises(RawFormatError, match=r"expected a \.npy array"):
        read_array(path, SCHEDULE_DTYPE)
    np.save(tmp_path / "ints.npy", np.zeros(3))
    with pytest.raises(RawFormatError, match="float64"):
        read_array(tmp_path / "ints.npy", SCHEDULE_DTYPE)


def test_a_sent_file_begins_with_nothing_sent(tmp_path: Path) -> None:
    sent = create_sent(tmp_path / "s.npy", 7)
    sent[3] = 12
    found = read_array(tmp_path / "s.npy", np.dtype(np.int64))
    assert found.tolist() == [0, 0, 0, 12, 0, 0, 0]
