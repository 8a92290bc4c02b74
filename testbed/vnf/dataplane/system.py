"""System calls for compiled code. All are non-blocking but `poll_readable`.

The C functions are found by name when compiled code is loaded, so it can be cached on disk.
64-bit little-endian Linux (x86-64, arm64): the layout of struct pollfd and struct timespec.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.cgutils import ir  # llvmlite's
from numba.extending import intrinsic

from testbed.compiled import compiled
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.memory import address

MAX_POLLED = 62
"""Descriptors in one poll set: a bit each in a positive word."""
FOREVER = -1
ADDRESS_BYTES = 16
"""A struct sockaddr_in."""
_POLLIN = 1
_PASSED_OVER = 1 << 31
"""Makes the descriptor in a word of a poll set negative."""
_MSG_DONTWAIT, _MSG_NOSIGNAL = 0x40, 0x4000
_CLOCK_MONOTONIC = 1
_LOCK_SH, _LOCK_EX, _LOCK_UN = 1, 2, 8
_NS_PER_S = 1_000_000_000
_INVALID, _AGAIN = errno.EINVAL, errno.EAGAIN

_send: Any = types.ExternalFunction(
    "send", types.int64(types.int32, types.intp, types.int64, types.int32)
)
_recv: Any = types.ExternalFunction(
    "recv", types.int64(types.int32, types.intp, types.int64, types.int32)
)
_sendto: Any = types.ExternalFunction(
    "sendto",
    types.int64(types.int32, types.intp, types.int64, types.int32, types.intp, types.int32),
)
_flock: Any = types.ExternalFunction("flock", types.int32(types.int32, types.int32))
_ppoll: Any = types.ExternalFunction(
    "ppoll", types.int32(types.intp, types.int64, types.intp, types.intp)
)


@intrinsic
def now_ns(typing: Any) -> tuple[Any, Any]:
    """() -> CLOCK_MONOTONIC in nanoseconds; no system call where the kernel has a vDSO."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        time = cgutils.alloca_once(builder, ir.ArrayType(word, 2))
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32), time.type])
        function = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(function, [ir.IntType(32)(_CLOCK_MONOTONIC), time])
        seconds = builder.load(cgutils.gep_inbounds(builder, time, 0, 0))
        rest = builder.load(cgutils.gep_inbounds(builder, time, 0, 1))
        return builder.add(builder.mul(seconds, word(_NS_PER_S)), rest)

    return types.int64(), generate


