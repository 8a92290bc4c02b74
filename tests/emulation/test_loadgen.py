"""The load generator of the benchmarks: what it counts, and two workers over a veth pair."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import numpy as np
import pytest

from bench.rigs.loadgen import (
    Intake,
    Load,
    Received,
    Sent,
    outcome,
    receive_load,
    send_load,
)
from bench.rigs.workers import Place, Worker, WorkerError, namespaces, veth
from testbed.vnf.dataplane import nsh

pytestmark = pytest.mark.emulation

TARGET = (7, 3)
PREFIX = nsh.header_prefix(*TARGET, 0, b"\x06\0\0\0\0\x01")
NUMBER_AT, TIME_AT = 34, 46
NS_PER_S = 1_000_000_000


def load(count: int, rate_pps: int = 20_000, first: int = 0, interface: str = "a") -> Load:
    templates = (PREFIX.ljust(64, b"\1"), PREFIX.ljust(100, b"\2"))
    return Load(interface, templates, NUMBER_AT, TIME_AT, count, rate_pps, first)


def received(*frames: tuple[int, int, int]) -> Received:
    columns = np.array(frames, dtype=np.int64).reshape(-1, 3).T
    return Received(columns[0].copy(), columns[1].copy(), columns[2].copy(), 0)


@pytest.fixture
def workers() -> Iterator[tuple[Worker, Worker]]:
    mark = f"load{os.getpid()}"
    one, other = f"{mark}a", f"{mark}b"
    with namespaces(one, other):
        veth((one, "a"), (other, "b"))
        with (
            Worker(Place(one, min(os.sched_getaffinity(0)))) as sender,
            Worker(Place(other)) as receiver,
        ):
            yield sender, receiver


def test_losses_duplicates_strangers_and_reordering_are_told_apart() -> None:
    frames = received(
        (10, 0, 1000), (12, 0, 2000), (11, 0, 3000), (12, 0, 9000), (14, 0, 4000), (9, 0, 0)
    )
    found = outcome(load(5, first=10), frames)
    assert (found.lost, found.duplicates, found.strange, found.reordered) == (1, 1, 1, 1)
    assert found.latency_p50_us == pytest.approx(2.5)
    assert found.latency_p99_us == pytest.approx(3.97)


def test_nothing_received_is_all_lost() -> None:
    found = outcome(load(3), received())
    assert (found.lost, found.duplicates, found.reordered) == (3, 0, 0)
    assert math.isnan(found.latency_p50_us)


@pytest.mark.parametrize("nap_ns", [0, 1_000_000])
def test_every_frame_is_recorded_with_its_times(
    workers: tuple[Worker, Worker], nap_ns: int
) -> None:
    sender, receiver = workers
    asked = load(3000, first=1 << 40)
    receiver.begin(receive_load, Intake("b", (TARGET,), NUMBER_AT, TIME_AT, 4000, nap_ns=nap_ns))
    sent: Sent = sender.call(send_load, asked)
    got: Received = receiver.result()
    assert sent.sent == 3000
    assert got.numbers.tolist() == list(range(1 << 40, (1 << 40) + 3000))
    assert (got.received_ns > got.sent_ns).all()
    due_ns = sent.start_ns + np.arange(3000) * NS_PER_S // asked.rate_pps
    lag_ns = got.sent_ns - due_ns
    assert lag_ns.min() >= 0
    assert lag_ns.max() == sent.lag_max_ns
    assert sent.end_ns >= sent.start_ns + 2999 * NS_PER_S // asked.rate_pps


def test_a_receiver_ends_when_it_has_no_room(workers: tuple[Worker, Worker]) -> None:
    sender, receiver = workers
    receiver.begin(receive_load, Intake("b", (TARGET,), NUMBER_AT, TIME_AT, 10))
    sender.call(send_load, load(100))
    got: Received = receiver.result()
    assert got.numbers.tolist() == list(range(10))


def test_a_worker_tells_of_its_failure_and_serves_on(workers: tuple[Worker, Worker]) -> None:
    sender, _ = workers
    with pytest.raises(WorkerError, match="No such device"):
        sender.call(send_load, load(1, interface="missing"))
    assert sender.call(send_load, load(1)).sent == 1
