"""The codec: what is sent is what arrives, and nothing else is let in."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.vnf.replication.codec import (
    BATCH_OVERHEAD_BYTES,
    MAX_MESSAGE_BYTES,
    decode,
    encode,
    entry_bytes,
)
from testbed.vnf.replication.types import Ack, LogBatch, LogEntry, Message, Stamp

U64 = (1 << 64) - 1
UNTIMED = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=200
)
ROW = [1, 2, 3, 4, 5, False, 6, b"out", [[b"key", 7]]]

values = st.recursive(
    st.integers(-(1 << 63), U64) | st.binary(max_size=300) | st.text("aé€𝄞", max_size=60),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
)
deltas = st.lists(st.tuples(st.binary(max_size=40), values | st.none()), max_size=6).map(tuple)
stamps = st.builds(
    Stamp,
    path=st.integers(0, (1 << 24) - 1),
    flow=st.integers(0, (1 << 32) - 1),
    bucket=st.integers(0, (1 << 16) - 1),
    epoch=st.integers(0, (1 << 16) - 1),
    seq=st.integers(0, U64),
)


@st.composite
def batches(draw: st.DrawFn) -> LogBatch:
    first = draw(st.integers(0, U64 - 4))
    entries = []
    for index in range(first, first + draw(st.integers(0, 4))):
        output = draw(st.none() | st.binary(max_size=1500))
        out_seq = None if output is None else draw(st.integers(0, U64))
        lost = output is None and draw(st.booleans())
        delta = () if lost else draw(deltas)
        entries.append(LogEntry(index, draw(stamps), lost, out_seq, output, delta))
    return LogBatch(draw(st.integers(0, U64)), tuple(entries), draw(st.integers(0, U64)))


@UNTIMED
@given(batches() | st.builds(Ack, st.integers(0, U64), st.integers(0, U64)))
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message


@UNTIMED
@given(batches())
def test_the_size_of_entries_bounds_the_size_of_the_message(batch: LogBatch) -> None:
    bound = BATCH_OVERHEAD_BYTES + sum(map(entry_bytes, batch.entries))
    assert len(encode(batch)) <= bound


@UNTIMED
@given(st.binary(max_size=200))
def test_noise_is_a_value_error_or_a_message(data: bytes) -> None:
    _is_refused_or_decoded(data)


@UNTIMED
@given(batches(), st.data())
def test_a_damaged_message_is_a_value_error_or_a_message(
    batch: LogBatch, data: st.DataObject
) -> None:
    damaged = bytearray(encode(batch))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    _is_refused_or_decoded(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    _is_refused_or_decoded(bytes(damaged))


def _is_refused_or_decoded(data: bytes) -> None:
    try:
        message = decode(data)
    except ValueError:
        return
    assert decode(encode(message)) == message


def _with(position: int, value: object) -> list[object]:
    return [*ROW[:position], value, *ROW[position + 1 :]]


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_the_row_that_the_next_test_spoils_is_right() -> None:
    message = decode(msgpack.packb([1, 0, 0, 9, [ROW]]))
    entry = LogEntry(9, Stamp(1, 2, 3, 4, 5), False, 6, b"out", ((b"key", 7),))
    assert message == LogBatch(0, (entry,), 0)


@pytest.mark.parametrize(
    "row",
    [
        ROW[:-1],
        [*ROW, 0],
        {"a": 1},
        _with(0, 1 << 24),
        _with(0, -1),
        _with(0, True),
        _with(0, 1.0),
        _with(1, 1 << 32),
        _with(2, 1 << 16),
        _with(3, 1 << 16),
        _with(4, None),
        _with(5, 0),
        _with(5, True),
        _with(6, None),
        _with(6, "6"),
        _with(7, None),
        _with(7, "out"),
        _with(8, None),
        _with(8, {b"key": 7}),
        _with(8, [[b"key"]]),
        _with(8, [["key", 7]]),
        _with(8, [[b"key", 7.5]]),
        _with(8, [[b"key", True]]),
        _with(8, [[b"key", {}]]),
        _with(8, [[b"key", [None]]]),
        _with(8, [[b"key", _nested(9)]]),
        _with(8, [[b"key", _nested(400)]]),
        [1, 2, 3, 4, 5, True, None, None, [[b"key", 7]]],
    ],
)
def test_an_entry_that_is_not_one_is_refused(row: object) -> None:
    with pytest.raises(ValueError, match=r"expected|contradict"):
        decode(msgpack.packb([1, 0, 0, 9, [row]]))


@pytest.mark.parametrize(
    "message",
    [
        [],
        0,
        None,
        {},
        [3, 0, 0],
        [True, 0, 0],
        ["2", 0, 0],
        [2, 0],
        [2, 0, -1],
        [2, 0, 1.5],
        [2, None, 1],
        [1, 0, 0, 0],
        [1, 0, 0, 0, None],
        [1, 0, 0, 0, {}],
        [1, 0, -1, 0, []],
        [1, 0, 0, U64, [ROW, ROW]],
    ],
)
def test_a_message_that_is_not_one_is_refused(message: object) -> None:
    with pytest.raises(ValueError, match=r"expected|unknown"):
        decode(msgpack.packb(message))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode(Ack(0, 1)) + b"\x00",
        encode(Ack(0, 1 << 40))[:-1],
        b"\xdd\xff\xff\xff\xff",
        b"\xc1",
        b"\x91" * 5000,
        b"\x93\x02\x00\xd5\xff\x00\x00",
        bytes(MAX_MESSAGE_BYTES + 1),
    ],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)
