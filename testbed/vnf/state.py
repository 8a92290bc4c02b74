"""The state of a network function: what it is made of, how it changes, how it travels.

State is a flat mapping from byte strings to values of integers, byte strings, text and tuples of
these. A delta is the only way to change it. Encoding goes through msgpack with tuples on both
sides, so that a state that has travelled equals the state that was sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TypeAlias, cast

import msgpack

Key: TypeAlias = bytes
Value: TypeAlias = "int | bytes | str | tuple[Value, ...]"
"""Integers lie in -2**63 .. 2**64 - 1. No bool, float, list or None: None deletes in a delta."""
State: TypeAlias = dict[Key, Value]
Delta: TypeAlias = "tuple[tuple[Key, Value | None], ...]"
"""Changes in order; a later one for the same key wins; the value None deletes the key."""


def apply_delta(
    state: MutableMapping[Key, Value], delta: Iterable[tuple[Key, Value | None]]
) -> None:
    """Change `state` in place; deleting a key that is absent does nothing."""
    for key, value in delta:
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value


def digest(state: Mapping[Key, Value]) -> bytes:
    """16 bytes that are equal for equal states, whatever the order of insertion."""
    packed = msgpack.packb(sorted(state.items(), key=lambda item: item[0]), use_bin_type=True)
    return hashlib.blake2b(packed, digest_size=16).digest()


def encode_state(state: Mapping[Key, Value]) -> bytes:
    """The whole state as bytes, for a snapshot; equal states give equal bytes."""
    pairs = sorted(state.items(), key=lambda item: item[0])
    return cast(bytes, msgpack.packb(pairs, use_bin_type=True))


def decode_state(data: bytes) -> State:
    """Undo `encode_state`; raises ValueError if `data` is not what it wrote."""
    return cast(State, dict(_unpack_pairs(data)))


def encode_delta(delta: Delta) -> bytes:
    """A delta as bytes."""
    return cast(bytes, msgpack.packb(delta, use_bin_type=True))


def decode_delta(data: bytes) -> Delta:
    """Undo `encode_delta`; raises ValueError if `data` is not what it wrote."""
    return _unpack_pairs(data)


def _unpack_pairs(data: bytes) -> tuple[tuple[Key, Value | None], ...]:
    # use_list=False keeps tuples tuples, which makes a travelled state equal to its origin.
    pairs = msgpack.unpackb(data, use_list=False, raw=False)
    if not isinstance(pairs, tuple) or not all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], bytes) for pair in pairs
    ):
        raise ValueError("encoded state or delta: expected pairs of a byte string and a value")
    return pairs
