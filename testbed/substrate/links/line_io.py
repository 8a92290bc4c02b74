"""The loop of the line: reads frames, holds each for its time, sends it on.

One AF_PACKET socket serves all directions: it is bound to no interface, so one call reads frames
of all line ends and one call sends to many. The kernel's receive time stamp is what the queue
model counts from, so a frame may be read late without being sent late; that is why, while frames
are in flight, the loop sleeps to the next departure rather than to the next arrival.
Compiled by numba; the libc functions are called directly.
"""

from __future__ import annotations

from typing import Any

from numba import types

from testbed.compiled import compiled_view
from testbed.substrate.links.line_fate import (
    DUPLICATE,
    LOSS,
    REORDER,
    STATE_LOSS,
    draw,
    jitter_ns,
    next_state,
)
from testbed.substrate.links.line_queue import (
    delivered_at,
    first_opportunity,
    lag_bucket,
    opportunity_ns,
    serialised_at,
)
from testbed.substrate.links.line_tables import (
    BAD,
    BATCH,
    BURST_LOST,
    BUSY_NS,
    CUT,
    CUT_BEFORE,
    DELAY_NS,
    DROPS,
    DUPLICATE_ODDS,
    DUPLICATED,
    FRAMES,
    HISTOGRAM,
    JITTER_NS,
    L2_BYTES,
    LAG_MAX_NS,
    LAST_NS,
    LEFT_BYTES,
    LOSS_BAD,
    LOSS_GOOD,
    LOSS_ODDS,
    LOST,
    MIXED,
    NUMBER,
    OPPORTUNITY,
    QUEUE_BYTES,
    RATE_BPS,
    REORDER_ODDS,
    REORDERED,
    SEND_ERRORS,
    SLOT_BYTES,
    SLOTS,
    STRANGE,
    STREAM,
    TO_BAD,
    TO_GOOD,
    TRACE_AT,
    TRACE_LENGTH,
    UP,
    WAKES,
    Int64s,
    Tables,
)

_MSG_DONTWAIT = 0x40
_NEVER = 1 << 62
_FAR_NS = 1_000_000_000
_SHORT_NS = 100_000
"""A transit that leaves no time to sleep through arrivals."""
_ETHERNET_BYTES = 14

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


@compiled_view
def now_ns(scratch: Int64s, clock: int) -> int:
    """A clock of the kernel by its number."""
    _clock_gettime(clock, scratch.ctypes.data)
    return int(scratch[0] * 1_000_000_000 + scratch[1])


@compiled_view
def pause(fd: int, wait_ns: int, on_arrival: int, scratch: Int64s) -> int:
    """Sleep, and if `on_arrival` is 1 no longer than until a frame comes; below 0 for a signal."""
    scratch[0] = wait_ns // 1_000_000_000
    scratch[1] = wait_ns % 1_000_000_000
    scratch[2] = fd | (1 << 32)  # struct pollfd: events = POLLIN
    return int(_ppoll(scratch.ctypes.data + 16, on_arrival, scratch.ctypes.data, 0))


@compiled_view
def before(t: Tables, a: int, b: int) -> bool:
    """Whether slot `a` leaves before slot `b`."""
    if t.due_ns[a] != t.due_ns[b]:
        return bool(t.due_ns[a] < t.due_ns[b])
    return bool(t.order[a] < t.order[b])


@compiled_view
def push(t: Tables, slot: int) -> None:
    """Put a slot into the heap."""
    at = t.heap[SLOTS]
    t.heap[SLOTS] = at + 1
    while at > 0:
        parent = (at - 1) // 2
        if not before(t, slot, t.heap[parent]):
            break
        t.heap[at] = t.heap[parent]
        at = parent
    t.heap[at] = slot


@compiled_view
def pop(t: Tables) -> int:
    """Take the slot that leaves first out of the heap, which must not be empty."""
    first = t.heap[0]
    count = t.heap[SLOTS] - 1
    t.heap[SLOTS] = count
    slot = t.heap[count]
    at = 0
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and before(t, t.heap[child + 1], t.heap[child]):
            child += 1
        if not before(t, t.heap[child], slot):
            break
        t.heap[at] = t.heap[child]
        at = child
    t.heap[at] = slot
    return int(first)


