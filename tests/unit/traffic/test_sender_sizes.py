"""A stream whose packets differ in size sends each with its own."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

from testbed.records.payload import IP_UDP_BYTES, parse
from testbed.records.raw import SCHEDULE_DTYPE
from traffic.sender import Stream


def stream(folder: Path, port: int, sizes: list[int]) -> Stream:
    schedule = np.zeros(3, SCHEDULE_DTYPE)
    schedule["seq"] = [0, 1, 2]
    np.save(folder / "schedule.npy", schedule)
    np.save(folder / "sizes.npy", np.array(sizes, np.uint16))
    spec = {
        "request": 1,
        "schedule": str(folder / "schedule.npy"),
        "sizes": str(folder / "sizes.npy"),
        "l3_bytes": 341,
        "destination": "127.0.0.1",
        "destination_port": port,
        "source_port_base": 0,
    }
    return Stream(spec, "127.0.0.1", folder)


def test_each_packet_has_its_size(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        sender = stream(tmp_path, receiver.getsockname()[1], [56, 1400, 576])
        assert [sender.send(1) for _ in range(3)] == [0, 0, 0]
        sender.close()
        got = [receiver.recv(2048) for _ in range(3)]
    assert [len(each) + IP_UDP_BYTES for each in got] == [56, 1400, 576]
    assert [parse(each) for each in got] == [(1, 0, seq, 0) for seq in range(3)]


def test_sizes_of_another_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 3 sizes"):
        stream(tmp_path, 9, [56, 56])
