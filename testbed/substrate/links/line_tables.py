"""The tables of the line's loop: directions, frames and messages.

64-bit Linux layouts of struct mmsghdr, iovec, sockaddr_ll, timespec and pollfd.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.scenario.trace import opportunities_ms
from testbed.substrate.links.line_fate import first_state
from testbed.substrate.links.line_queue import LAG_BUCKETS

Int64s = NDArray[np.int64]
Int32s = NDArray[np.int32]
Float64s = NDArray[np.float64]

BATCH = 64
SLOT_BYTES = 2048
SLOTS = 65536

# Columns of the counters, one row a direction; the last row counts for the whole line.
FRAMES, L2_BYTES, DROPS, SEND_ERRORS, LAG_MAX_NS, LOST, BURST_LOST, CUT = 0, 1, 2, 3, 4, 5, 6, 7
DUPLICATED, REORDERED, HISTOGRAM = 8, 9, 10
WAKES, STRANGE, KERNEL_DROPS, READY, CPU_NS = 0, 1, 2, 3, 4
COUNTER_COLUMNS = HISTOGRAM + LAG_BUCKETS

# Columns of a direction's settings, odds and state.
RATE_BPS, QUEUE_BYTES, DELAY_NS, JITTER_NS, MIXED, UP, TRACE_AT, TRACE_LENGTH = range(8)
LOSS_ODDS, TO_BAD, TO_GOOD, LOSS_BAD, LOSS_GOOD, REORDER_ODDS, DUPLICATE_ODDS = range(7)
STREAM, NUMBER, BAD, BUSY_NS, LAST_NS, CUT_BEFORE, OPPORTUNITY, LEFT_BYTES = range(8)
_SETTINGS, _ODDS, _STATE = 8, 7, 8


class Tables(NamedTuple):
    """D directions, SLOTS frame slots, BATCH messages a call.

    direction_of   [highest ifindex + 1] direction whose frames come in there, or -1
    out_ifindex    [D]  interface to which a direction's frames go
    settings, odds, state   [D, ...] by the columns above: MIXED is 1 if jitter may change the
                   order, TRACE_LENGTH 0 without a trace; NUMBER counts the frames that came,
                   CUT_BEFORE is the order below which what is on the wire is lost
    trace_ms       all traces, one after the other
    begin_ns       [1] where traces begin on CLOCK_MONOTONIC
    due_ns, sent_ns, order, size, copies, wire   [SLOTS]: when a frame leaves the wire, when its
                   last bit is on it, its place in the order of arrival, its direction
    heap           [SLOTS + 1] slots by (due_ns, order); their number is in the last place
    free           [SLOTS + 1] a stack of free slots; its height is in the last place
    arena          [SLOTS, SLOT_BYTES] frames
    receive, send  [BATCH, 8] struct mmsghdr, with [BATCH, 2] struct iovec, [BATCH, 8] struct
                   sockaddr_ll; control: [BATCH, 8] the receive time stamp's control message
    scratch        [5] a timespec, a pollfd, spare, and the order of the next frame
    batch          [BATCH] the slots that were read, or those of the messages to send
    last           [BATCH] 1 if a message is the last one of its slot
    counters       [D + 1, COUNTER_COLUMNS]
    """

    direction_of: Int32s
    out_ifindex: Int32s
    settings: Int64s
    odds: Float64s
    state: Int64s
    trace_ms: Int64s
    begin_ns: Int64s
    due_ns: Int64s
    sent_ns: Int64s
    order: Int64s
    size: Int64s
    copies: Int32s
    wire: Int32s
    heap: Int32s
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
    last: Int32s
    counters: Int64s


class Wire(NamedTuple):
    """A direction as the line is told of it: interface numbers, stream, first settings."""

    in_ifindex: int
    out_ifindex: int
    stream: int
    settings: Mapping[str, Any]


def make_tables(wires: Sequence[Wire], traces: Sequence[str], counters: Int64s) -> Tables:
    """Tables for these directions; `traces` are all files that their settings ever name.

    `counters` has the shape [D + 1, COUNTER_COLUMNS].
    """
    count = len(wires)
    direction_of = np.full(max(wire.in_ifindex for wire in wires) + 1, -1, dtype=np.int32)
    direction_of[[wire.in_ifindex for wire in wires]] = np.arange(count, dtype=np.int32)
    free = np.zeros(SLOTS + 1, dtype=np.int32)
    free[:SLOTS] = np.arange(SLOTS - 1, -1, -1, dtype=np.int32)
    free[SLOTS] = SLOTS
    times = [opportunities_ms(path) for path in traces]
    tables = Tables(
        direction_of=direction_of,
        out_ifindex=np.array([wire.out_ifindex for wire in wires], dtype=np.int32),
        settings=np.zeros((count, _SETTINGS), dtype=np.int64),
        odds=np.zeros((count, _ODDS), dtype=np.float64),
        state=np.zeros((count, _STATE), dtype=np.int64),
        trace_ms=np.concatenate([*times, np.zeros(1, dtype=np.int64)]),
        begin_ns=np.zeros(1, dtype=np.int64),
        due_ns=np.zeros(SLOTS, dtype=np.int64),
        sent_ns=np.zeros(SLOTS, dtype=np.int64),
        order=np.zeros(SLOTS, dtype=np.int64),
        size=np.zeros(SLOTS, dtype=np.int64),
        copies=np.zeros(SLOTS, dtype=np.int32),
        wire=np.zeros(SLOTS, dtype=np.int32),
        heap=np.zeros(SLOTS + 1, dtype=np.int32),
        free=free,
        arena=np.zeros((SLOTS, SLOT_BYTES), dtype=np.uint8),
        receive=np.zeros((BATCH, 8), dtype=np.int64),
        receive_iov=np.zeros((BATCH, 2), dtype=np.int64),
        receive_address=np.zeros((BATCH, 8), dtype=np.int32),
        control=np.zeros((BATCH, 8), dtype=np.int64),
        send=np.zeros((BATCH, 8), dtype=np.int64),
        send_iov=np.zeros((BATCH, 2), dtype=np.int64),
        send_address=np.zeros((BATCH, 8), dtype=np.int32),
        scratch=np.zeros(5, dtype=np.int64),
        batch=np.zeros(BATCH, dtype=np.int32),
        last=np.zeros(BATCH, dtype=np.int32),
        counters=counters,
    )
    _point(tables.receive, tables.receive_iov, tables.receive_address)
    _point(tables.send, tables.send_iov, tables.send_address)
    tables.receive_iov[:, 1] = SLOT_BYTES
    tables.receive[:, 4] = tables.control.ctypes.data + 64 * np.arange(BATCH)
    tables.send_address[:, 0] = 17  # AF_PACKET; the protocol of a sent frame is in the frame
    for direction, wire in enumerate(wires):
        tables.state[direction, STREAM] = wire.stream
        apply_settings(tables, direction, wire.settings, traces, 0)
    restart(tables, 0)
    return tables


def _point(headers: NDArray[Any], iovs: NDArray[Any], addresses: NDArray[Any]) -> None:
    """Let each message header point to its address (20 bytes) and its one iovec."""
    index = np.arange(BATCH)
    headers[:, 0] = addresses.ctypes.data + 32 * index
    headers[:, 1] = 20
    headers[:, 2] = iovs.ctypes.data + 16 * index
    headers[:, 3] = 1


def restart(t: Tables, begin_ns: int) -> None:
    """Begin anew: frames are numbered from 0, states drawn, traces begin at `begin_ns`."""
    t.begin_ns[0] = begin_ns
    for state, odds in zip(t.state, t.odds, strict=True):
        state[NUMBER] = 0
        state[OPPORTUNITY] = -1
        total = odds[TO_BAD] + odds[TO_GOOD]
        state[BAD] = first_state(state[STREAM], odds[TO_BAD] / total if total else 0.0)


def apply_settings(
    t: Tables, direction: int, settings: Mapping[str, Any], traces: Sequence[str], now_ns: int
) -> None:
    """Let a direction have these settings (see `line`) from `now_ns` on.

    What waits leaves at the new rate; what is on the wire keeps its delay. A cut loses both.
    """
    row, odds, state = t.settings[direction], t.odds[direction], t.state[direction]
    old_rate_bps, old_trace = int(row[RATE_BPS]), int(row[TRACE_LENGTH])
    row[RATE_BPS] = settings["rate_bps"]
    row[QUEUE_BYTES] = settings["queue_bytes"]
    row[DELAY_NS] = settings["delay_ns"]
    row[JITTER_NS] = settings["jitter_ns"]
    row[MIXED] = settings["jitter_reorders"]
    row[TRACE_LENGTH] = row[TRACE_AT] = 0
    if settings["trace"] is not None:
        lengths = [len(opportunities_ms(path)) for path in traces]
        place = traces.index(settings["trace"])
        row[TRACE_AT], row[TRACE_LENGTH] = sum(lengths[:place]), lengths[place]
        state[OPPORTUNITY] = -1
    elif old_trace == 0 and state[BUSY_NS] > now_ns > 0:
        _rescale(t, direction, old_rate_bps / int(row[RATE_BPS]), now_ns)
    if row[UP] and not settings["up"]:
        state[CUT_BEFORE] = t.scratch[4]
        state[BUSY_NS] = 0
    row[UP] = settings["up"]
    burst = settings["burst"] or {"to_bad": 0, "to_good": 0, "loss_bad": 0, "loss_good": 0}
    odds[LOSS_ODDS] = settings["loss"]
    odds[TO_BAD], odds[TO_GOOD] = burst["to_bad"], burst["to_good"]
    odds[LOSS_BAD], odds[LOSS_GOOD] = burst["loss_bad"], burst["loss_good"]
    odds[REORDER_ODDS], odds[DUPLICATE_ODDS] = settings["reorder"], settings["duplicate"]


def _rescale(t: Tables, direction: int, factor: float, now_ns: int) -> None:
    """Frames that wait take `factor` times as long to be sent from now on."""
    state = t.state[direction]
    state[BUSY_NS] = now_ns + round((int(state[BUSY_NS]) - now_ns) * factor)
    count = int(t.heap[SLOTS])
    slots = t.heap[:count]
    slots = slots[(t.wire[slots] == direction) & (t.sent_ns[slots] > now_ns)]
    longer_ns = ((t.sent_ns[slots] - now_ns) * (factor - 1.0)).round().astype(np.int64)
    t.sent_ns[slots] += longer_ns
    t.due_ns[slots] += longer_ns
    if len(slots):
        state[LAST_NS] = t.due_ns[slots].max()
    # A list in ascending order is a heap.
    every = t.heap[:count]
    t.heap[:count] = every[np.lexsort((t.order[every], t.due_ns[every]))]


def least_transit_ns(t: Tables) -> int:
    """How long after its arrival a frame is due at the earliest, over all directions."""
    row = t.settings
    wire_ns = np.where(row[:, TRACE_LENGTH] > 0, 0, 60 * 8 * 10**9 // row[:, RATE_BPS])
    delay_ns = np.maximum(row[:, DELAY_NS] - row[:, JITTER_NS], 0)
    delay_ns = np.where(t.odds[:, REORDER_ODDS] > 0, 0, delay_ns)
    return int((wire_ns + delay_ns).min())