@intrinsic
def _errno(typing: Any) -> tuple[Any, Any]:
    """() -> errno of the calling thread."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number = ir.IntType(32)
        kind = ir.FunctionType(number.as_pointer(), [])
        function = cgutils.get_or_insert_function(builder.module, kind, "__errno_location")
        place = builder.call(function, [])
        return builder.sext(builder.load(place, typ=number), ir.IntType(64))

    return types.int64(), generate


@compiled
def send_bytes(fd: int, buffer: Bytes, begin: int, length: int) -> int:
    """Send buffer[begin : begin + length] as a datagram (or as part of a stream).

    Returns the bytes taken, or -errno: -EAGAIN when there is no room. Never SIGPIPE.
    """
    if begin < 0 or length < 0 or begin + length > len(buffer):
        return -_INVALID
    sent = _send(fd, address(buffer) + begin, length, _MSG_DONTWAIT | _MSG_NOSIGNAL)
    return sent if sent >= 0 else -_errno()


@compiled
def send_words_to(fd: int, buffer: Words, words: int, addresses: Bytes, number: int) -> int:
    """Send buffer[:words] as a datagram to the `number`th address; the bytes taken, or -errno.

    `addresses` has `ADDRESS_BYTES` for each (see `ipv4_endpoint`).
    """
    if words < 0 or words > len(buffer) or (number + 1) * ADDRESS_BYTES > len(addresses):
        return -_INVALID
    target = address(addresses) + number * ADDRESS_BYTES
    flags = _MSG_DONTWAIT | _MSG_NOSIGNAL
    sent = _sendto(fd, address(buffer), 8 * words, flags, target, ADDRESS_BYTES)
    return sent if sent >= 0 else -_errno()


def ipv4_endpoint(host: str, port: int) -> bytes:
    """A struct sockaddr_in; raises OSError for what is no IPv4 address."""
    packed = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port)
    return packed + socket.inet_aton(host) + bytes(8)


@compiled
def lock_file(fd: int, exclusive: bool) -> None:
    """Wait for the lock of an open file (flock); it goes with the process that holds it."""
    _flock(fd, _LOCK_EX if exclusive else _LOCK_SH)


@compiled
def unlock_file(fd: int) -> None:
    """Give the lock back."""
    _flock(fd, _LOCK_UN)


@compiled
def receive_bytes(fd: int, buffer: Bytes, begin: int, room: int) -> int:
    """Receive a datagram (or a part of a stream) into buffer[begin : begin + room].

    Returns its length, or -errno: -EAGAIN when there is nothing. What does not fit is cut off a
    datagram without a word, so give more room than the longest one needs. 0 is an empty datagram
    or the end of a stream.
    """
    if begin < 0 or room < 0 or begin + room > len(buffer):
        return -_INVALID
    received = _recv(fd, address(buffer) + begin, room, _MSG_DONTWAIT)
    return received if received >= 0 else -_errno()


@compiled
def take_error(fd: int) -> int:
    """The error that waits at a packet socket, as -errno, and take it off; 0 if there is none.

    An interface that goes down leaves one. Until it is taken, the socket polls as ready.
    """
    if _recv(fd, 0, 0, _MSG_DONTWAIT) >= 0:
        return 0
    error = _errno()
    return 0 if error == _AGAIN else -error


@compiled
def flush(fd: int) -> int:
    """Let the kernel send what waits in a packet ring; what was sent in bytes, or -errno."""
    sent = _send(fd, 0, 0, _MSG_DONTWAIT)
    return sent if sent >= 0 else -_errno()


def poll_set(fds: Iterable[int]) -> Words:
    """What `poll_readable` waits for. Raises ValueError for more than `MAX_POLLED` descriptors.

    A struct pollfd a word (descriptor, then POLLIN), then two words of its own use. A negative
    descriptor is passed over.
    """
    words = [fd & 0xFFFFFFFF | _POLLIN << 32 for fd in fds]
    if len(words) > MAX_POLLED:
        raise ValueError(f"{len(words)} descriptors to wait for: expected {MAX_POLLED} at most")
    return np.array([*words, 0, 0], dtype=np.int64)


@compiled
def poll_others(polled: Words, timeout_ns: int) -> int:
    """As `poll_readable`, but without the first descriptor."""
    first = polled[0]
    polled[0] = first | _PASSED_OVER
    ready = poll_readable(polled, timeout_ns)
    polled[0] = first
    return ready


@compiled
def poll_readable(polled: Words, timeout_ns: int) -> int:
    """Wait until a descriptor of a `poll_set` can be read or has failed, or the time is over.

    Returns a word in which bit i stands for descriptor i, 0 if none was ready in time, or -errno:
    -EINTR for a signal. `timeout_ns` is 0 to look without waiting, `FOREVER` to wait for good.
    The kernel may be late by the thread's timer slack.
    """
    count = len(polled) - 2
    if count < 0:
        return -_INVALID
    until = 0
    if timeout_ns >= 0:
        polled[count] = timeout_ns // _NS_PER_S
        polled[count + 1] = timeout_ns % _NS_PER_S
        until = address(polled) + 8 * count
    ready = _ppoll(address(polled), count, until, 0)
    if ready < 0:
        return -_errno()
    found = 0
    if ready > 0:
        for i in range(count):
            # What happened is in the word's upper 16 bits; the sign is one of them.
            if (polled[i] >> 48) & 0xFFFF != 0:
                found |= 1 << i
    return found
