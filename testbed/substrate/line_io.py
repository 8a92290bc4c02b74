"""The loop of the line: reads frames, holds each for its time, sends it on.

One AF_PACKET socket serves all directions: it is bound to no interface, so one call reads frames
of all line ends and one call sends to many. The kernel's receive time stamp is what the queue
model counts from, so a frame may be read late without being sent late; that is why, while frames
are in flight, the loop sleeps to the next departure rather than to the next arrival.
Compiled by numba; the libc functions are called directly. 64-bit Linux layouts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from testbed.substrate.line_queue import LAG_BUCKETS, lag_bucket, serialised_at

Int64s = NDArray[np.int64]
Int32s = NDArray[np.int32]

BATCH = 64
SLOT_BYTES = 2048
SLOTS = 65536
_MSG_DONTWAIT = 0x40
_NEVER = 1 << 62
_FAR_NS = 1_000_000_000

# Columns of the counters, one row a direction; the last row counts for the whole line.
FRAMES, L2_BYTES, DROPS, SEND_ERRORS, LAG_MAX_NS, HISTOGRAM = 0, 1, 2, 3, 4, 8
WAKES, STRANGE, KERNEL_DROPS, READY, CPU_NS = 0, 1, 2, 3, 4
COUNTER_COLUMNS = HISTOGRAM + LAG_BUCKETS

_recvmmsg: Any = types.ExternalFunction(
    "recvmmsg", types.int32(types.int32, types.intp, types.uint32, types.int32, types.intp)
)
_sendmmsg: Any = types.ExternalFunction(
    "sendmmsg", types.int32(types.int32, types.intp, types.uint32, types.int32)
)
_ppoll: Any = types.ExternalFunction(
    "ppoll", types.int32(types.intp, types.uint64, types.intp, types.intp)
)
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))


class Tables(NamedTuple):
    """What the loop works on: D directions, SLOTS frame slots, BATCH messages a call.

    direction_of   [highest ifindex + 1] direction whose frames come in there, or -1
    out_ifindex    [D]  interface to which a direction's frames go
    rate_bps, queue_bytes, delay_ns, busy_until_ns, head, tail   [D]; head, tail: slot or -1
    next_slot, due_ns, size   [SLOTS]
    free           [SLOTS + 1] a stack of free slots; its height is in the last place
    arena          [SLOTS, SLOT_BYTES] frames
    receive, send  [BATCH, 8] struct mmsghdr, with [BATCH, 2] struct iovec, [BATCH, 8] struct
                   sockaddr_ll; control: [BATCH, 8] the receive time stamp's control message
    scratch        [4] a timespec, a pollfd and spare
    batch          [BATCH] directions of the messages to send
    counters       [D + 1, COUNTER_COLUMNS]
    """

    direction_of: Int32s
    out_ifindex: Int32s
    rate_bps: Int64s
    queue_bytes: Int64s
    delay_ns: Int64s
    busy_until_ns: Int64s
    head: Int32s
    tail: Int32s
    next_slot: Int32s
    due_ns: Int64s
    size: Int64s
    free: Int32s
    arena: NDArray[np.uint8]
    receive: Int64s
    receive_iov: Int64s
    receive_address: Int32s
    control: Int64s
    send: Int64s
    send_iov: Int64s
    send_address: Int32s
    scratch: Int64s
    batch: Int32s
    counters: Int64s


def _now_ns(scratch: Int64s, clock: int) -> int:
    _clock_gettime(clock, scratch.ctypes.data)
    return int(scratch[0] * 1_000_000_000 + scratch[1])


def _pause(fd: int, wait_ns: int, on_arrival: int, scratch: Int64s) -> int:
    scratch[0] = wait_ns // 1_000_000_000
    scratch[1] = wait_ns % 1_000_000_000
    scratch[2] = fd | (1 << 32)  # struct pollfd: events = POLLIN
    return int(_ppoll(scratch.ctypes.data + 16, on_arrival, scratch.ctypes.data, 0))


now_ns = cast(Callable[[Int64s, int], int], njit(cache=True)(_now_ns))
pause = cast(Callable[[int, int, int, Int64s], int], njit(cache=True)(_pause))


def _admit(t: Tables, i: int, slot: int, offset_ns: int, read_ns: int) -> int:
    """Give message `i` in `slot` its departure; 0 if its slot is free again."""
    ifindex = t.receive_address[i, 1]
    direction = t.direction_of[ifindex] if ifindex < len(t.direction_of) else -1
    whole = t.counters[len(t.counters) - 1]
    if direction < 0:
        whole[STRANGE] += 1
        return 0
    size = t.receive[i, 7] & 0xFFFFFFFF
    stamped_ns = t.control[i, 2] * 1_000_000_000 + t.control[i, 3] - offset_ns
    # A step of the wall clock must not throw a frame into the past or the future.
    arrival_ns = min(read_ns, max(stamped_ns, read_ns - _FAR_NS))
    end_ns = serialised_at(
        arrival_ns,
        t.busy_until_ns[direction],
        size,
        t.rate_bps[direction],
        t.queue_bytes[direction],
    )
    if end_ns < 0:
        t.counters[direction, DROPS] += 1
        return 0
    t.busy_until_ns[direction] = end_ns
    t.due_ns[slot] = end_ns + t.delay_ns[direction]
    t.size[slot] = size
    t.next_slot[slot] = -1
    if t.head[direction] < 0:
        t.head[direction] = slot
    else:
        t.next_slot[t.tail[direction]] = slot
    t.tail[direction] = slot
    return 1


admit = cast(Callable[[Tables, int, int, int, int], int], njit(cache=True)(_admit))


def _read(fd: int, t: Tables) -> int:
    """Read up to BATCH frames into free slots and queue them; returns how many were read."""
    height = t.free[SLOTS]
    count = min(BATCH, height)
    if count == 0:
        return 0
    arena = t.arena.ctypes.data
    for i in range(count):
        t.receive_iov[i, 0] = arena + t.free[height - 1 - i] * SLOT_BYTES
        t.receive[i, 1] = 20
        t.receive[i, 5] = 64
    read = _recvmmsg(fd, t.receive.ctypes.data, count, _MSG_DONTWAIT, 0)
    if read <= 0:
        return 0
    read_ns = now_ns(t.scratch, 1)
    offset_ns = now_ns(t.scratch, 0) - read_ns
    height -= read
    top = height
    # Slots that were used leave the stack; slots of dropped frames go back on it. The stack's
    # order is kept in batch, because going back overwrites the places that are read from.
    for i in range(read):
        t.batch[i] = t.free[height + read - 1 - i]
    for i in range(read):
        slot = t.batch[i]
        if admit(t, i, slot, offset_ns, read_ns) == 0:
            t.free[top] = slot
            top += 1
    t.free[SLOTS] = top
    return int(read)


read_frames = cast(Callable[[int, Tables], int], njit(cache=True)(_read))


def _collect(t: Tables, now: int) -> tuple[int, int]:
    """Put due frames into the send batch; (how many, when the next one is due)."""
    count = 0
    next_ns = _NEVER
    arena = t.arena.ctypes.data
    for direction in range(len(t.head)):
        slot = t.head[direction]
        while slot >= 0 and count < BATCH and t.due_ns[slot] <= now:
            t.send_iov[count, 0] = arena + slot * SLOT_BYTES
            t.send_iov[count, 1] = t.size[slot]
            t.send_address[count, 1] = t.out_ifindex[direction]
            t.send_address[count, 7] = slot
            t.batch[count] = direction
            count += 1
            slot = t.next_slot[slot]
        t.head[direction] = slot
        if slot >= 0:
            next_ns = min(next_ns, t.due_ns[slot])
    return count, next_ns


collect = cast(Callable[[Tables, int], tuple[int, int]], njit(cache=True)(_collect))


def _send(fd: int, t: Tables, count: int) -> None:
    """Send the batch, count it and free its slots."""
    done = 0
    while done < count:
        sent = _sendmmsg(fd, t.send.ctypes.data + done * 64, count - done, _MSG_DONTWAIT)
        if sent <= 0:
            # The call fails for its first message alone (interface down, no memory).
            t.counters[t.batch[done], SEND_ERRORS] += 1
            t.send_iov[done, 1] = 0
            sent = 1
        done += sent
    after_ns = now_ns(t.scratch, 1)
    for i in range(count):
        slot = t.send_address[i, 7]
        row = t.counters[t.batch[i]]
        if t.send_iov[i, 1] > 0:
            lag_ns = after_ns - t.due_ns[slot]
            row[FRAMES] += 1
            row[L2_BYTES] += t.size[slot]
            row[LAG_MAX_NS] = max(row[LAG_MAX_NS], lag_ns)
            row[HISTOGRAM + lag_bucket(lag_ns)] += 1
        t.free[t.free[SLOTS]] = slot
        t.free[SLOTS] += 1


send_frames = cast(Callable[[int, Tables, int], None], njit(cache=True)(_send))


def _pump(fd: int, t: Tables, transit_ns: int, until_ns: int) -> None:
    # While frames come in, the loop reads them when it wakes to send; after a sleep that neither
    # read nor sent anything it lets the next arrival wake it, so that few frames cost few wakes.
    sleepy = False
    while True:
        read = read_frames(fd, t)
        now = now_ns(t.scratch, 1)
        count, next_ns = collect(t, now)
        if count > 0:
            send_frames(fd, t, count)
        if now >= until_ns:
            return
        if read == BATCH or count > 0:
            sleepy = False
            continue
        t.counters[len(t.counters) - 1, WAKES] += 1
        if next_ns == _NEVER:
            interrupted = pause(fd, until_ns - now, 1, t.scratch) < 0
        elif sleepy and read == 0:
            wake_ns = min(next_ns, until_ns)
            interrupted = pause(fd, max(wake_ns - now, 0), 1, t.scratch) < 0
        else:
            sleepy = True
            # A frame that arrives from now on is due after transit_ns at the earliest.
            wake_ns = min(next_ns, until_ns, now + transit_ns)
            interrupted = pause(fd, max(wake_ns - now, 0), 0, t.scratch) < 0
        if interrupted:
            return


pump = cast(Callable[[int, Tables, int, int], None], njit(cache=True)(_pump))
"""(packet socket, tables, transit_ns, until_ns): carry frames until `until_ns` on CLOCK_MONOTONIC
or a signal. `transit_ns` is how long after its arrival a frame is due at the earliest."""


def make_tables(
    directions: list[tuple[int, int, int, int, int]], counters: NDArray[np.int64]
) -> Tables:
    """Tables for directions of (in ifindex, out ifindex, rate_bps, queue_bytes, delay_ns).

    `counters` has the shape [D + 1, COUNTER_COLUMNS].
    """
    count = len(directions)
    columns = np.array(directions, dtype=np.int64).reshape(count, 5)
    direction_of = np.full(int(columns[:, 0].max()) + 1, -1, dtype=np.int32)
    direction_of[columns[:, 0]] = np.arange(count, dtype=np.int32)
    free = np.arange(SLOTS + 1, dtype=np.int32)[::-1].copy()
    free[:SLOTS] = np.arange(SLOTS - 1, -1, -1, dtype=np.int32)
    free[SLOTS] = SLOTS
    tables = Tables(
        direction_of=direction_of,
        out_ifindex=columns[:, 1].astype(np.int32),
        rate_bps=columns[:, 2].copy(),
        queue_bytes=columns[:, 3].copy(),
        delay_ns=columns[:, 4].copy(),
        busy_until_ns=np.zeros(count, dtype=np.int64),
        head=np.full(count, -1, dtype=np.int32),
        tail=np.full(count, -1, dtype=np.int32),
        next_slot=np.full(SLOTS, -1, dtype=np.int32),
        due_ns=np.zeros(SLOTS, dtype=np.int64),
        size=np.zeros(SLOTS, dtype=np.int64),
        free=free,
        arena=np.zeros((SLOTS, SLOT_BYTES), dtype=np.uint8),
        receive=np.zeros((BATCH, 8), dtype=np.int64),
        receive_iov=np.zeros((BATCH, 2), dtype=np.int64),
        receive_address=np.zeros((BATCH, 8), dtype=np.int32),
        control=np.zeros((BATCH, 8), dtype=np.int64),
        send=np.zeros((BATCH, 8), dtype=np.int64),
        send_iov=np.zeros((BATCH, 2), dtype=np.int64),
        send_address=np.zeros((BATCH, 8), dtype=np.int32),
        scratch=np.zeros(4, dtype=np.int64),
        batch=np.zeros(BATCH, dtype=np.int32),
        counters=counters,
    )
    _point(tables.receive, tables.receive_iov, tables.receive_address)
    _point(tables.send, tables.send_iov, tables.send_address)
    tables.receive_iov[:, 1] = SLOT_BYTES
    tables.receive[:, 4] = tables.control.ctypes.data + 64 * np.arange(BATCH)
    tables.send_address[:, 0] = 17  # AF_PACKET; the protocol of a sent frame is in the frame
    return tables


def _point(headers: NDArray[Any], iovs: NDArray[Any], addresses: NDArray[Any]) -> None:
    """Let each message header point to its address (20 bytes) and its one iovec."""
    index = np.arange(BATCH)
    headers[:, 0] = addresses.ctypes.data + 32 * index
    headers[:, 1] = 20
    headers[:, 2] = iovs.ctypes.data + 16 * index
    headers[:, 3] = 1
