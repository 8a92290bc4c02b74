"""Messages between members as bytes: msgpack, checked strictly on the way in.

A log batch is [1, group_epoch, released, first index, [entry, ...]], an entry [path, flow, bucket,
epoch, seq, lost, out_seq, output, [[key, value], ...]]; an acknowledgement is
[2, group_epoch, index]. The indices of a batch are consecutive.
"""

from __future__ import annotations

from typing import Any, TypeGuard, cast

import msgpack

from testbed.vnf.replication.types import Ack, LogBatch, LogEntry, Message, Stamp, Value

MAX_MESSAGE_BYTES = 65_507
"""What a UDP datagram over IPv4 can carry."""

BATCH_OVERHEAD_BYTES = 40
"""An encoded batch is no longer than this and the `entry_bytes` of its entries."""

_LOG_BATCH = 1
_ACK = 2
_MAX_DEPTH = 8
_ENTRY_OVERHEAD_BYTES = 56
_U16, _U24, _U32, _U64 = 1 << 16, 1 << 24, 1 << 32, 1 << 64


def encode(message: Message) -> bytes:
    """The message as bytes."""
    if isinstance(message, Ack):
        return cast(bytes, msgpack.packb((_ACK, message.group_epoch, message.index)))
    entries = message.entries
    first = entries[0].index if entries else 0
    rows = [_row(entry) for entry in entries]
    head = (_LOG_BATCH, message.group_epoch, message.released, first, rows)
    return cast(bytes, msgpack.packb(head, use_bin_type=True))


def decode(data: bytes) -> Message:
    """Undo `encode`; raises ValueError, and nothing else, for what it did not write."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"message of {len(data)} bytes: expected at most {MAX_MESSAGE_BYTES}")
    # An array that claims more items than the message has bytes is refused before it is made.
    parts: object = msgpack.unpackb(data, use_list=False, raw=False)
    if not isinstance(parts, tuple) or not parts or type(parts[0]) is not int:
        raise ValueError("message: expected an array that begins with its kind")
    if parts[0] == _ACK and len(parts) == 3:
        return Ack(_integer(parts[1], _U64, "group epoch"), _integer(parts[2], _U64, "index"))
    if parts[0] == _LOG_BATCH and len(parts) == 5:
        return _batch(parts)
    raise ValueError(f"message of kind {parts[0]} with {len(parts)} parts: unknown")


def entry_bytes(entry: LogEntry) -> int:
    """An upper bound of what the entry takes in an encoded batch."""
    size = _ENTRY_OVERHEAD_BYTES
    if entry.output is not None:
        size += len(entry.output)
    for key, value in entry.delta:
        size += 6 + len(key) + (1 if value is None else _value_bytes(value))
    return size


def _value_bytes(value: Value) -> int:
    if isinstance(value, int):
        return 9
    if isinstance(value, tuple):
        return 5 + sum(map(_value_bytes, value))
    return 5 + (len(value) if isinstance(value, bytes) else 4 * len(value))


def _row(entry: LogEntry) -> tuple[object, ...]:
    stamp = entry.stamp
    return (
        stamp.path,
        stamp.flow,
        stamp.bucket,
        stamp.epoch,
        stamp.seq,
        entry.lost,
        entry.out_seq,
        entry.output,
        entry.delta,
    )


def _batch(parts: tuple[Any, ...]) -> LogBatch:
    group_epoch = _integer(parts[1], _U64, "group epoch")
    released = _integer(parts[2], _U64, "released")
    first = _integer(parts[3], _U64, "first index")
    rows = parts[4]
    if not isinstance(rows, tuple):
        raise ValueError("log batch: expected an array of entries")
    _integer(first + len(rows), _U64, "next index")
    entries = tuple(_entry(first + offset, row) for offset, row in enumerate(rows))
    return LogBatch(group_epoch, entries, released)


def _entry(index: int, row: object) -> LogEntry:
    if not isinstance(row, tuple) or len(row) != 9:
        raise ValueError(f"log entry {index}: expected an array of 9")
    lost, out_seq, output, delta = row[5:]
    if type(lost) is not bool:
        raise ValueError(f"log entry {index}: expected lost to be a bool")
    if (out_seq is None) != (output is None) or (lost and (output is not None or delta)):
        raise ValueError(f"log entry {index}: lost, out_seq, output and delta contradict")
    if output is not None:
        _integer(out_seq, _U64, "out_seq")
        if type(output) is not bytes:
            raise ValueError(f"log entry {index}: expected output to be bytes")
    if not isinstance(delta, tuple) or not all(map(_is_change, delta)):
        raise ValueError(f"log entry {index}: expected delta to be pairs of a key and a value")
    return LogEntry(index, _stamp(row), lost, out_seq, output, delta)


def _stamp(row: tuple[Any, ...]) -> Stamp:
    return Stamp(
        _integer(row[0], _U24, "path"),
        _integer(row[1], _U32, "flow"),
        _integer(row[2], _U16, "bucket"),
        _integer(row[3], _U16, "epoch"),
        _integer(row[4], _U64, "seq"),
    )


def _integer(value: object, bound: int, name: str) -> int:
    # bool is a subclass of int, hence not isinstance.
    if type(value) is not int or not 0 <= value < bound:
        raise ValueError(f"{name} = {value!r}: expected an integer from 0 to {bound - 1}")
    return value


def _is_change(change: object) -> TypeGuard[tuple[bytes, Value | None]]:
    return (
        isinstance(change, tuple)
        and len(change) == 2
        and type(change[0]) is bytes
        and (change[1] is None or _is_value(change[1], _MAX_DEPTH))
    )


def _is_value(value: object, depth: int) -> bool:
    if type(value) is tuple:
        return depth > 0 and all(_is_value(item, depth - 1) for item in value)
    return type(value) in (int, bytes, str)
