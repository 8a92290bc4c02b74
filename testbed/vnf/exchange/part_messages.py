"""The datagrams of the exchange: a part of a contribution, and the answer that it came.

A contribution is cut into parts of `PART_RECORDS` records, and its note is one more; each part is
a CRDT by itself, so that it does not matter which of them come. With a format number and a digest
of what the records mean, a part is msgpack; its bytes are compressed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import msgpack
import numpy as np

from testbed.vnf.state.arrays import Words

PART_RECORDS = 512
MAX_PART_BYTES = 50_000
"""Of a part before it is compressed; a datagram stays below 60,000 bytes whatever is in it."""
_PART, _ANSWER = "part-1", "answer-1"


@dataclass(frozen=True, slots=True)
class Part:
    """Part number `number` of what a group says: `content` as it was at `version` of its log."""

    shape: int
    group: str
    number: int
    version: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The primary of `group` has that part in that version."""

    group: str
    number: int
    version: int


def shape_of(keys: Words, value_words: int) -> int:
    """Differs if records have other keys or sizes: then parts do not fit."""
    return zlib.crc32(keys.astype("<i8").tobytes(), value_words)


def encode_part(part: Part) -> bytes:
    """The part as a datagram."""
    packed = zlib.compress(part.content, 1)
    return _pack(_PART, part.shape, part.group, part.number, part.version, packed)


def encode_answer(answer: Answer) -> bytes:
    """The answer as a datagram."""
    return _pack(_ANSWER, answer.group, answer.number, answer.version)


def decode(data: bytes) -> Part | Answer:
    """What a datagram says; raises ValueError for what the other two did not write."""
    try:
        message = msgpack.unpackb(data, use_list=False)
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        raise ValueError(f"message: {error}") from None
    if not isinstance(message, tuple) or not message:
        raise ValueError("message: expected an array")
    kind, *fields = message
    types = [type(field) for field in fields]
    if kind == _ANSWER and types == [str, int, int]:
        return Answer(*fields)
    if kind != _PART or types != [int, str, int, int, bytes]:
        raise ValueError(f"message: kind {kind!r} with fields {types}")
    shape, group, number, version, packed = fields
    if number < 0 or version < 0:
        raise ValueError(f"part {number}, version {version}: expected no negative number")
    return Part(shape, group, number, version, _inflated(packed))


def values_in(content: bytes, value_words: int) -> Words:
    """The values [records, value words] in a part; raises ValueError."""
    if len(content) % (8 * value_words):
        raise ValueError(f"part of {len(content)} bytes: expected rows of {value_words} words")
    values = np.frombuffer(content, "<i8").astype(np.int64).reshape(-1, value_words)
    if (values < 0).any():
        raise ValueError("part: expected counts, which are never below 0")
    return values


def _inflated(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(packed, MAX_PART_BYTES)
    except zlib.error as error:
        raise ValueError(f"part: {error}") from None
    if not stream.eof or stream.unused_data:
        raise ValueError(f"part: expected {MAX_PART_BYTES} bytes at most")
    return content


def _pack(*fields: object) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed
