"""The server clock: a FIFO queue in time, exact between processes, free after a kill."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.vnf.dataplane.cpu import ServerCpu

FORK = multiprocessing.get_context("fork")
PER_PROCESS = 5000


@pytest.fixture
def clock(tmp_path: Path) -> ServerCpu:
    return ServerCpu.create(tmp_path / "cpu", 2.0, 1000)


def test_packets_are_served_one_after_the_other_at_the_speed_of_the_server(
    clock: ServerCpu,
) -> None:
    assert clock.admit(100, 600) == 400  # idle: starts at once, 600 / 2 cores
    assert clock.admit(150, 600) == 700  # waits for the first
    assert clock.admit(5000, 600) == 5300  # idle again
    assert clock.sample() == (5300, 900, 3, 0)


def test_a_packet_that_would_wait_too_long_is_dropped_and_takes_no_time(clock: ServerCpu) -> None:
    assert clock.admit(0, 2000) == 1000
    assert clock.admit(0, 2) == 1001  # waits 1000, just the bound
    assert clock.admit(0, 2) is None
    assert clock.admit(1, 2) == 1002
    assert clock.sample() == (1002, 1002, 3, 1)


@given(
    st.floats(0.1, 16),
    st.integers(0, 5000),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 1000)), max_size=50),
)
def test_it_equals_a_queue_written_as_a_sum(
    tmp_path_factory: pytest.TempPathFactory,
    cores: float,
    queue_ns: int,
    arrivals: list[tuple[int, int]],
) -> None:
    clock = ServerCpu.create(tmp_path_factory.mktemp("cpu") / "cpu", cores, queue_ns)
    now_ns, ends, total, dropped = 0, [0], 0, 0
    for gap_ns, cost_ns in arrivals:
        now_ns += gap_ns
        waits_ns = max(0, ends[-1] - now_ns)
        end_ns = clock.admit(now_ns, cost_ns)
        if waits_ns > queue_ns:
            assert end_ns is None
            dropped += 1
        else:
            service_ns = round(cost_ns / cores)
            assert end_ns == now_ns + waits_ns + service_ns
            total += service_ns
            ends.append(end_ns)
    assert clock.sample() == (ends[-1], total, len(ends) - 1, dropped)
    clock.close()


def _admit_many(path: Path, seed: int, result: Connection) -> None:
    clock = ServerCpu.open(path)
    costs = random.Random(seed)
    result.send([clock.admit(0, costs.randrange(1, 100)) for _ in range(PER_PROCESS)])


def test_concurrent_processes_lose_no_update(tmp_path: Path) -> None:
    clock = ServerCpu.create(tmp_path / "cpu", 1.0, 1 << 60)
    pipes = [FORK.Pipe(duplex=False) for _ in range(4)]
    workers = [
        FORK.Process(target=_admit_many, args=(tmp_path / "cpu", seed, pipe[1]))
        for seed, pipe in enumerate(pipes)
    ]
    for worker in workers:
        worker.start()
    ends = [end for pipe in pipes for end in pipe[0].recv()]
    for worker in workers:
        worker.join()
    busy_until_ns, busy_total_ns, admitted, dropped = clock.sample()
    demand_ns = sum(map(_demand_ns, range(4)))
    assert (admitted, dropped) == (4 * PER_PROCESS, 0)
    assert busy_until_ns == busy_total_ns == demand_ns == max(ends)
    assert len(set(ends)) == len(ends)  # no two packets end at once: none was served twice


def _demand_ns(seed: int) -> int:
    costs = random.Random(seed)
    return sum(costs.randrange(1, 100) for _ in range(PER_PROCESS))


def _admit_for_ever(path: Path, started: Connection) -> None:
    clock = ServerCpu.open(path)
    clock.admit(0, 1)
    started.send(None)
    while True:
        clock.admit(0, 1)


def test_killed_processes_leave_the_clock_usable(tmp_path: Path) -> None:
    clock = ServerCpu.create(tmp_path / "cpu", 1.0, 1 << 60)
    for _ in range(20):
        receive, send = FORK.Pipe(duplex=False)
        worker = FORK.Process(target=_admit_for_ever, args=(tmp_path / "cpu", send))
        worker.start()
        receive.recv()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        before_ns = clock.sample()[0]
        assert clock.admit(0, 5) == before_ns + 5


def test_what_is_no_clock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ServerCpu.open(tmp_path / "none")
    (tmp_path / "other").write_bytes(bytes(56))
    with pytest.raises(ValueError, match="not a server clock"):
        ServerCpu.open(tmp_path / "other")
    for cores, queue_ns in ((0.0, 1), (-1.0, 1), (1.0, -1), (float("nan"), 1)):
        with pytest.raises(ValueError, match="expected"):
            ServerCpu.create(tmp_path / "bad", cores, queue_ns)
    ServerCpu.create(tmp_path / "twice", 1.0, 1)
    with pytest.raises(FileExistsError):
        ServerCpu.create(tmp_path / "twice", 1.0, 1)
