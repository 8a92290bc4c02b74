"""System calls and words in memory, as compiled code uses them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from testbed.compiled import compiled
from testbed.vnf.dataplane.system import (
    FOREVER,
    MAX_POLLED,
    now_ns,
    poll_readable,
    poll_set,
    receive_bytes,
    send_bytes,
    take_error,
)
from testbed.vnf.state.arrays import Bytes
from testbed.vnf.state.memory import (
    copy_bytes,
    load_acquire,
    load_u16,
    load_u32,
    store_release,
    store_u32,
)

LONGEST_NS = 10_000_000_000


@compiled
def clock() -> int:
    return now_ns()


@compiled
def words(data: Bytes) -> tuple[int, int, int]:
    store_u32(data, 1, 0xFFFFFFFE)
    store_release(data, 8, 0x1_2345_6789)
    return load_u32(data, 1), load_u16(data, 3), load_acquire(data, 8)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        yield one, other


def numbered(count: int) -> Bytes:
    return np.arange(count, dtype=np.uint8)


def test_the_clock_is_the_monotonic_one() -> None:
    before = time.monotonic_ns()
    now = clock()
    assert before <= now <= time.monotonic_ns()


def test_words_are_positive_and_touch_only_their_bytes() -> None:
    data = np.full(16, 7, dtype=np.uint8)
    assert words(data) == (0xFFFFFFFE, 0xFFFF, 0x23456789)
    assert data[:1].tobytes() + data[5:8].tobytes() + data[12:].tobytes() == b"\7" * 8
    assert data[1:5].tobytes() == (0xFFFFFFFE).to_bytes(4, sys.byteorder)


def test_bytes_are_copied_even_onto_themselves() -> None:
    source, target = numbered(20), np.zeros(20, dtype=np.uint8)
    copy_bytes(target, 3, source, 5, 4)
    assert target.tolist() == [0] * 3 + [5, 6, 7, 8] + [0] * 13
    copy_bytes(source, 1, source, 0, 10)
    assert source.tolist() == [0, *range(10), *range(11, 20)]


def test_datagrams_are_sent_and_received_in_part_of_a_buffer(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one, other = (end.fileno() for end in pair)
    data, room = numbered(50), np.zeros(50, dtype=np.uint8)
    assert send_bytes(one, data, 10, 5) == 5
    assert send_bytes(one, data, 20, 0) == 0
    assert receive_bytes(other, room, 40, 10) == 5
    assert room.tolist() == [0] * 40 + [10, 11, 12, 13, 14] + [0] * 5
    assert receive_bytes(other, room, 0, 50) == 0
    assert receive_bytes(other, room, 0, 50) == -errno.EAGAIN


@pytest.mark.parametrize(("begin", "length"), [(-1, 5), (0, -1), (0, 51), (50, 1), (1 << 40, 1)])
def test_what_is_outside_the_buffer_is_refused(
    pair: tuple[socket.socket, socket.socket], begin: int, length: int
) -> None:
    one, other = pair
    other.send(b"x")
    data = numbered(50)
    assert send_bytes(one.fileno(), data, begin, length) == -errno.EINVAL
    assert receive_bytes(one.fileno(), data, begin, length) == -errno.EINVAL


def test_errors_are_negative_numbers(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    data = numbered(50)
    count = 0
    while (sent := send_bytes(one.fileno(), data, 0, 50)) == 50:
        count += 1
    assert count > 0
    assert sent == -errno.EAGAIN
    assert take_error(one.fileno()) == 0
    other.close()
    assert send_bytes(one.fileno(), data, 0, 1) == -errno.ECONNREFUSED
    assert receive_bytes(-1, data, 0, 1) == -errno.EBADF
    assert take_error(-1) == -errno.EBADF


def test_a_stream_whose_reader_is_gone_gives_an_error_and_no_signal() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    other.close()
    with one:
        assert send_bytes(one.fileno(), numbered(1), 0, 1) == -errno.EPIPE
        assert receive_bytes(one.fileno(), numbered(1), 0, 1) == 0


def test_a_wait_tells_which_descriptors_are_ready(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one, other = pair
    read, write = os.pipe()
    polled = poll_set([one.fileno(), -1, other.fileno(), read])
    assert poll_readable(polled, 0) == 0
    one.send(b"x")
    assert poll_readable(polled, FOREVER) == 0b0100
    other.send(b"x")
    os.close(write)  # hanging up is an event too
    assert poll_readable(polled, LONGEST_NS) == 0b1101
    other.recv(1)
    assert poll_readable(polled, LONGEST_NS) == 0b1001
    os.close(read)


def test_a_wait_is_as_long_as_it_was_asked_for() -> None:
    polled = poll_set([])
    for timeout_ns in (1, 123_456, 1_000_000_001):
        before = time.monotonic_ns()
        assert poll_readable(polled, timeout_ns) == 0
        assert time.monotonic_ns() - before >= timeout_ns


def test_a_signal_ends_a_wait() -> None:
    def note(number: int, context: object) -> None:
        pass

    former = signal.signal(signal.SIGALRM, note)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert poll_readable(poll_set([]), LONGEST_NS) == -errno.EINTR
    finally:
        signal.signal(signal.SIGALRM, former)


def test_a_poll_set_has_a_bound() -> None:
    assert poll_readable(poll_set([-1] * MAX_POLLED), 0) == 0
    with pytest.raises(ValueError, match="63 descriptors"):
        poll_set([-1] * (MAX_POLLED + 1))
    assert poll_readable(np.zeros(1, dtype=np.int64), 0) == -errno.EINVAL