@compiled_view
def sent_at(t: Tables, direction: int, arrival_ns: int, size: int) -> int:
    """When a frame's last bit is on the wire, or below 0 if the queue has no room."""
    settings, state = t.settings[direction], t.state[direction]
    if settings[TRACE_LENGTH] == 0:
        end_ns = serialised_at(
            arrival_ns, state[BUSY_NS], size, settings[RATE_BPS], settings[QUEUE_BYTES]
        )
        if end_ns >= 0:
            state[BUSY_NS] = end_ns
        return int(end_ns)
    at = settings[TRACE_AT]
    times_ms = t.trace_ms[at : at + settings[TRACE_LENGTH]]
    first = first_opportunity(times_ms, t.begin_ns[0], arrival_ns)
    number, left = delivered_at(
        first,
        state[OPPORTUNITY],
        state[LEFT_BYTES],
        size - _ETHERNET_BYTES,
        settings[QUEUE_BYTES],
    )
    if number < 0:
        return int(number)
    state[OPPORTUNITY] = number
    state[LEFT_BYTES] = left
    return int(opportunity_ns(times_ms, t.begin_ns[0], number))


@compiled_view
def loss_of(t: Tables, direction: int, number: int) -> int:
    """The counter of the reason why chance loses this frame, or -1. Moves the state one step."""
    odds, state = t.odds[direction], t.state[direction]
    reason = -1
    if odds[TO_BAD] > 0.0 or odds[LOSS_GOOD] > 0.0 or state[BAD]:
        share = odds[LOSS_BAD] if state[BAD] else odds[LOSS_GOOD]
        if draw(state[STREAM], number, STATE_LOSS) < share:
            reason = BURST_LOST
        state[BAD] = next_state(state[STREAM], number, state[BAD], odds[TO_BAD], odds[TO_GOOD])
    if odds[LOSS_ODDS] > 0.0 and draw(state[STREAM], number, LOSS) < odds[LOSS_ODDS]:
        reason = LOST
    return reason


@compiled_view
def accept(t: Tables, direction: int, slot: int, size: int, arrival_ns: int) -> int:
    """Give a frame in `slot` its departure; 0 if it is lost and its slot free again."""
    settings, odds, state = t.settings[direction], t.odds[direction], t.state[direction]
    counters = t.counters[direction]
    number = state[NUMBER]
    state[NUMBER] = number + 1
    reason = loss_of(t, direction, number)
    if settings[UP] == 0:
        counters[CUT] += 1
        return 0
    end_ns = sent_at(t, direction, arrival_ns, size)
    if end_ns < 0:
        reason = DROPS
    if reason >= 0:
        counters[reason] += 1
        return 0
    stream = state[STREAM]
    if odds[REORDER_ODDS] > 0.0 and draw(stream, number, REORDER) < odds[REORDER_ODDS]:
        counters[REORDERED] += 1
        due_ns = end_ns
    else:
        delay_ns = settings[DELAY_NS]
        due_ns = end_ns + delay_ns + jitter_ns(stream, number, delay_ns, settings[JITTER_NS])
        if settings[MIXED] == 0:
            due_ns = max(due_ns, state[LAST_NS])
        state[LAST_NS] = due_ns
    twice = odds[DUPLICATE_ODDS] > 0.0 and draw(stream, number, DUPLICATE) < odds[DUPLICATE_ODDS]
    t.copies[slot] = 2 if twice else 1
    t.due_ns[slot] = due_ns
    t.sent_ns[slot] = end_ns
    t.size[slot] = size
    t.wire[slot] = direction
    t.order[slot] = t.scratch[4]
    t.scratch[4] += 1
    push(t, slot)
    return 1


@compiled_view
def admit(t: Tables, i: int, slot: int, offset_ns: int, read_ns: int) -> int:
    """Take message `i`, which lies in `slot`; 0 if the slot is free again."""
    ifindex = t.receive_address[i, 1]
    direction = t.direction_of[ifindex] if ifindex < len(t.direction_of) else -1
    if direction < 0:
        t.counters[len(t.counters) - 1, STRANGE] += 1
        return 0
    size = t.receive[i, 7] & 0xFFFFFFFF
    stamped_ns = t.control[i, 2] * 1_000_000_000 + t.control[i, 3] - offset_ns
    # A step of the wall clock must not throw a frame into the past or the future.
    arrival_ns = min(read_ns, max(stamped_ns, read_ns - _FAR_NS))
    return int(accept(t, direction, slot, size, arrival_ns))


@compiled_view
def read_frames(fd: int, t: Tables) -> int:
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


@compiled_view
def collect(t: Tables, now: int) -> tuple[int, int]:
    """Put due frames into the send batch; (how many, when the next one is due)."""
    count = 0
    arena = t.arena.ctypes.data
    while t.heap[SLOTS] > 0:
        slot = t.heap[0]
        if t.due_ns[slot] > now or count + t.copies[slot] > BATCH:
            return count, int(t.due_ns[slot])
        pop(t)
        direction = t.wire[slot]
        if t.order[slot] < t.state[direction, CUT_BEFORE]:
            t.counters[direction, CUT] += 1
            t.free[t.free[SLOTS]] = slot
            t.free[SLOTS] += 1
            continue
        for copy in range(t.copies[slot]):
            t.send_iov[count, 0] = arena + slot * SLOT_BYTES
            t.send_iov[count, 1] = t.size[slot]
            t.send_address[count, 1] = t.out_ifindex[direction]
            t.batch[count] = slot
            t.last[count] = copy + 1 == t.copies[slot]
            t.counters[direction, DUPLICATED] += copy > 0
            count += 1
    return count, _NEVER


@compiled_view
def send_frames(fd: int, t: Tables, count: int) -> None:
    """Send the batch, count it and free its slots."""
    done = 0
    while done < count:
        sent = _sendmmsg(fd, t.send.ctypes.data + done * 64, count - done, _MSG_DONTWAIT)
        if sent <= 0:
            # The call fails for its first message alone (interface down, no memory).
            t.counters[t.wire[t.batch[done]], SEND_ERRORS] += 1
            t.send_iov[done, 1] = 0
            sent = 1
        done += sent
    after_ns = now_ns(t.scratch, 1)
    for i in range(count):
        slot = t.batch[i]
        row = t.counters[t.wire[slot]]
        if t.send_iov[i, 1] > 0:
            lag_ns = after_ns - t.due_ns[slot]
            row[FRAMES] += 1
            row[L2_BYTES] += t.size[slot]
            row[LAG_MAX_NS] = max(row[LAG_MAX_NS], lag_ns)
            row[HISTOGRAM + lag_bucket(lag_ns)] += 1
        if t.last[i]:
            t.free[t.free[SLOTS]] = slot
            t.free[SLOTS] += 1


@compiled_view
def pump(fd: int, t: Tables, transit_ns: int, until_ns: int) -> None:
    """Carry frames of a packet socket until `until_ns` on CLOCK_MONOTONIC or a signal.

    `transit_ns` is how long after its arrival a frame is due at the earliest. While frames come
    in, the loop reads them when it wakes to send; after a sleep that neither read nor sent
    anything it lets the next arrival wake it, so that few frames cost few wakes.
    """
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
        elif transit_ns < _SHORT_NS or (sleepy and read == 0):
            wake_ns = min(next_ns, until_ns)
            interrupted = pause(fd, max(wake_ns - now, 0), 1, t.scratch) < 0
        else:
            sleepy = True
            # A frame that arrives from now on is due after transit_ns at the earliest; it may
            # come late by as much as it takes to read it.
            wake_ns = min(next_ns, until_ns, now + transit_ns // 2)
            interrupted = pause(fd, max(wake_ns - now, 0), 0, t.scratch) < 0
        if interrupted:
            return
